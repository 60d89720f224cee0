"""Which rows of the window are fitted to, which set the threshold, and which the gate looks at."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import structlog

from training import regime
from training.calibrate import SEEN
from training.evidence import Known
from training.fit import STRETCHES
from training.opinion import Float64s
from training.window import Window
from worker.errors import NoModelError
from worker.settings import Settings, TrainingSettings

log = structlog.get_logger()

Bools = npt.NDArray[np.bool_]

GATE: Final = 0.05  # of the rows, held out from calibration as well
OLD: Final = 0.25  # of the rows fitted to, from before a new regime; as many as since, after a mere drift
_CALIBRATE, _GATE = 1, 2
# In an incident, a vector within budget is no normal one where so many of its entity's vectors around it are over.
AROUND, DENSE = 10, 0.2
_UNEVEN: Final = 4.0  # times an entity's even share of the rows
# What was named before a regime was learned is named no more where the champion that knows it has such p-values.
_USUAL: Final = 0.01


class Learned(NamedTuple):
    """The plant's present regime, where a training of the window has learned it: its begin, and up to when that one has
    seen it, in ms.
    """

    begin: int
    until: int


@dataclass(frozen=True)
class Selection:
    """[n] each, of the window's rows. `regime` is the first row of the plant's regime, where another was before, and
    `learned` is what the next training is told of it; `new` says that the champion does not know it. `drift` is the
    first row since a drift.
    """

    fit: Bools
    calibrate: Bools
    gate: Bools
    regime: int | None
    learned: Learned | None
    new: bool
    drift: int | None
    counts: dict[str, int]


def select(
    settings: Settings, rows: Window, p_values: Float64s | None = None, learned: Learned | None = None
) -> Selection:
    """`p_values` [n] are the champion's, `learned` is the regime that it was made of, if another was before. Raises
    NoModelError where too few rows are left.

    Fitted to are rows within budget, outside of incidents, or dismissed by a person; the threshold is set by all but
    confirmed anomalies and those of faulty sensors. A new regime (training/regime.py) is fitted to as it is, with some
    of what was before, and alone sets the threshold; so it does in later trainings, as long as the window reaches back
    to before it. After a drift that the champion can cope with, what came since weighs as much as what was before.
    """
    training = settings.training
    if len(rows) < training.min_rows:
        raise NoModelError(
            f"{len(rows)} rows in the last {training.lookback:g} s of {settings.topics.sensors}"
            f" ({rows.rejected} records did not parse, {rows.cold} rows had no full window), {training.min_rows} are"
            " needed (OFFNORMAL_TRAINING__MIN_ROWS, OFFNORMAL_TRAINING__LOOKBACK)"
        )
    normal = ~rows.is_known(Known.CONFIRMED | Known.FAULTY)
    regime, new = _regime(rows, normal, p_values, learned, training)
    if p_values is not None and learned is not None and not new:
        rows = _settled(rows, p_values, learned)
    quiet = _quiet(rows, normal, training.min_rows // 2)
    drift = None if new else _drifted(rows, training.min_rows)
    part = _parts(len(rows), training.holdout, [cut for cut in (regime, drift) if cut is not None])
    fit, calibrate, gate = (part == 0) & quiet, (part == _CALIBRATE) & normal, (part == _GATE) & normal
    row = np.arange(len(rows))
    if drift is not None:
        fit = _weighed(fit, row >= drift, 1.0)
        if (row >= drift).mean() >= training.regime_share and _promises(settings, int(calibrate[drift:].sum())):
            calibrate &= row >= drift
    if regime is not None:
        if new:
            fit |= (part == 0) & normal & (row >= regime)
        fit = _weighed(fit, row >= regime, OLD / (1 - OLD))
        calibrate, gate = calibrate & (row >= regime), gate & (row >= regime)
    fit = _evened(fit, rows.entity)
    if fit.sum() < training.min_rows // 4 or calibrate.sum() < 2 or not gate.any():
        out, known = int((~quiet & normal).sum()), int((~normal).sum())
        raise NoModelError(
            f"{int(fit.sum())} rows are left to fit on: of {len(rows)}, {out} were published as anomalies or lie in"
            f" incidents, {known} are confirmed anomalies or of faulty sensors. If they are a new normal, dismiss them"
            " (`python -m worker label`), wait until they are most of the window (OFFNORMAL_TRAINING__REGIME_SHARE), or"
            " look back less far (OFFNORMAL_TRAINING__LOOKBACK)"
        )
    uses = {"fitted": fit, "held_out": calibrate, "gate": gate}
    counts = {name: int(rows.is_known(what).sum()) for name, what in _TOLD.items()}
    counts |= {name: int(use.sum()) for name, use in uses.items()}
    if new and regime is not None:
        learned = Learned(int(rows.time[regime]), int(rows.time[-1]))
    return Selection(fit, calibrate, gate, regime, None if regime is None else learned, new, drift, counts)


_TOLD: Final = {
    "named_anomalies": Known.NAMED,
    "in_incidents": Known.INCIDENT,
    "dismissed": Known.DISMISSED,
    "confirmed": Known.CONFIRMED,
    "faulty": Known.FAULTY,
}


def _quiet(rows: Window, normal: Bools, least: int) -> Bools:
    """[n] Of the normal ones, those within budget and outside of incidents, or dismissed by a person."""
    dismissed = rows.is_known(Known.DISMISSED)
    quiet = normal & (~(rows.is_known(Known.NAMED) | _inside(rows)) | dismissed)
    if quiet.sum() >= least:
        return quiet
    # One incident that does not end, for now and then a row is over budget: the others have to do.
    log.warning("incidents_fill_the_window", rows=len(rows), outside=int(quiet.sum()))
    return normal & (~rows.is_known(Known.NAMED) | dismissed)


def _regime(
    rows: Window, normal: Bools, p_values: Float64s | None, learned: Learned | None, training: TrainingSettings
) -> tuple[int | None, bool]:
    """The first row of the plant's regime, where another was before it in the window, and whether it is a new one."""
    if p_values is None:
        return None, False
    # What a person has dismissed is normal already, and no sign of anything new.
    known = np.where(rows.is_known(Known.DISMISSED), np.nan, p_values)
    begin = regime.begins(rows.x, known, normal, training.regime_share)
    if begin is not None and int(normal[begin:].sum()) >= training.min_rows:
        return begin, True
    before = 0 if learned is None else int(np.searchsorted(rows.time, learned.begin))
    return (before, False) if 0 < before < len(rows) else (None, False)


def _settled(rows: Window, p_values: Float64s, learned: Learned) -> Window:
    """What was named as the regime began, by a champion that did not know it, is no anomaly of it to one that does."""
    usual = (rows.time >= learned.begin) & (rows.time <= learned.until) & (p_values > _USUAL)
    return replace(rows, known=np.where(usual, rows.known & ~np.uint8(Known.NAMED), rows.known))


def _inside(rows: Window) -> Bools:
    """[n] In an incident, where a good part of its vectors are over budget: one that does not end, for now and then a
    vector is, is mostly normal.
    """
    order = np.lexsort((rows.time, rows.entity))
    sums = np.concatenate(([0], np.cumsum(rows.is_known(Known.NAMED)[order])))
    at = np.arange(len(rows))
    low, high = np.maximum(at - AROUND, 0), np.minimum(at + AROUND + 1, len(rows))
    dense = np.empty(len(rows), bool)
    dense[order] = (sums[high] - sums[low]) >= DENSE * (high - low)
    return dense & rows.is_known(Known.INCIDENT)


def _promises(settings: Settings, rows: int) -> bool:
    """Whether so many rows may be enough to keep to the false-alarm rate that is asked for."""
    return rows * settings.detection.false_alarm_rate >= SEEN


def _drifted(rows: Window, floor: int) -> int | None:
    """The first row since the last drift, if it is in the window, and enough came since."""
    if rows.drift is None:
        return None
    begin = int(np.searchsorted(rows.time, rows.drift))
    return begin if begin > 0 and len(rows) - begin >= floor else None


def _parts(n: int, holdout: float, cuts: Sequence[int]) -> npt.NDArray[np.int64]:
    """[n] 0 to fit, then _CALIBRATE and _GATE: the latest parts of each of some stretches, as `fit.is_held_out` has it;
    before and since each change by themselves.
    """
    part = np.zeros(n, np.int64)
    for piece in np.split(np.arange(n), sorted(set(cuts))):
        stretches = max(1, min(STRETCHES, int(len(piece) * GATE)))
        for stretch in np.array_split(piece, stretches):
            gate = max(1, round(len(stretch) * GATE)) if len(stretch) else 0
            held = max(1, round(len(stretch) * holdout)) if len(stretch) else 0
            part[stretch[max(len(stretch) - gate - held, 0) :]] = _CALIBRATE
            part[stretch[len(stretch) - gate :]] = _GATE
    return part


def _weighed(rows: Bools, now: Bools, ratio: float) -> Bools:
    """Of those that are not `now` at most `ratio` times as many as of those that are, spread evenly."""
    return (rows & now) | _thinned(rows & ~now, int((rows & now).sum() * ratio))


def _thinned(rows: Bools, keep: int) -> Bools:
    """About `keep` of these, spread evenly; all, where they are fewer."""
    at = np.flatnonzero(rows)
    if len(at) <= keep:
        return rows
    kept = np.zeros(len(rows), bool)
    kept[at[np.linspace(0, len(at) - 1, max(keep, 1)).astype(int)]] = True
    return kept


def _evened(rows: Bools, entity: npt.NDArray[np.int64]) -> Bools:
    """No entity has more than some times its even share: those that send more often are thinned out."""
    counts = np.bincount(entity[rows])
    several = int((counts > 0).sum())
    if several < 2:
        return rows
    most = max(int(_UNEVEN * rows.sum() / several), 1)
    found = rows.copy()
    for code in np.flatnonzero(counts > most).tolist():
        of_entity = rows & (entity == code)
        found &= ~of_entity
        found |= _thinned(of_entity, most)
    return found
