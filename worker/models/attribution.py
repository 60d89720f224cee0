"""Attribution of a score to sensors. What ranks rows best does not rank sensors best, so this is not the score.

A sensor's evidence is the product of two distances, both in standard deviations: of its reading from what the other
sensors let expect, and of its reading from its own usual level: e = |r / sigma_r| |x / sigma_x|. The residual alone
blames sensors that the autoencoder cannot rebuild because another one is wrong. The level alone blames sensors that
rightly follow another one. (Found on SMD's labelled segments, training/EXPERIMENTS.md.)

Shares of evidence mean nothing where there is hardly any. With T the sum of a row's evidence and K `certain`, three
times what a normal row in a thousand reaches, the shares e / T get the weight T^2 / (T^2 + K^2), and the rest is
spread evenly. For the same reason a row counts by its strength, log(1 + T/K), where the shares of several are added up.
"""

from typing import Final

import torch
from torch import Tensor, nn

_RESIDUAL_FLOOR: Final = 1e-4  # variances, in scaled units
_LEVEL_FLOOR: Final = 1e-3
CERTAIN: Final = 3.0  # times the sum of evidence that one normal row in a thousand reaches


class Attribution(nn.Module):
    """Of d features: `residual` and `level` are [2, d], mean and standard deviation; `certain` is a scalar."""

    def __init__(self, residual: Tensor, level: Tensor, certain: Tensor):
        super().__init__()
        self.register_buffer("residual", residual)
        self.register_buffer("level", level)
        self.register_buffer("certain", certain)

    residual: Tensor
    level: Tensor
    certain: Tensor

    @classmethod
    def fit(cls, residual: Tensor, z: Tensor, present: Tensor) -> "Attribution":
        """Fit to held-out normal rows, all [n, d]: residuals, scaled readings, and 1 or 0 for present or missing."""
        fitted = cls(_moments(residual, present, _RESIDUAL_FLOOR), _moments(z, present, _LEVEL_FLOOR), torch.ones(()))
        # Not the maximum, since a few of the rows may not be normal.
        total = fitted.evidence(residual, z, present).sum(1).double().quantile(0.999).float()
        return cls(fitted.residual, fitted.level, (CERTAIN * total).clamp(min=1e-6))

    def evidence(self, residual: Tensor, z: Tensor, present: Tensor | None) -> Tensor:
        """Return the evidence [n, d], never negative.

        It is 0 for a missing reading, where `present` [n, d] is 0; None if none is missing.
        """
        surprise = (residual - self.residual[0]) / self.residual[1]
        evidence = (surprise * ((z - self.level[0]) / self.level[1])).abs()
        return evidence if present is None else evidence * present

    def forward(
        self, residual: Tensor, z: Tensor, present: Tensor | None, shrink: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return shares [n, d] and strengths [n].

        The shares add up to 1, and none is negative; a missing reading has 0, unless all are missing. `shrink` [n, d]
        is by how much less a column counts that has become restless (trim.py).
        """
        evidence = self.evidence(residual, z, present)
        evidence = evidence if shrink is None else evidence * shrink
        total = evidence.sum(1, keepdim=True).clamp(min=1e-30, max=1e15)  # its square is finite
        weight = total.square() / (total.square() + self.certain.square())
        even = torch.ones_like(z) if present is None else present
        even = torch.where(even.sum(1, keepdim=True) > 0, even, 1.0)
        shares = weight * evidence / total + (1 - weight) * even / even.sum(1, keepdim=True)
        return shares / shares.sum(1, keepdim=True), (total / self.certain).log1p().squeeze(1)


def _moments(values: Tensor, present: Tensor, floor: float) -> Tensor:
    counts = present.sum(0).clamp(min=1)
    mean = (values * present).sum(0) / counts
    variance = ((values - mean).square() * present).sum(0) / counts
    return torch.stack((mean, (variance + floor).sqrt()))
