"""Measures of a detector on labelled rows: by row, by event, volume under the surface, and attribution.

Labels `y` [n] are 0 or 1. A higher `score` [n] is more anomalous, and only the order counts. A row without a score
(NaN) counts as the least anomalous. A measure that is undefined without positives, or without negatives, is NaN. No
measure is point-adjusted.
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sklearn

from worker.detection import roc
from worker.native.arrays import Bools, Float64s, Floats

Labels = npt.NDArray[Any]
Ints = npt.NDArray[np.intp]
Interpretation = Sequence[tuple[slice, tuple[int, ...]]]  # rows of a segment, and its guilty features

_THRESHOLDS: Final = 250  # of each curve; the number aeon has, which says it is the authors'
_LINE: Final = re.compile(r"(\d+)-(\d+):(\d+(?:\s*,\s*\d+)*)")


def roc_auc(y: Labels, score: Floats) -> float:
    """Return the area under the ROC curve; NaN if there is only one class."""
    return roc.roc_auc(*_prepared(y, score))


def average_precision(y: Labels, score: Floats) -> float:
    """Return the precision averaged over the steps of recall, not interpolated; NaN without positives."""
    positive, rank = _prepared(y, score)
    return float(sklearn.average_precision_score(positive, rank)) if positive.any() else math.nan


def best_f1(y: Labels, score: Floats) -> float:
    """Return the largest F1 by row over all thresholds; NaN without positives.

    This is an upper bound, since nobody knows the best threshold beforehand.
    """
    positive, rank = _prepared(y, score)
    if not positive.any():
        return math.nan
    precision, recall, _ = sklearn.precision_recall_curve(positive, rank)
    # where nothing is found both are 0, and so is F1
    return float((2 * precision * recall / np.maximum(precision + recall, 1e-300)).max())


def vus(y: Labels, score: Floats, max_buffer: int = 100) -> tuple[float, float]:
    """Return the volumes under the PR and the ROC surface: range-based areas, averaged over buffers.

    The buffers range from 0 to `max_buffer` rows. After Paparrizos et al., "Volume Under the Surface", PVLDB 15(11),
    2022. The values equal those of aeon's `range_pr_vus_score` and `range_roc_vus_score`, also if all scores are equal
    (0). Both are NaN without positives, and ROC also without negatives.
    """
    positive, rank = _prepared(y, score)
    if not positive.any():
        return math.nan, math.nan
    if not rank.any():
        return 0.0, math.nan if positive.all() else 0.0
    order = np.argsort(-rank, kind="stable")
    thresholds = rank[order][np.linspace(0, len(rank) - 1, _THRESHOLDS, dtype=np.intp)]
    reached = np.searchsorted(-rank[order], -thresholds, side="right")
    areas = [
        _areas(positive=positive, rank=rank, order=order, thresholds=thresholds, reached=reached, buffer=buffer)
        for buffer in range(max_buffer + 1)
    ]
    pr, roc = np.mean(areas, axis=0)
    return float(pr), float(roc)


def spans(y: Labels) -> list[tuple[int, int]]:
    """Return the runs of ones, from the first row to the one after the last."""
    starts, ends = _runs(y > 0)
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def event_recall(y: Labels, flagged: Bools) -> float:
    """Return the share of the runs of ones in which `flagged` [n] has at least one row; NaN without positives."""
    is_detected = [bool(flagged[start:end].any()) for start, end in spans(y)]
    return sum(is_detected) / len(is_detected) if is_detected else math.nan


def false_alarm_rate(y: Labels, flagged: Bools) -> float:
    """Return the share of the rows with y = 0 that `flagged` [n] has; NaN without negatives."""
    normal = flagged[y == 0]
    return float(normal.mean()) if len(normal) else math.nan


def parse_interpretation(lines: Iterable[str], end_inclusive: bool) -> list[tuple[slice, tuple[int, ...]]]:
    """Parse lines such as "4629-4688:9,10,11,13": the rows of a segment and its guilty features, counted from 1.

    In SMD the end of a segment is the row after it, in ASD its last row. The returned features count from 0, without
    duplicates. Blank lines are skipped. Raises ValueError.
    """
    parsed = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line:
            continue
        match = _LINE.fullmatch(line)
        start, end = (int(match[1]), int(match[2]) + end_inclusive) if match else (0, 0)
        guilty = tuple(dict.fromkeys(int(feature) - 1 for feature in match[3].split(","))) if match else ()
        if start >= end or min(guilty) < 0:
            raise ValueError(f"line {number} is not start-end:feature,feature,... with features from 1: {line!r}")
        parsed.append((slice(start, end), guilty))
    return parsed


def hit_rate(evidence: Floats, interpretation: Interpretation, percent: int) -> float:
    """Return HitRate@percent: the share of a segment's guilty features near the top of a ranking.

    The top of a ranking is its first `percent` % x |guilty| features. After Su et al. (OmniAnomaly), KDD 2019, but by
    segment instead of by row. The ranking is by `evidence` [n, d], averaged over the segment's rows without NaN;
    ties go to the first feature. The result is the mean over segments. A segment without a row to rank by counts as 0;
    NaN without segments.
    """
    rates = []
    for rows, guilty in interpretation:
        segment = evidence[rows]
        segment = segment[~np.isnan(segment).any(axis=1)]
        tried = percent * len(guilty) // 100  # in whole numbers: in floats 29 / 100 * 100 is below 29
        top = np.argsort(-segment.mean(axis=0), kind="stable")[:tried].tolist() if len(segment) else []
        rates.append(len(set(guilty).intersection(top)) / len(guilty))
    return float(np.mean(rates)) if rates else math.nan


def _prepared(y: Labels, score: Floats) -> tuple[Bools, Ints]:
    """Return labels as bool [n], and the scores' dense ranks [n], 0 for the lowest; ranks are always finite."""
    if y.shape != score.shape:
        raise ValueError(f"labels {y.shape} and scores {score.shape} differ in shape")
    _, rank = np.unique(np.where(np.isnan(score), -np.inf, score), return_inverse=True)
    return y > 0, rank


def _runs(on: Bools) -> tuple[Ints, Ints]:
    """Return the first rows [k] of the runs of True, and the rows [k] after their last."""
    change = np.diff(np.concatenate(([0], on.astype(np.int8), [0])))
    return np.flatnonzero(change == 1), np.flatnonzero(change == -1)


def _areas(
    positive: Bools, rank: Ints, order: Ints, thresholds: Ints, reached: Ints, buffer: int
) -> tuple[float, float]:
    """Return the range-based areas under PR and ROC curve.

    At each threshold, the first `reached` rows of `order` have a rank of at least the threshold.
    """
    n, weight = len(positive), _extended(positive, buffer)
    true_positives = np.cumsum(weight[order])[reached - 1]
    total = (positive.sum() + weight.sum()) / 2
    starts, ends = _runs(weight > 0)
    # reduceat wants each end to be an index too, hence one row more
    peaks = np.maximum.reduceat(np.append(rank, -1), np.column_stack((starts, ends)).ravel())[::2]
    existence = (peaks[:, None] >= thresholds).mean(axis=0)  # a segment is found by its highest row
    recall = np.minimum(true_positives / total, 1) * existence
    pr = np.trapezoid(np.append(1.0, true_positives / reached), np.append(0.0, recall))
    if positive.all():
        return float(pr), math.nan
    fall_out = np.minimum((reached - true_positives) / (n - total), 1)
    roc = np.trapezoid(np.concatenate(([0], recall, [1])), np.concatenate(([0], fall_out, [1])))
    return float(pr), float(roc)


def _extended(positive: Bools, buffer: int) -> Float64s:
    """Return labels [n] from 0 to 1, with slopes at the ends of each run.

    As in aeon, a slope has `buffer // 2` rows before the run and one row fewer after it.
    """
    weight = positive.astype(np.float64)
    starts, ends = _runs(positive)
    distance = np.arange(1, buffer // 2 + 1)
    for rows, away in ((starts[:, None] - distance, distance), (ends[:, None] - 1 + distance[:-1], distance[:-1])):
        inside = (rows >= 0) & (rows < len(weight))
        slope = np.broadcast_to(np.sqrt(1 - away / buffer), rows.shape)
        np.add.at(weight, rows[inside], slope[inside])
    return np.minimum(weight, 1)
