"""What a report of a training shows besides the model card.

It is collected while the rows are at hand. It travels in the artefact, so its size is bounded whatever the number of
rows, features and entities.
"""

from collections.abc import Callable
from typing import Annotated, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field

from training.data.evidence import VectorFlags
from training.data.selection import Selection
from training.data.window import Window
from training.fitting.champion_scores import ChampionScores, scaler_rows
from training.fitting.fit import Fitted, Rows
from training.gate.gate import Verdict
from training.rows.thinning import spread_evenly
from worker.models import Detector, EntityScaler
from worker.models.wavelet import by_feature, newest
from worker.native.arrays import Bools, Float64s, Int64s

BINS: Final = 120  # of the window's time
POINTS: Final = 400  # of a curve, or of a cloud
RARE: Final = 100  # of the least p-values, in a cloud besides
FEATURES: Final = 30  # the worst
WORST: Final = 20  # rows
GUILTY: Final = 4  # features of such a row
NAME: Final = 120  # characters
_LOOKED_AT: Final = 50_000  # rows that are scored for it
_REBUILT: Final = 20_000
_BATCH: Final = 4096
_OUTLYING: Final = 0.001  # of the rows: a clock that is wrong must not squeeze all others into one bin


class _Part(BaseModel):
    """A part of the report. All of its numbers are finite, or None."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Numbers = Annotated[tuple[float, ...], Field(max_length=1000)]
Counts = Annotated[tuple[int, ...], Field(max_length=1000)]
Name = Annotated[str, Field(max_length=NAME)]


class Timeline(_Part):
    """The rows in equal parts of the time from `begin` to `end`, in ms.

    They are counted by their use, of which each row has exactly one, and by their evidence flags.
    """

    begin: int
    end: int
    since: int | None
    uses: dict[Name, Counts]
    known: dict[Name, Counts]


class Training(_Part):
    """The losses at each look at the held-out rows."""

    epoch: Numbers
    loss: Numbers
    held_out: Numbers


class Tail(_Part):
    """The tail of the scores: the `share` [k] of the `rows` that reach `score` [k]; the fit starts at `begins`."""

    rows: int
    score: Numbers
    share: Numbers
    begins: float
    fit_score: Numbers
    fit_share: Numbers


class Kept(_Part):
    """The share of the gate's rows that has at most these p-values, by the new model and by the champion."""

    p_value: Numbers
    observed: Numbers
    champion: Numbers | None


class Cloud(_Part):
    """The p-values of the gate's rows by both models: an even sample, and the rarest rows."""

    p_value: Numbers
    champion: Numbers


class Feature(_Part):
    """What a report says of a feature.

    `error` is the root mean square of the reconstruction error, in standard deviations of the readings; None if the
    readings do not change. `missing` is the share of readings that are missing, or, with windows, that the coefficients
    do not determine.
    """

    name: Name
    error: float | None
    missing: float


class Features(_Part):
    """The `worst` reconstructed features of `of` in all, and the `median` error."""

    of: int
    median: float | None
    worst: Annotated[tuple[Feature, ...], Field(max_length=FEATURES)]


class Guilty(_Part):
    """A feature that is blamed for a row: its reading, what was expected, and its share of the blame."""

    name: Name
    actual: float | None
    expected: float
    share: float


class Worst(_Part):
    """A row that was not fitted to, and what is known of it."""

    time: int
    entity: Name
    use: Name
    known: Annotated[tuple[Name, ...], Field(max_length=10)]
    score: float
    p_value: float
    features: Annotated[tuple[Guilty, ...], Field(max_length=GUILTY)]


class Codes(_Part):
    """The codes of held-out rows in their two main directions of `of`; `share` is the variance that each explains."""

    of: int
    share: tuple[float, float]
    x: Numbers
    y: Numbers
    p_value: Numbers


class Report(_Part):
    """What a report shows. `format` changes where an older program could not read it."""

    format: Literal[1] = 1
    looked_at: int
    timeline: Timeline
    training: Training
    tail: Tail
    kept: Kept
    cloud: Cloud | None
    features: Features
    worst: Annotated[tuple[Worst, ...], Field(max_length=WORST)]
    codes: Codes


def collect(
    rows: Window, selected: Selection, fitted: Fitted, verdict: Verdict, champion: ChampionScores | None = None
) -> Report:
    """Collect the report; `champion` has the champion's scores of all rows."""
    looked_at = _thinned(np.flatnonzero(~selected.fit), _LOOKED_AT)
    opinion = _Opinion(fitted.detector, rows, looked_at)
    expected = verdict.figures["false_alarms"]["expected"]
    return Report(
        looked_at=len(looked_at),
        timeline=_timeline(rows, selected),
        training=Training(
            epoch=_short([r.epoch for r in fitted.rounds]),
            loss=_short([r.loss for r in fitted.rounds]),
            held_out=_short([r.held_out_loss for r in fitted.rounds]),
        ),
        tail=_tail(fitted),
        kept=_kept(opinion, selected, champion),
        cloud=None if champion is None else _cloud(opinion, selected, champion),
        features=_features(opinion, selected, expected),
        worst=_worst(opinion, selected),
        codes=_codes(opinion, selected),
    )


class _Opinion:
    """The new model's view of the window's rows `indices` [m], which are numbered 0 to m - 1 from here on."""

    def __init__(self, detector: Detector, rows: Window, indices: Int64s):
        self.detector, self.rows, self.at = detector, rows, indices
        self.x = rows.x[indices]
        self.scaler = scaler_rows(detector, rows.entity[indices], rows.entities)
        self.score = self.of(detector.module, np.arange(len(indices))).astype(np.float64)
        self.p_value = detector.calibration.p_value(self.score)

    def of(self, function: Callable[[torch.Tensor], torch.Tensor], rows: Int64s) -> Rows:
        """Apply `function` to these rows, in the units of the model."""
        with torch.inference_mode():
            parts = [function(self.scaled(rows[i : i + _BATCH])) for i in range(0, max(len(rows), 1), _BATCH)]
        return torch.cat(parts).numpy()

    def scaled(self, rows: Int64s) -> torch.Tensor:
        x = torch.from_numpy(self.x[rows])
        return x if self.scaler is None else self._entities(x, torch.from_numpy(self.scaler[rows]))

    def own(self, x: torch.Tensor, rows: Int64s) -> torch.Tensor:
        """Return values in the model's units in the rows' own units."""
        return x if self.scaler is None else self._entities.inverse(x, torch.from_numpy(self.scaler[rows]))

    @property
    def _entities(self) -> EntityScaler:
        assert self.detector.entities is not None
        return self.detector.entities

    def having(self, use: Bools) -> Int64s:
        """Return the rows of this use that could be scored."""
        return np.flatnonzero(use[self.at] & np.isfinite(self.score))


def _timeline(rows: Window, selected: Selection) -> Timeline:
    time = rows.time.astype(np.float64)
    begin, end = float(time.min()), float(time.max())
    low, high = np.quantile(time, (_OUTLYING, 1 - _OUTLYING))
    if end - begin > 2 * (high - low) > 0:
        begin, end = float(low), float(high)
    bin_of = ((time - begin) / max(end - begin, 1.0) * BINS).clip(0, BINS - 1).astype(int)

    def counts(selected_rows: Bools) -> tuple[int, ...]:
        return tuple(np.bincount(bin_of[selected_rows], minlength=BINS).tolist())

    used = selected.fit | selected.calibrate | selected.gate
    changed = selected.drift if selected.regime is None else selected.regime
    uses = {"fitted": selected.fit, "calibrated": selected.calibrate, "gate": selected.gate, "left out": ~used}
    return Timeline(
        begin=int(begin),
        end=int(end),
        since=None if changed is None else int(rows.time[changed]),
        uses={name: counts(selected_rows) for name, selected_rows in uses.items()},
        known={_word(flag): counts(rows.is_known(flag)) for flag in VectorFlags},
    )


def _word(flag: VectorFlags) -> str:
    return str(flag.name).lower()


def _tail(fitted: Fitted) -> Tail:
    """Describe the tail of the scores that the calibration was made of."""
    calibration, n = fitted.detector.calibration, len(fitted.scores)
    falling = np.sort(fitted.scores)[::-1]
    ranks = np.unique(np.geomspace(1, n, POINTS).round().astype(int))
    begins = float(calibration.body[-1])
    grid = np.linspace(begins, max(calibration.threshold(0.1 / n), float(falling[0])), 60)
    return Tail(
        rows=n,
        score=_short(falling[ranks - 1]),
        share=_short(ranks / n),
        begins=_short([begins])[0],
        fit_score=_short(grid),
        fit_share=_short(calibration.p_value(grid)),
    )


def _kept(opinion: _Opinion, selected: Selection, champion: ChampionScores | None) -> Kept:
    held_out = opinion.having(selected.gate)
    grid = np.geomspace(max(0.3 / max(len(held_out), 1), 1e-7), 1, 120)

    def observed(p_values: Float64s) -> tuple[float, ...]:
        sorted_p_values = np.sort(p_values[np.isfinite(p_values)])
        return _short(np.searchsorted(sorted_p_values, grid, "right") / max(len(sorted_p_values), 1))

    by_champion = None if champion is None else observed(champion.p_value[opinion.at[held_out]])
    return Kept(p_value=_short(grid), observed=observed(opinion.p_value[held_out]), champion=by_champion)


def _cloud(opinion: _Opinion, selected: Selection, champion: ChampionScores) -> Cloud:
    held_out = opinion.having(selected.gate)
    champion_p_values = champion.p_value[opinion.at]
    held_out = held_out[np.isfinite(champion_p_values[held_out])]
    some = held_out[_some(np.minimum(opinion.p_value[held_out], champion_p_values[held_out]))]
    return Cloud(p_value=_short(opinion.p_value[some]), champion=_short(champion_p_values[some]))


def _features(opinion: _Opinion, selected: Selection, expected: float) -> Features:
    """Describe the features over held-out rows below the threshold: others would dominate a mean of squares."""
    window, names = opinion.detector.window, opinion.detector.features
    held = opinion.having(selected.calibrate | selected.gate)
    normal = held[opinion.p_value[held] > expected]
    indices = _thinned(normal if len(normal) else held, _REBUILT)
    actual = opinion.of(lambda x: newest(x, window), indices).astype(np.float64)
    rebuilt = opinion.of(lambda x: newest(opinion.detector.module.reconstruct(x), window), indices)
    is_present = np.isfinite(actual)
    n_present = np.maximum(is_present.sum(0), 1)
    mean = np.where(is_present, actual, 0.0).sum(0) / n_present
    spread = np.sqrt(np.where(is_present, np.square(actual - mean), 0.0).sum(0) / n_present)
    missed = np.sqrt(np.where(is_present, np.square(actual - rebuilt), 0.0).sum(0) / n_present)
    moves = spread > 1e-6 * np.maximum(np.abs(mean), 1e-30)  # beyond float32's rounding
    error = np.where(moves, missed / np.where(moves, spread, 1.0), np.nan)
    worst = np.argsort(np.where(np.isfinite(error), -error, np.inf), kind="stable")[:FEATURES]
    figures = [
        Feature(name=_name(names[j]), error=_finite(error[j]), missing=_short([1 - is_present[:, j].mean()])[0])
        for j in worst.tolist()
    ]
    finite_errors = error[np.isfinite(error)]
    return Features(
        of=len(names),
        median=_finite(float(np.median(finite_errors))) if len(finite_errors) else None,
        worst=tuple(figures),
    )


def _worst(opinion: _Opinion, selected: Selection) -> tuple[Worst, ...]:
    """Return the worst rows, one for each entity and part of the time: else one incident would fill the list."""
    rows, detector = opinion.rows, opinion.detector
    scored = np.flatnonzero(np.isfinite(opinion.score))
    order = scored[np.argsort(-opinion.score[scored], kind="stable")]
    bins = np.arange(len(rows)) * BINS // len(rows)
    entity_and_bin = np.stack((rows.entity[opinion.at[order]], bins[opinion.at[order]]))
    first = np.sort(np.unique(entity_and_bin, axis=1, return_index=True)[1])
    worst_rows = order[first[:WORST]]
    with torch.inference_mode():
        expected, shares, _ = detector.module.explain(opinion.scaled(worst_rows))
        expected = newest(opinion.own(expected, worst_rows), detector.window)
        actual = newest(torch.from_numpy(opinion.x[worst_rows]), detector.window)
    contributions = by_feature(shares.numpy(), detector.window)
    return tuple(
        Worst(
            time=int(rows.time[opinion.at[i]]),
            entity=_name(rows.entities[rows.entity[opinion.at[i]]]),
            use=_use(selected, int(opinion.at[i])),
            known=tuple(_word(flag) for flag in VectorFlags if rows.known[opinion.at[i]] & int(flag)),
            score=_short([opinion.score[i]])[0],
            p_value=_short([opinion.p_value[i]])[0],
            features=tuple(
                Guilty(
                    name=_name(detector.features[j]),
                    actual=_finite(float(actual[k, j])),
                    expected=_finite(float(expected[k, j])) or 0.0,
                    share=_short([contributions[k, j]])[0],
                )
                for j in np.argsort(-contributions[k], kind="stable")[:GUILTY].tolist()
            ),
        )
        for k, i in enumerate(worst_rows.tolist())
    )


def _use(selected: Selection, row: int) -> str:
    return "calibrated" if selected.calibrate[row] else "gate" if selected.gate[row] else "left out"


def _codes(opinion: _Opinion, selected: Selection) -> Codes:
    """Return codes in two dimensions, by principal components of some rows, for all that are shown."""
    held = opinion.having(selected.calibrate | selected.gate)
    some = held[_some(opinion.p_value[held])]
    codes = opinion.of(opinion.detector.module.encode, _thinned(held, _BATCH)).astype(np.float64)
    mean = codes.mean(0)
    values, vectors = np.linalg.eigh(np.cov(codes.T.reshape(codes.shape[1], -1), bias=True).reshape(2 * mean.shape))
    axes = vectors[:, ::-1][:, :2]
    # The sign of an axis is arbitrary; always choose the same one.
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    share = (values[::-1] / max(float(values.sum()), 1e-30)).clip(0, 1)[:2]
    if axes.shape[1] < 2:  # a code of one number lies on a line
        axes, share = np.pad(axes, ((0, 0), (0, 1))), np.append(share, 0.0)
    coordinates = (opinion.of(opinion.detector.module.encode, some).astype(np.float64) - mean) @ axes
    return Codes(
        of=len(mean),
        share=(_short(share)[0], _short(share)[1]),
        x=_short(coordinates[:, 0]),
        y=_short(coordinates[:, 1]),
        p_value=_short(opinion.p_value[some]),
    )


def _thinned(indices: Int64s, max_count: int) -> Int64s:
    """Thin the rows out evenly."""
    return indices[spread_evenly(len(indices), max_count)]


def _some(p_values: Float64s) -> Int64s:
    """Return row numbers: an even part, and the rarest."""
    n = len(p_values)
    return np.union1d(_thinned(np.arange(n), POINTS), np.argsort(p_values, kind="stable")[:RARE])


def _short(values: npt.ArrayLike) -> tuple[float, ...]:
    """Round to four digits, and clip what is beyond all bounds."""
    bounded = np.nan_to_num(np.asarray(values, np.float64), nan=0.0, posinf=1e300, neginf=-1e300)
    return tuple(float(f"{value:.4g}") for value in bounded.tolist())


def _finite(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


def _name(name: str) -> str:
    return name.encode("utf-8", "replace").decode()[:NAME]
