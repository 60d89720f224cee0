"""From scores to p-values: empirical quantiles in the body, a generalised Pareto distribution in the tail.

Peaks over threshold (Pickands 1975; Siffert et al. 2017 for streams): of n held-out scores, the share zeta above u
has excesses y = s - u with survival (1 + xi y / sigma)^(-1/xi), so p(s) = zeta * survival(s - u). That lets
p = 1e-5 mean something with some thousand rows. The body is a grid of quantiles, interpolated in log p. The data choose
u: the one above which they lie nearest to their fit (Clauset, Shalizi and Newman 2009). The fit is by probability
weighted moments (Hosking and Wallis 1987), which have a closed form and are steadier than likelihood with few rows.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from worker.native.arrays import Float64s

GRID: Final = 512
SMALLEST: Final = 1e-300  # p is never 0: its logarithm is taken by many
# A strongly negative shape would end the distribution just beyond the observed scores. A shape above a half has no
# variance, and comes from anomalies among the rows rather than from the machine.
_SHAPES: Final = (-0.2, 0.5)
# A single anomaly among the rows can dominate the moments. In a tail of an allowed shape, only one excess in ten
# thousand is this many medians out.
_WILD: Final = 100.0
_ROUNDING: Final = 1e-4  # of float32 scores on another device, or in another batch
_LARGEST_TAIL: Final = 0.1  # share of the rows; but 10 rows at least
_FEWEST: Final = 100  # minimum excesses of a tail that is not the largest: with fewer, its shape would be a guess


@dataclass(frozen=True, eq=False)
class Calibration:
    """The distribution of the scores of normal rows.

    `body` [g] are scores in ascending order, with P(S >= body) `survival` [g]. The share `beyond` lies above
    `body[-1]`, with the tail (xi, sigma); it is less than `survival[-1]` where scores are equal. No rate below
    `promisable` can be promised: see training/fitting/calibration_rows.py.
    """

    body: Float64s
    survival: Float64s
    beyond: float
    xi: float
    sigma: float
    promisable: float = 0.0

    @classmethod
    def fit(cls, scores: npt.ArrayLike, tail: int | None = None) -> "Calibration":
        """Fit to the scores of at least 2 held-out normal rows, all finite; `tail` of them lie above u, if given."""
        s = np.sort(np.asarray(scores, np.float64))
        n = len(s)
        k = tail or _choose_tail(s)
        u = s[n - k - 1]
        excess = s[n - k :] - u
        excess = excess[excess > 0]
        xi, sigma = _pareto(excess) if len(excess) else (0.0, max(abs(u), 1.0) * 0.01)
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

    def promised(self, requested: float) -> float:
        """Return the false-alarm rate to keep to: the requested one, or else the smallest that can be promised."""
        return max(requested, self.promisable)

    def threshold(self, p: float) -> float:
        """Return the score whose p-value is p, for 0 < p < 1."""
        if p >= self.survival[-1]:
            return float(np.interp(np.log(p), np.log(self.survival[::-1]), self.body[::-1]))
        log_ratio = np.log(max(self.beyond / p, 1.0))
        y = log_ratio if abs(self.xi) < 1e-9 else np.expm1(self.xi * log_ratio) / self.xi
        return float(self._tail_begins + self.sigma * y)


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


def _pareto(excess: Float64s) -> tuple[float, float]:
    """Return (xi, sigma) by probability-weighted moments of ascending excesses, with the shape within _SHAPES."""
    excess = np.minimum(excess, _WILD * float(np.median(excess)))
    n, mean = len(excess), float(excess.mean())
    weighted = float((excess * np.arange(n - 1, -1, -1)).mean()) / max(n - 1, 1)  # E[y (1 - F(y))]
    xi = 2 - mean / max(mean - 2 * weighted, 1e-12 * mean)
    xi = min(max(xi, _SHAPES[0]), _SHAPES[1])
    return xi, mean * (1 - xi)
