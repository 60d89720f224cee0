"""Chooses the held-out rows that set the threshold, and finds how uncertain it is."""

import math
from dataclasses import replace
from typing import Final

import numpy as np
from scipy.stats import gamma

from training.rows.held_out import STRETCHES
from training.rows.thinning import spread_evenly
from worker.models import Calibration
from worker.models.calibration import RATES, SURELY
from worker.native.arrays import Bools, Float64s

SUSPECT_BELOW: Final = 0.1  # rows with a higher p-value of the champion are never suspected
_HALVINGS: Final = 20

SEEN: Final = 3  # held-out rows expected at a rate; with fewer, the threshold is extrapolated
_RESAMPLES: Final = 200
_MOST_DRAWN: Final = 50_000  # scores in a resample: more would only cost time


def explained(p_values: Float64s, scores: Float64s) -> Bools:
    """Return [n] True for rows that stand for normal operation.

    `p_values` [n] are the champion's. Rows that were published as anomalies are not all anomalies: a false-alarm budget
    flags some normal rows, too. Without these, the tail, and with it the threshold, would shrink at each retraining.
    But they are not all normal either: a frequent fault would raise the threshold above itself.

    The champion's p-values of normal rows are uniform, so n p/2 of them lie between p/2 and p, and n p lie up to p.
    Rows beyond that number and two standard deviations are something else and are excluded, those with the largest
    `scores` first. (The limit up to p is needed as well: each of the many bins with hardly an expected row might keep
    one.) NaN counts as explained.
    """
    kept, n = np.ones(len(scores), bool), len(scores)
    below = 0  # kept in the bins of smaller p-values
    for k in reversed(range(_HALVINGS)):
        upper = SUSPECT_BELOW / 2**k
        lower = upper / 2 if k < _HALVINGS - 1 else 0.0
        suspects = np.flatnonzero((p_values > lower) & (p_values <= upper))
        allowed = min(_by_chance((upper - lower) * n), max(_by_chance(upper * n) - below, 0))
        if len(suspects) > allowed:
            by_score = suspects[np.argsort(scores[suspects], kind="stable")]
            kept[by_score[allowed:]] = False
        below += min(len(suspects), allowed)
    return kept


def _by_chance(expected: float) -> int:
    return math.ceil(expected + 2 * math.sqrt(expected))


def calibrate(scores: Float64s) -> Calibration:
    """Calibrate by the scores of held-out normal rows, in the order of time, all finite."""
    fitted = Calibration.fit(scores)
    return replace(fitted, upper=upper(fitted, scores))


def upper(fitted: Calibration, scores: Float64s) -> Float64s:
    """Return the upper bounds [r] of the scores at RATES, with the probability SURELY.

    The method is a bootstrap over whole pieces of the time, those that were held out: neighbouring readings are not
    independent. Each resample is fitted anew. A resample cannot show what the rows have not. The shape of a tail with k
    independent excesses is uncertain by about k^(-1/2) (Hosking and Wallis 1987): so it is at least that. And there may
    be too few clusters of exceedances by chance: so rates are multiplied by the upper limit of a Poisson count of that
    many, over the count (Garwood 1936).
    """
    n = len(scores)
    thinned = scores[spread_evenly(n, _MOST_DRAWN)]
    pieces = np.array_split(thinned, min(STRETCHES, n))
    tail = max(1, round(len(thinned) * fitted.beyond))
    independent = extremal_index(thinned > fitted.body[-1])
    rng = np.random.default_rng(0)
    clusters = independent * tail
    more = float(gamma.ppf(SURELY, clusters + 1)) / clusters
    thresholds = np.empty((_RESAMPLES, len(RATES)))
    for i in range(_RESAMPLES):
        drawn = np.concatenate([pieces[k] for k in rng.integers(len(pieces), size=len(pieces))])
        k = min(max(1, round(tail * len(drawn) / len(thinned))), len(drawn) - 1)
        refit = Calibration.fit(drawn, tail=k, least_shape=min((independent * k) ** -0.5, 0.5))
        thresholds[i] = refit.thresholds(RATES / more)
    return np.maximum.accumulate(np.quantile(thresholds, SURELY, axis=0))


def extremal_index(exceeds: Bools) -> float:
    """Return the share of the exceedances [n], in the order of time, that are independent of the one before.

    The estimator is that of Ferro and Segers 2003, by the intervals between exceedances: 1 where they come one by one,
    1/m where they come in clusters of m.
    """
    intervals = np.diff(np.flatnonzero(exceeds)).astype(np.float64)
    if len(intervals) < 2:
        return 1.0
    if intervals.max() > 2:
        squares = float(((intervals - 1) * (intervals - 2)).sum())
        index = 2 * float((intervals - 1).sum()) ** 2 / (len(intervals) * squares)
    else:
        index = 2 * float(intervals.sum()) ** 2 / (len(intervals) * float((intervals**2).sum()))
    return min(max(index, 1 / (len(intervals) + 1)), 1.0)
