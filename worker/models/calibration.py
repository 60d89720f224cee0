"""From scores to p-values: empirical quantiles in the body, a generalised Pareto distribution in the tail.

Peaks over threshold (Pickands 1975; Siffert et al. 2017 for streams): of n held-out scores, the share zeta above u
has excesses y = s - u with survival (1 + xi y / sigma)^(-1/xi), so p(s) = zeta * survival(s - u). That lets
p = 1e-5 mean something with some thousand rows. The body is a grid of quantiles, interpolated in log p. The data choose
u: the one above which they lie nearest to their fit (Clauset, Shalizi and Newman 2009). The fit is by probability
weighted moments (Hosking and Wallis 1987), which have a closed form and are steadier than likelihood with few rows.

A threshold is set for a requested false-alarm rate, on the cautious side of what the rows leave uncertain: too few rows
make a detector quieter, never louder.
"""

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from worker.native.arrays import Float64s

GRID: Final = 512
SMALLEST: Final = 1e-300  # p is never 0: its logarithm is taken by many
# A negative shape would end the distribution just beyond the observed scores: of 28 sets, five then had up to 90 times
# the requested rate. A shape above a half has no variance, and comes from anomalies among the rows rather than from the
# machine.
_SHAPES: Final = (0.0, 0.5)
# A single anomaly among the rows can dominate the moments. In a tail of an allowed shape, only one excess in ten
# thousand is this many medians out.
_WILD: Final = 100.0
_ROUNDING: Final = 1e-4  # of float32 scores on another device, or in another batch
_LARGEST_TAIL: Final = 0.1  # share of the rows; but 10 rows at least
_FEWEST: Final = 100  # minimum excesses of a tail that is not the largest: with fewer, its shape would be a guess


RATES: Final = np.geomspace(0.3, 1e-12, 139)  # of `Calibration.upper`: twelve a decade
WITHIN: Final = 2.0  # a requested rate is not exceeded by more than this factor ...
SURELY: Final = 0.9  # ... with this probability


class Promise(NamedTuple):
    """The threshold for a false-alarm rate that was asked for, and what rate it has.

    `expected` is the rate by the fit, never above `asked`. With the probability SURELY the rate is not above `at_most`;
    NaN where the calibration does not know how uncertain it is. `lacking` is how many times as many rows would be
    needed for a threshold at the rate asked for; 1 where there are enough.
    """

    asked: float
    threshold: float
    expected: float
    at_most: float
    lacking: float

    @property
    def is_cautious(self) -> bool:
        """Return whether so few rows were calibrated on that the threshold is far above that of the rate asked for."""
        return self.expected < self.asked / WITHIN


@dataclass(frozen=True, eq=False)
class Calibration:
    """The distribution of the scores of normal rows.

    `body` [g] are scores in ascending order, with P(S >= body) `survival` [g]. The share `beyond` lies above
    `body[-1]`, with the tail (xi, sigma); it is less than `survival[-1]` where scores are equal. `upper` [r] are the
    upper bounds of the scores at RATES, in ascending order: with the probability SURELY, no more than that rate of
    normal rows lies above (training/fitting/calibration_rows.py). None where they are unknown.
    """

    body: Float64s
    survival: Float64s
    beyond: float
    xi: float
    sigma: float
    upper: Float64s | None = None

    @classmethod
    def fit(cls, scores: npt.ArrayLike, tail: int | None = None, least_shape: float = _SHAPES[0]) -> "Calibration":
        """Fit to the scores of at least 2 held-out normal rows, all finite; `tail` of them lie above u, if given."""
        s = np.sort(np.asarray(scores, np.float64))
        n = len(s)
        k = tail or _choose_tail(s)
        u = s[n - k - 1]
        excess = s[n - k :] - u
        excess = excess[excess > 0]
        xi, sigma = _pareto(excess, least_shape) if len(excess) else (0.0, max(abs(u), 1.0) * 0.01)
        ranks = np.unique(np.linspace(0, n - k - 1, GRID).round().astype(int))
        body = np.unique(s[ranks])
        survival = 1.0 - np.searchsorted(s, body, side="left") / n  # P(S >= s)
        return cls(body, survival, min((len(excess) + 1) / n, float(survival[-1])), xi, sigma)

    @property
    def _tail_begins(self) -> float:
        """The score at which the tail begins, just above u: rounding must not matter where most scores are equal."""
        u = float(self.body[-1])
        return u + min(_ROUNDING * abs(u) + 1e-6, 0.01 * self.sigma)

    def p_value(self, scores: npt.ArrayLike) -> Float64s:
        """Return the probability that a normal row scores at least this much, in (0, 1]; NaN for NaN."""
        s = np.asarray(scores, np.float64)
        log_body = np.interp(s, self.body, np.log(self.survival), left=0.0)
        y = np.maximum(s - self._tail_begins, 0.0) / self.sigma
        log_tail = -y if abs(self.xi) < 1e-9 else -np.log(np.maximum(1 + self.xi * y, SMALLEST)) / self.xi
        log_p = np.where(s > self._tail_begins, np.log(self.beyond) + log_tail, log_body)
        p: Float64s = np.maximum(np.exp(np.where(np.isnan(s), np.nan, log_p)), SMALLEST)
        return p

    def promise(self, asked: float) -> Promise:
        """Return the threshold for a false-alarm rate: that of the fit, or a higher one where the fit is uncertain."""
        plain = self.threshold(asked)
        if self.upper is None:
            return Promise(asked, plain, asked, math.nan, 1.0)
        if WITHIN * asked > RATES[0]:  # few rows are enough for so high a rate
            return Promise(asked, plain, asked, max(self._rate_above(plain), asked), 1.0)
        threshold = max(plain, self._upper(WITHIN * asked))
        expected = min(float(self.p_value(threshold)), asked)
        beyond_asked = max(self._rate_above(plain) / asked, WITHIN)
        return Promise(
            asked=asked,
            threshold=threshold,
            expected=expected,
            at_most=max(self._rate_above(threshold), expected),
            # The error of a logarithm shrinks with the square root of the number of rows.
            lacking=(math.log(beyond_asked) / math.log(WITHIN)) ** 2,
        )

    def _upper(self, rate: float) -> float:
        """Return the upper bound of the score at a rate."""
        assert self.upper is not None
        if rate < RATES[-1]:
            return float(self.upper[-1]) + self.threshold(rate) - self.threshold(RATES[-1])
        return float(np.interp(-np.log(rate), -np.log(RATES), self.upper))

    def _rate_above(self, score: float) -> float:
        """Return the upper bound of the rate of normal rows above a score."""
        assert self.upper is not None
        return float(np.exp(-np.interp(score, self.upper, -np.log(RATES))))

    def threshold(self, p: float) -> float:
        """Return the score whose p-value is p, for 0 < p < 1."""
        return float(self.thresholds(p))

    def thresholds(self, p: npt.ArrayLike) -> Float64s:
        """Return the score of each p-value, for 0 < p < 1."""
        p = np.asarray(p, np.float64)
        in_body = np.interp(np.log(p), np.log(self.survival[::-1]), self.body[::-1])
        log_ratio = np.log(np.maximum(self.beyond / p, 1.0))
        y = log_ratio if abs(self.xi) < 1e-9 else np.expm1(self.xi * log_ratio) / self.xi
        scores: Float64s = np.where(p >= self.survival[-1], in_body, self._tail_begins + self.sigma * y)
        return scores


def _choose_tail(s: Float64s) -> int:
    """Return how many upper rows of the sorted scores s have the least Kolmogorov-Smirnov distance to their fit."""
    n = len(s)
    max_tail = min(max(10, int(n * _LARGEST_TAIL)), n // 2)
    choices = [
        k
        for k in (max_tail, max_tail // 2, max_tail // 4, max_tail // 8, max_tail // 16)
        if k == max_tail or k >= _FEWEST
    ]
    return min(choices, key=lambda k: _distance(s[n - k :] - s[n - k - 1]))


def _distance(excess: Float64s) -> float:
    if excess[0] <= 0:  # equal scores at u
        return np.inf
    xi, sigma = _pareto(excess)
    y = excess / sigma
    below = -np.expm1(-y) if abs(xi) < 1e-9 else 1 - np.maximum(1 + xi * y, SMALLEST) ** (-1 / xi)
    steps = np.arange(len(y) + 1) / len(y)
    return float(np.maximum(np.abs(below - steps[1:]), np.abs(below - steps[:-1])).max())


def _pareto(excess: Float64s, least_shape: float = _SHAPES[0]) -> tuple[float, float]:
    """Return (xi, sigma) by probability-weighted moments of ascending excesses, with the shape within bounds."""
    excess = np.minimum(excess, _WILD * float(np.median(excess)))
    n, mean = len(excess), float(excess.mean())
    weighted = float((excess * np.arange(n - 1, -1, -1)).mean()) / max(n - 1, 1)  # E[y (1 - F(y))]
    xi = 2 - mean / max(mean - 2 * weighted, 1e-12 * mean)
    xi = min(max(xi, least_shape), _SHAPES[1])
    return xi, mean * (1 - xi)
