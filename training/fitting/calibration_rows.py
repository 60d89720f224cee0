"""Which held-out rows stand for normal operation when the threshold is set, and what rate they allow to promise."""

import math
from dataclasses import replace
from typing import Final

import numpy as np

from worker.models import Calibration
from worker.native.arrays import Bools, Float64s

SUSPECT_BELOW: Final = 0.1  # where the champion's p-value is above, a row is not looked at twice
_HALVINGS: Final = 20

WITHIN: Final = 2.0  # a rate is promised where it is kept within this factor ...
SURELY: Final = 0.9  # ... with this probability
# A resample knows no tail but that of the fit: where hardly a row has been, it cannot tell whether the fit holds.
SEEN: Final = 3  # rows, at least, of the rarest rate
_RATES: Final = np.geomspace(0.3, 1e-7, 79)  # twelve a decade
_BLOCKS: Final = 20
_RESAMPLES: Final = 200
_MOST_DRAWN: Final = 50_000  # scores in a resample: more would only cost time


def explained(p_values: Float64s, scores: Float64s) -> Bools:
    """[n] True for rows that stand for normal operation. `p_values` are the champion's; the largest `scores` go first.

    Rows that were published as anomalies are not all anomalies: a false-alarm budget names some normal rows too, and
    without these the tail, and with it the threshold, would shrink at each retraining. Nor are they all normal: with
    them, a frequent fault would lift the threshold over itself. But the champion's p-values of normal rows are
    uniform: between p/2 and p lie n p/2 of them, and up to p lie n p. Where there are more than that and two standard
    deviations, the rest is something else, and goes, those with the largest scores first. (Up to p as well: of the many
    bins in which hardly a row is expected each might keep one.) NaN counts as explained.
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
    """[resamples, rates] by how much a threshold misses its rate, rate observed over rate promised, by chance alone.

    Circular block bootstrap (Politis and Romano 1992): neighbouring readings are no independent draws, so whole
    stretches of a twentieth of the time are drawn; each resample sets its thresholds, and the fit to all scores says
    what rates these have.
    """
    n = len(scores)
    tail = max(1, round(n * fitted.beyond))
    thinned = scores[np.linspace(0, n - 1, min(n, _MOST_DRAWN)).astype(int)]
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
    """Return the smallest rate that, like all larger ones, is kept surely enough."""
    kept = ((missed <= WITHIN) & (missed >= 1 / WITHIN)).mean(axis=0) >= SURELY
    first = int(np.argmin(kept)) if not kept.all() else len(kept)
    return float(_RATES[max(first - 1, 0)])
