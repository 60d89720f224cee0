"""From scores to p-values: empirical quantiles in the body, a generalised Pareto distribution in the tail.

Peaks over threshold (Pickands 1975; Siffert et al. 2017 for streams): of n held-out scores, the share zeta above u
has excesses y = s - u with survival (1 + xi y / sigma)^(-1/xi), so p(s) = zeta * survival(s - u). That lets
p = 1e-5 mean something with some thousand rows. The body is a grid of quantiles, interpolated in log p.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import genpareto

Float64s = npt.NDArray[np.float64]

GRID: Final = 512
SMALLEST: Final = 1e-300  # p is never 0: its logarithm is taken by many
# A strongly negative shape would put an end to the distribution just beyond what was seen; one above a half has no
# variance, and comes from anomalies among the rows rather than from the machine.
_SHAPES: Final = (-0.2, 0.5)


@dataclass(frozen=True)
class Calibration:
    """`body` [g] scores in ascending order with P(S >= body) `survival` [g]; beyond `body[-1]` lies the share `beyond`,
    less than `survival[-1]` where scores are equal, with the tail (xi, sigma).
    """

    body: Float64s
    survival: Float64s
    beyond: float
    xi: float
    sigma: float

    @classmethod
    def fit(cls, scores: npt.ArrayLike) -> "Calibration":
        """From the scores of at least 2 held-out normal rows, all finite."""
        s = np.sort(np.asarray(scores, np.float64))
        n = len(s)
        # The tail starts at the upper tenth, or at the upper 10 rows where a tenth is less, or more than 2000 rows
        # are there to be exact about.
        k = min(max(10, n // 10), 2000, n // 2)
        u = s[n - k - 1]
        excess = s[n - k :] - u
        excess = excess[excess > 0]
        xi, sigma = _pareto(excess) if len(excess) else (0.0, max(abs(u), 1.0) * 1e-6)
        ranks = np.unique(np.linspace(0, n - k - 1, GRID).round().astype(int))
        body = np.unique(s[ranks])
        survival = 1.0 - np.searchsorted(s, body, side="left") / n  # P(S >= s)
        return cls(body, survival, min((len(excess) + 1) / n, float(survival[-1])), xi, sigma)

    def p_value(self, scores: npt.ArrayLike) -> Float64s:
        """P(a normal row scores at least this much), in (0, 1]; NaN for NaN."""
        s = np.asarray(scores, np.float64)
        log_body = np.interp(s, self.body, np.log(self.survival), left=0.0)
        y = np.maximum(s - self.body[-1], 0.0) / self.sigma
        log_tail = -y if abs(self.xi) < 1e-9 else -np.log(np.maximum(1 + self.xi * y, SMALLEST)) / self.xi
        log_p = np.where(s > self.body[-1], np.log(self.beyond) + log_tail, log_body)
        p: Float64s = np.maximum(np.exp(np.where(np.isnan(s), np.nan, log_p)), SMALLEST)
        return p

    def threshold(self, p: float) -> float:
        """The score whose p-value is p, for 0 < p < 1."""
        if p >= self.survival[-1]:
            return float(np.interp(np.log(p), np.log(self.survival[::-1]), self.body[::-1]))
        log_ratio = np.log(max(self.beyond / p, 1.0))
        y = log_ratio if abs(self.xi) < 1e-9 else np.expm1(self.xi * log_ratio) / self.xi
        return float(self.body[-1] + self.sigma * y)


def _pareto(excess: Float64s) -> tuple[float, float]:
    """Maximum likelihood, with the shape held within _SHAPES."""
    unit = float(excess.mean())
    xi, _, sigma = genpareto.fit(excess / unit, floc=0)
    if not _SHAPES[0] <= xi <= _SHAPES[1]:
        xi = min(max(xi, _SHAPES[0]), _SHAPES[1])
        _, _, sigma = genpareto.fit(excess / unit, f0=xi, floc=0)
    return float(xi), float(sigma * unit)
