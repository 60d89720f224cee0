"""The gate: may the challenger take the champion's place? Both are asked about the same held-out rows, which neither
was fitted to nor calibrated by.

- False alarms: what it names and the champion does not may not be more than it promises. (Recent rows hold anomalies
  that nobody has labelled; both name these.) Nor may it promise less than is asked for, where the champion names fewer.
- Injected faults of known size (training/injected.py): it tells them from normal rows as well as the champion does,
  beyond noise, by the order of the scores; and, unless the champion names more than is asked for, it has about as many
  of them over its threshold.
- The window's rows that are unusual to the champion: those learned from may not be many more than chance explains, and
  of all of them not more may be usual now. They may be anomalies that nobody has labelled, which it has learned to
  overlook. Where a third of the rows learned from are, it is the plant that has moved; and a champion that could not
  promise what is asked for, of a plant in motion, is no judge of one that can.
- Confirmed anomalies of the window: what the champion finds of them, it finds as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import beta, rankdata

from training import injected
from worker.models import Detector

Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

BEYOND: Final = 2.0  # times the promised rate
# Of the injected faults, beyond two standard errors: of their ROC-AUC, in the mean and of one kind; and of those over
# the threshold, which a rate that is kept within a factor of 2 leaves so uncertain.
LESS, LESS_OF_KIND, LESS_OVER, LESS_OVER_OF_KIND = 0.02, 0.1, 0.15, 0.3
# Of the rows learned from, what is unexplained: more than so much, and less than a plant that has moved, is not to be
# learned unseen.
UNEXPLAINED, PLANT_MOVED = 0.1, 0.35
# By the champion's p-values and the challenger's. Chance has not more than the first of the rows below the first.
UNUSUAL, USUAL = 0.02, 0.05
_BELOW: Final = (0.1, 0.2, 0.5)
LOST_CONFIRMED: Final = 0.1  # of the confirmed anomalies that the champion finds
OUT_OF_STEP: Final = 0.25  # of the champion's median p-value from .5
_LOOKED_AT: Final = 2000  # rows into which faults are put
_BLOCKS: Final = 50


@dataclass(frozen=True)
class Verdict:
    passed: bool
    reasons: Sequence[str]  # why it was refused
    figures: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {"passed": self.passed, "reasons": list(self.reasons), **self.figures}


@dataclass(frozen=True)
class Seen:
    """The window's rows that no one has called anomalous or normal, without those before the present regime, and none
    where that is new: p-values [n] by champion and challenger, and which of them were learned from [n].
    """

    champion: Float64s
    challenger: Float64s
    learned: Bools


@dataclass(frozen=True)
class Contender:
    """A detector with the false-alarm rate that it keeps to, and the one that is `asked` for; `row` [n],
    `confirmed_row` [m] of its entity scaler.
    """

    detector: Detector
    rate: float
    row: Int64s | None = None
    confirmed_row: Int64s | None = None
    asked: float = 1.0

    def scores(self, x: Float32s, row: Int64s | None = None) -> Float64s:
        at = None if self.detector.entities is None or row is None else torch.from_numpy(row)
        return self.detector.score(torch.from_numpy(np.ascontiguousarray(x)), at).numpy().astype(np.float64)

    @property
    def threshold(self) -> float:
        return self.detector.calibration.threshold(self.rate)


def judge(
    challenger: Contender,
    champion: Contender | None,
    rows: Float32s,
    confirmed: Float32s,
    seen: Seen | None = None,
) -> Verdict:
    """`rows` [n, D] are held out, in the order of time; `confirmed` [m, D] are what people have called anomalies."""
    reasons: list[str] = []
    ours = challenger.scores(rows, challenger.row)
    theirs = None if champion is None else champion.scores(rows, champion.row)
    figures: dict[str, Any] = {"rows": len(rows)}
    figures["false_alarms"] = _false_alarms(challenger, champion, ours, theirs, reasons)
    figures["injected"] = _injected(challenger, champion, rows, ours, theirs, reasons)
    if seen is not None and seen.learned.any() and champion is not None:
        figures["learned"] = _learned(seen, _is_makeshift(champion, challenger), reasons)
    if len(confirmed):
        figures["confirmed"] = _confirmed(challenger, champion, confirmed, reasons)
    return Verdict(not reasons, reasons, figures)


def _false_alarms(
    challenger: Contender, champion: Contender | None, ours: Float64s, theirs: Float64s | None, reasons: list[str]
) -> dict[str, Any]:
    flagged = ours >= challenger.threshold
    low, high = interval(flagged)
    told: dict[str, Any] = {"promised": challenger.rate, "observed": float(flagged.mean()), "interval": [low, high]}
    if champion is None or theirs is None:
        return told
    by_champion = theirs >= champion.threshold
    only = flagged & ~by_champion
    least = interval(only)[0]
    told |= {"champion": float(by_champion.mean()), "champion_promised": champion.rate}
    told |= {"only_challenger": int(only.sum()), "only_champion": int((by_champion & ~flagged).sum())}
    if challenger.rate > max(BEYOND * challenger.asked, by_champion.mean()):
        reasons.append(
            f"false alarms: {challenger.rate:.2g} is all that can be promised, {challenger.asked:.2g} is asked for; the"
            f" champion names {told['champion']:.2g} of the held-out rows"
        )
    if least > BEYOND * challenger.rate:
        reasons.append(
            f"false alarms: {only.mean():.2g} of the held-out rows (at least {least:.2g}) that the champion"
            f" does not name;"
            f" {challenger.rate:.2g} are promised"
        )
    return told


def _injected(
    challenger: Contender,
    champion: Contender | None,
    rows: Float32s,
    ours: Float64s,
    theirs: Float64s | None,
    reasons: list[str],
) -> dict[str, Any]:
    at = np.linspace(0, len(rows) - 1, min(len(rows), _LOOKED_AT)).astype(int)
    keeps = champion is not None and theirs is not None and _keeps_the_budget(champion, theirs)
    found: list[dict[str, Any]] = []
    order: dict[str, list[Float64s]] = {}  # kind -> by how much the challenger is better at each row, size by size
    over: dict[str, list[Float64s]] = {}
    for kind, size, x in injected.faults(rows[at], challenger.detector.window):
        mine = challenger.scores(x, None if challenger.row is None else challenger.row[at])
        recall, above = (mine >= challenger.threshold).astype(float), _above(mine, ours[at])
        entry: dict[str, Any] = {"kind": kind, "size": size, "recall": recall.mean(), "roc_auc": above.mean()}
        if champion is not None and theirs is not None:
            other = champion.scores(x, None if champion.row is None else champion.row[at])
            other_recall, other_above = (other >= champion.threshold).astype(float), _above(other, theirs[at])
            entry |= {"champion_recall": other_recall.mean(), "champion_roc_auc": other_above.mean()}
            order.setdefault(kind, []).append(above - other_above)
            over.setdefault(kind, []).append(recall - other_recall)
        found.append({name: value if isinstance(value, str) else float(value) for name, value in entry.items()})
    told: dict[str, Any] = {"compared_by": "recall" if keeps else "roc_auc", "faults": found}
    if order:
        told["difference"] = float(
            np.mean([each.mean() for kind in (over if keeps else order).values() for each in kind])
        )
        _fewer(order, "by the order of their scores", LESS, LESS_OF_KIND, reasons)
        if keeps:
            _fewer(over, "over the threshold", LESS_OVER, LESS_OVER_OF_KIND, reasons)
    return told


def _keeps_the_budget(champion: Contender, scores: Float64s) -> bool:
    """Of recent rows, so that what is over its threshold may be compared. One that names more than is asked for, as it
    may have promised, finds more faults, and one that the plant has left behind finds everything.
    """
    low, _ = interval(scores >= champion.threshold)
    median = float(np.nanmedian(champion.detector.calibration.p_value(scores)))
    return low <= BEYOND * champion.asked and abs(median - 0.5) < OUT_OF_STEP


def _fewer(
    differences: dict[str, list[Float64s]], how: str, less: float, less_of_kind: float, reasons: list[str]
) -> None:
    """A reason where the mean difference is worse than allowed, and for each kind of which it is."""
    mean_of = np.mean([each for kind in differences.values() for each in kind], 0)
    if mean_of.mean() < -(less + 2 * _error(mean_of)):
        reasons.append(f"injected faults: finds {-mean_of.mean():.1%} fewer than the champion in the mean, {how}")
    for kind, each in differences.items():
        of_kind = np.mean(each, 0)
        if of_kind.mean() < -(less_of_kind + 2 * _error(of_kind)):
            reasons.append(f"injected faults: finds {-of_kind.mean():.1%} fewer of the kind {kind}, {how}")


def _is_makeshift(champion: Contender, challenger: Contender) -> bool:
    return (
        champion.rate > BEYOND * max(champion.asked, challenger.rate) and challenger.rate <= BEYOND * challenger.asked
    )


def _learned(seen: Seen, makeshift: bool, reasons: list[str]) -> dict[str, Any]:
    """Of uniform p-values a share of t is below t: what is more than that are others, which nearly all lie there."""
    p_values = seen.champion[seen.learned]
    excess = []
    for t in _BELOW:
        low = (np.where(np.isnan(p_values), t, p_values < t) - t) / (1 - t)
        excess.append((float(low.mean()), _error(low)))
    unexplained, error = max(excess, key=lambda each: each[0] - each[1])
    overlooked = float(((seen.champion < UNUSUAL) & (seen.challenger > USUAL)).mean())
    if unexplained < PLANT_MOVED and not makeshift:
        if unexplained - error > UNEXPLAINED:
            reasons.append(
                f"learned from: {unexplained:.0%} of the rows are unusual to the champion beyond chance, and nobody has"
                " labelled them: anomalies, or a change that most rows do not show yet (`python -m worker label`)"
            )
        if overlooked > UNUSUAL:
            reasons.append(
                f"overlooks: {overlooked:.1%} of the window's rows are unusual to the champion, usual to it, and nobody"
                " has labelled them (`python -m worker label`)"
            )
    return {"rows": len(p_values), "unexplained": unexplained, "error": error, "overlooked": overlooked}


def _confirmed(
    challenger: Contender, champion: Contender | None, confirmed: Float32s, reasons: list[str]
) -> dict[str, Any]:
    mine = challenger.scores(confirmed, challenger.confirmed_row) >= challenger.threshold
    told: dict[str, Any] = {"rows": len(confirmed), "recall": float(mine.mean())}
    if champion is not None:
        other = champion.scores(confirmed, champion.confirmed_row) >= champion.threshold
        lost = float((other & ~mine).sum() / max(other.sum(), 1))
        told |= {"champion_recall": float(other.mean()), "lost": lost}
        if lost > LOST_CONFIRMED and mine.sum() < other.sum():
            reasons.append(f"confirmed anomalies: misses {lost:.1%} of those that the champion finds")
    return told


def _above(scores: Float64s, normal: Float64s) -> Float64s:
    """[n] The share of the normal scores that each is above: the mean of it is the ROC-AUC."""
    both = np.concatenate((normal, scores))
    ranks = rankdata(np.where(np.isnan(both), -np.inf, both))
    own = rankdata(np.where(np.isnan(scores), -np.inf, scores))
    found: Float64s = (ranks[len(normal) :] - own) / max(len(normal), 1)
    return found


def _error(difference: Float64s) -> float:
    """The standard error of a mean over rows in the order of time, whose neighbours are alike: by stretches."""
    parts = np.array_split(difference, min(_BLOCKS, len(difference)))
    return float(np.std([part.mean() for part in parts]) / np.sqrt(len(parts)))


def interval(flagged: Bools) -> tuple[float, float]:
    """95 % for the rate that `flagged` [n], in the order of time, are a sample of: the wider one of Clopper and
    Pearson's, for independent rows, and a block bootstrap's, of stretches of a fiftieth.
    """
    n, hits = len(flagged), int(flagged.sum())
    low = float(beta.ppf(0.025, hits, n - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, n - hits)) if hits < n else 1.0
    length = max(1, n // _BLOCKS)
    starts = np.random.default_rng(0).integers(n, size=(1000, -(-n // length)))
    sums = np.concatenate(([0], np.cumsum(np.tile(flagged, 2))))
    means = (sums[starts + length] - sums[starts]).sum(1) / (starts.shape[1] * length)
    return min(low, float(np.quantile(means, 0.025))), max(high, float(np.quantile(means, 0.975)))
