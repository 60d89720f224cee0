"""Chooses the held-out rows that set the threshold, and finds the lowest false-alarm rate that they can promise."""

import math
from dataclasses import replace
from typing import Final

import numpy as np

from training.rows.thinning import spread_evenly
from worker.models import Calibration
from worker.native.arrays import Bools, Float64s

SUSPECT_BELOW: Final = 0.1  # rows with a higher p-value of the champion are never suspected
_HALVINGS: Final = 20

WITHIN: Final = 2.0  # a rate is promised where it is kept within this factor ...
SURELY: Final = 0.9  # ... with this probability
# A resample cannot test the fit beyond the observed scores, so a promised rate must correspond to a few rows.
SEEN: Final = 3  # minimum number of rows expected at the lowest rate
_RATES: Final = np.geomspace(0.3, 1e-7, 79)  # twelve a decade
_BLOCKS: Final = 20
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
    return replace(fitted, promisable=max(promisable(ratios(fitted, scores)), min(SEEN / len(scores), 0.5)))


def ratios(fitted: Calibration, scores: Float64s) -> Float64s:
    """Return by how much a threshold misses its rate by chance: observed over promised rate, [resamples, rates].

    The method is a circular block bootstrap (Politis and Romano 1992). Neighbouring readings are not independent, so
    blocks of a twentieth of the time are drawn. Each resample sets its own thresholds, and the fit to all scores gives
    the rates that these thresholds have.
    """
    n = len(scores)
    tail = max(1, round(n * fitted.beyond))
    thinned = scores[spread_evenly(n, _MOST_DRAWN)]
    m = len(thinned)
    length = math.ceil(m / _BLOCKS)
    rng = np.random.default_rng(0)
    missed = np.empty((_RESAMPLES, len(_RATES)))
    for i in range(_RESAMPLES):
        starts = rng.integers(m, size=math.ceil(m / length))
        drawn = thinned[(starts[:, None] + np.arange(length)).ravel()[:m] % m]
        refit = Calibration.fit(drawn, tail=min(max(1, round(tail * m / n)), m - 1))
        missed[i] = fitted.p_value([refit.threshold(p) for p in _RATES]) / _RATES
    return missed


def promisable(missed: Float64s) -> float:
    """Return the smallest rate that is kept with the probability SURELY, as are all larger rates."""
    kept = ((missed <= WITHIN) & (missed >= 1 / WITHIN)).mean(axis=0) >= SURELY
    first = int(np.argmin(kept)) if not kept.all() else len(kept)
    return float(_RATES[max(first - 1, 0)])
