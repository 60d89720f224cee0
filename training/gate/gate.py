"""The gate decides whether the challenger may take the champion's place.

Both models score the same held-out rows, which neither was fitted to or calibrated on.

- False alarms: the share of rows that only the challenger flags may not exceed the rate that was asked for. (Recent
  rows hold unlabelled anomalies, which both models flag.)

- Injected faults of known size (injected_faults.py): the challenger must distinguish them from normal rows as well as
  the champion does, beyond noise, by the order of the scores. Unless the champion flags more rows than requested, about
  as many of the faults must also be over the challenger's threshold.

- Rows of the window that are unusual to the champion: the rows learned from may not include many more of them than
  chance explains. Of all rows, no more than chance explains may be unusual to the champion but usual to the challenger.
  Such rows may be unlabelled anomalies that the challenger has learned to overlook. If a third of the rows learned from
  are unusual, the plant itself has moved. A champion that was fitted to a plant in motion, so that its threshold had to
  be a cautious one, is no judge of a challenger whose threshold is not.

- Confirmed anomalies of the window: the challenger must find those that the champion finds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from scipy.stats import beta, rankdata

from training.gate import injected_faults
from training.rows.thinning import spread_evenly
from worker.models import Detector, Promise
from worker.models.calibration import WITHIN
from worker.native.arrays import Bools, Float32s, Float64s, Int64s

# How much worse than the champion a challenger may be on injected faults, beyond two standard errors: in ROC-AUC, in
# the mean and for one kind, then in the share over the threshold, likewise. That share is so uncertain because a rate
# is kept only within a factor of 2.
LESS, LESS_OF_KIND, LESS_OVER, LESS_OVER_OF_KIND = 0.02, 0.1, 0.15, 0.3
# Shares of unexplained rows among those learned from. Between the two, the challenger is refused until a person has
# seen the rows. Above the second, the plant has moved.
UNEXPLAINED, PLANT_MOVED = 0.1, 0.35
# A row is overlooked if the champion's p-value is below UNUSUAL and the challenger's is above USUAL. By chance, at most
# the share UNUSUAL of the rows has such a p-value of the champion.
UNUSUAL, USUAL = 0.02, 0.05
_BELOW: Final = (0.1, 0.2, 0.5)
_INJECTED_CODE: Final = "[gate-injected-faults]"
LOST_CONFIRMED: Final = 0.1  # of the confirmed anomalies that the champion finds
OUT_OF_STEP: Final = 0.25  # distance of the champion's median p-value from .5 at which it no longer fits
_LOOKED_AT: Final = 2000  # rows into which faults are put
_BLOCKS: Final = 50


@dataclass(frozen=True)
class Verdict:
    """What the gate has decided, why, and by which figures."""

    passed: bool
    reasons: Sequence[str]  # why it was refused
    figures: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Return the verdict as the model card has it."""
        return {"passed": self.passed, "reasons": list(self.reasons), **self.figures}


@dataclass(frozen=True)
class Seen:
    """Unlabelled rows of the window.

    Rows before the present regime are left out; if that regime is new, all rows are. `champion` and `challenger` are
    the p-values [n], and `learned` [n] tells which rows were learned from.
    """

    champion: Float64s
    challenger: Float64s
    learned: Bools


@dataclass(frozen=True)
class Candidate:
    """A detector, with the false-alarm rate that is `asked` for.

    `row` [n] and `confirmed_row` [m] are rows of its entity scaler.
    """

    detector: Detector
    asked: float
    row: Int64s | None = None
    confirmed_row: Int64s | None = None

    def scores(self, x: Float32s, row: Int64s | None = None) -> Float64s:
        """Return the scores [n] of rows x [n, D]; `row` [n] are the rows of the entities' scalers."""
        entity_row = None if self.detector.entities is None or row is None else torch.from_numpy(row)
        return self.detector.score(torch.from_numpy(np.ascontiguousarray(x)), entity_row).numpy().astype(np.float64)

    @cached_property
    def promise(self) -> Promise:
        """Return the threshold for the rate that is asked for, and what is known of it."""
        return self.detector.calibration.promise(self.asked)

    @property
    def threshold(self) -> float:
        """Return the score beyond which a row is over budget."""
        return self.promise.threshold


def judge(
    challenger: Candidate,
    champion: Candidate | None,
    rows: Float32s,
    confirmed: Float32s,
    regime_seen: Seen | None = None,
) -> Verdict:
    """Judge the challenger by held-out `rows` [n, D], in the order of time, and `confirmed` [m, D] anomalies."""
    reasons: list[str] = []
    challenger_scores = challenger.scores(rows, challenger.row)
    champion_scores = None if champion is None else champion.scores(rows, champion.row)
    figures: dict[str, Any] = {"rows": len(rows)}
    figures["false_alarms"] = _false_alarms(challenger, champion, challenger_scores, champion_scores, reasons)
    figures["injected"] = _injected(
        challenger=challenger,
        champion=champion,
        rows=rows,
        challenger_scores=challenger_scores,
        champion_scores=champion_scores,
        reasons=reasons,
    )
    if regime_seen is not None and regime_seen.learned.any() and champion is not None:
        figures["learned"] = _learned(regime_seen, _is_makeshift(champion, challenger), reasons)
    if len(confirmed):
        figures["confirmed"] = _confirmed(challenger, champion, confirmed, reasons)
    return Verdict(not reasons, reasons, figures)


def _false_alarms(
    challenger: Candidate,
    champion: Candidate | None,
    challenger_scores: Float64s,
    champion_scores: Float64s | None,
    reasons: list[str],
) -> dict[str, Any]:
    flagged = challenger_scores >= challenger.threshold
    low, high = interval(flagged)
    figures: dict[str, Any] = {"promised": challenger.asked, "expected": challenger.promise.expected}
    figures |= {"observed": float(flagged.mean()), "interval": [low, high]}
    if champion is None or champion_scores is None:
        return figures
    by_champion = champion_scores >= champion.threshold
    only = flagged & ~by_champion
    lower = interval(only)[0]
    figures |= {"champion": float(by_champion.mean()), "champion_promised": champion.asked}
    figures["champion_expected"] = champion.promise.expected
    figures |= {"only_challenger": int(only.sum()), "only_champion": int((by_champion & ~flagged).sum())}
    if lower > WITHIN * challenger.asked:
        reasons.append(
            f"false alarms: flags {only.mean():.2g} of the held-out rows (at least {lower:.2g}) that the champion does"
            f" not flag; {challenger.asked:.2g} is asked for [gate-false-alarms]"
        )
    return figures


def _injected(
    challenger: Candidate,
    champion: Candidate | None,
    rows: Float32s,
    challenger_scores: Float64s,
    champion_scores: Float64s | None,
    reasons: list[str],
) -> dict[str, Any]:
    indices = spread_evenly(len(rows), _LOOKED_AT)
    keeps = champion is not None and champion_scores is not None and _keeps_the_budget(champion, champion_scores)
    fault_figures: list[dict[str, Any]] = []
    order: dict[str, list[Float64s]] = {}  # kind -> by how much the challenger is better at each row, size by size
    over: dict[str, list[Float64s]] = {}
    for kind, size, x in injected_faults.faults(rows[indices], challenger.detector.window):
        challenger_faulty = challenger.scores(x, None if challenger.row is None else challenger.row[indices])
        recall, above = (
            (challenger_faulty >= challenger.threshold).astype(float),
            _above(challenger_faulty, challenger_scores[indices]),
        )
        entry: dict[str, Any] = {"kind": kind, "size": size, "recall": recall.mean(), "roc_auc": above.mean()}
        if champion is not None and champion_scores is not None:
            champion_faulty = champion.scores(x, None if champion.row is None else champion.row[indices])
            other_recall, other_above = (
                (champion_faulty >= champion.threshold).astype(float),
                _above(champion_faulty, champion_scores[indices]),
            )
            entry |= {"champion_recall": other_recall.mean(), "champion_roc_auc": other_above.mean()}
            order.setdefault(kind, []).append(above - other_above)
            over.setdefault(kind, []).append(recall - other_recall)
        fault_figures.append({name: value if isinstance(value, str) else float(value) for name, value in entry.items()})
    figures: dict[str, Any] = {"compared_by": "recall" if keeps else "roc_auc", "faults": fault_figures}
    if order:
        figures["difference"] = float(
            np.mean([difference.mean() for kind in (over if keeps else order).values() for difference in kind])
        )
        _fewer(order, "by the order of their scores", LESS, LESS_OF_KIND, reasons)
        if keeps:
            _fewer(over, "over the threshold", LESS_OVER, LESS_OVER_OF_KIND, reasons)
    return figures


def _keeps_the_budget(champion: Candidate, scores: Float64s) -> bool:
    """Return whether the champion keeps the budget on recent rows, so that recall at its threshold is comparable.

    A champion that flags more rows than requested finds more faults. A champion that the plant has left behind flags
    everything.
    """
    low, _ = interval(scores >= champion.threshold)
    median = float(np.nanmedian(champion.detector.calibration.p_value(scores)))
    return low <= WITHIN * champion.asked and abs(median - 0.5) < OUT_OF_STEP


def _fewer(
    differences: dict[str, list[Float64s]], how: str, less: float, less_of_kind: float, reasons: list[str]
) -> None:
    """Add a reason if the mean difference is worse than allowed, and one for each kind of fault for which it is."""
    mean_of = np.mean([difference for kind in differences.values() for difference in kind], 0)
    if mean_of.mean() < -(less + 2 * _error(mean_of)):
        reasons.append(
            f"injected faults: finds {-mean_of.mean():.1%} fewer than the champion in the mean, {how} {_INJECTED_CODE}"
        )
    for kind, difference in differences.items():
        of_kind = np.mean(difference, 0)
        if of_kind.mean() < -(less_of_kind + 2 * _error(of_kind)):
            reasons.append(
                f"injected faults: finds {-of_kind.mean():.1%} fewer of the kind {kind}, {how} {_INJECTED_CODE}"
            )


def _is_makeshift(champion: Candidate, challenger: Candidate) -> bool:
    return champion.promise.is_cautious and not challenger.promise.is_cautious


def _learned(regime_seen: Seen, makeshift: bool, reasons: list[str]) -> dict[str, Any]:
    """Check the rows learned from and the overlooked rows, and return the figures.

    Of uniform p-values, a share of t is below t. The excess consists of other rows, nearly all of which lie below t.
    """
    p_values = regime_seen.champion[regime_seen.learned]
    excess = []
    for t in _BELOW:
        low = (np.where(np.isnan(p_values), t, p_values < t) - t) / (1 - t)
        excess.append((float(low.mean()), _error(low)))
    unexplained, error = max(excess, key=lambda pair: pair[0] - pair[1])
    overlooked = float(((regime_seen.champion < UNUSUAL) & (regime_seen.challenger > USUAL)).mean())
    if unexplained < PLANT_MOVED and not makeshift:
        if unexplained - error > UNEXPLAINED:
            reasons.append(
                f"learned from: {unexplained:.0%} of the rows are unusual to the champion beyond chance, and nobody has"
                " labelled them (`python -m worker label`). They are anomalies, or a change that most rows do not show"
                " yet [gate-unlabelled]"
            )
        if overlooked > UNUSUAL:
            reasons.append(
                f"overlooks: {overlooked:.1%} of the window's rows are unusual to the champion but normal to this"
                " model, and nobody has labelled them (`python -m worker label`) [gate-overlooks]"
            )
    return {"rows": len(p_values), "unexplained": unexplained, "error": error, "overlooked": overlooked}


def _confirmed(
    challenger: Candidate, champion: Candidate | None, confirmed: Float32s, reasons: list[str]
) -> dict[str, Any]:
    named = challenger.scores(confirmed, challenger.confirmed_row) >= challenger.threshold
    figures: dict[str, Any] = {"rows": len(confirmed), "recall": float(named.mean())}
    if champion is not None:
        champion_named = champion.scores(confirmed, champion.confirmed_row) >= champion.threshold
        lost = float((champion_named & ~named).sum() / max(champion_named.sum(), 1))
        figures |= {"champion_recall": float(champion_named.mean()), "lost": lost}
        if lost > LOST_CONFIRMED and named.sum() < champion_named.sum():
            reasons.append(f"confirmed anomalies: misses {lost:.1%} of those that the champion finds [gate-confirmed]")
    return figures


def _above(scores: Float64s, normal: Float64s) -> Float64s:
    """Return [n] the share of the normal scores that each score is above. Its mean is the ROC-AUC."""
    joined = np.concatenate((normal, scores))
    ranks = rankdata(np.where(np.isnan(joined), -np.inf, joined))
    own = rankdata(np.where(np.isnan(scores), -np.inf, scores))
    shares: Float64s = (ranks[len(normal) :] - own) / max(len(normal), 1)
    return shares


def _error(difference: Float64s) -> float:
    """Return the standard error of a mean over rows in the order of time, by stretches, as neighbours are alike."""
    parts = np.array_split(difference, min(_BLOCKS, len(difference)))
    return float(np.std([part.mean() for part in parts]) / np.sqrt(len(parts)))


def interval(flagged: Bools) -> tuple[float, float]:
    """Return the 95 % interval of the rate of which `flagged` [n], in time order, is a sample.

    It spans two intervals: that of Clopper and Pearson, for independent rows, and that of a block bootstrap, with
    blocks of a fiftieth of the rows.
    """
    n, hits = len(flagged), int(flagged.sum())
    low = float(beta.ppf(0.025, hits, n - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, n - hits)) if hits < n else 1.0
    length = max(1, n // _BLOCKS)
    starts = np.random.default_rng(0).integers(n, size=(1000, -(-n // length)))
    sums = np.concatenate(([0], np.cumsum(np.tile(flagged, 2))))
    means = (sums[starts + length] - sums[starts]).sum(1) / (starts.shape[1] * length)
    return min(low, float(np.quantile(means, 0.025))), max(high, float(np.quantile(means, 0.975)))
