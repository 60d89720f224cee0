"""Whitened residuals: how far a reconstruction error lies outside what held-out normal rows show.

w = S^(-1/2) (r - m), with the mean m and the covariance S of the residuals r = z - reconstruction of normal rows: |w|
is the Mahalanobis distance. The symmetric root (ZCA) keeps w_i next to feature i.
S is shrunk towards its diagonal (Ledoit and Wolf 2004 give the idea; the weight here is d / (d + n)) and has a floor,
since a constant feature, or one that is reconstructed perfectly, has no variance of its own.
"""

from typing import Final

import torch
from torch import Tensor, nn

# Recent data are mostly, but not all, normal. Up to a tenth of the rows may be anomalies without bending the covariance
# towards themselves. A normal tail within ten times the usual distance is not cut off.
TRIMMED: Final = 0.1
USUAL: Final = 10.0
# Of a scaled reading's variance, which is about 1. Below, a residual is rounding or quantisation, not behaviour.
VARIANCE_FLOOR: Final = 1e-4
FILL_STEPS: Final = 6  # where readings are missing; exact for so many missing ones


class Whitening(nn.Module):
    """The mean and the inverse root of the covariance of residuals."""

    def __init__(self, mean: Tensor, root: Tensor):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("root", root)

    mean: Tensor
    root: Tensor

    @classmethod
    def fit(cls, residual: Tensor, present: Tensor) -> "Whitening":
        """Fit to residuals [n, d] of mostly normal rows; `present` [n, d] is 0 where a reading was missing."""
        distance = _robust_distance(residual, present)
        for last in (False, False, False, True):  # reweighted at the end, as the MCD of Rousseeuw and van Driessen 1999
            cutoff = distance.kthvalue(max(1, round(len(distance) * (1 - TRIMMED)))).values
            near = distance <= (torch.maximum(cutoff, USUAL * distance.median()) if last else cutoff)
            whitening = cls._fit(residual[near], present[near])
            distance = whitening(residual, present).square().sum(1) / present.sum(1).clamp(min=1)
        return whitening

    @classmethod
    def _fit(cls, residual: Tensor, present: Tensor) -> "Whitening":
        r = residual.double()
        weight = present.double()
        counts = weight.sum(0).clamp(min=1)
        mean = (r * weight).sum(0) / counts
        centred = (r - mean) * weight
        pair_counts = (weight.T @ weight).clamp(min=1)
        covariance = centred.T @ centred / pair_counts
        n, d = r.shape
        # A feature without any reading here gets the uncertainty of a scaled reading; zero would mean certainty.
        covariance = covariance + torch.diag((weight.sum(0) == 0).double())
        diagonal = torch.diag(covariance.diagonal())
        shrunk = covariance + (d / (d + n)) * (diagonal - covariance)
        values, vectors = torch.linalg.eigh(shrunk)
        root = vectors @ torch.diag(values.clamp(min=VARIANCE_FLOOR).rsqrt()) @ vectors.T
        return cls(mean.float(), root.float())

    def forward(self, residual: Tensor, present: Tensor | None) -> Tensor:
        """Return the whitened residuals [n, d]. A missing reading counts as what the others predict of it.

        `present` [n, d] is 0 where a reading is missing; None if none is.
        """
        if present is None:
            return torch.addmm(-(self.mean @ self.root), residual, self.root)
        centred = (residual - self.mean) * present
        incomplete = (present.sum(1) < present.shape[1]).nonzero().squeeze(1)
        if len(incomplete):
            centred[incomplete] = self._complete(centred[incomplete], present[incomplete])
        return centred @ self.root

    def colour(self, noise: Tensor) -> Tensor:
        """Return residuals [n, d] like those of normal rows, from independent standard normal draws [n, d]."""
        residual: Tensor = noise @ torch.linalg.inv(self.root) + self.mean
        return residual

    def _complete(self, residual: Tensor, present: Tensor) -> Tensor:
        """Fill missing residuals with their expectation given the present ones, which is where |w| is least.

        Then |w| is the Mahalanobis distance of the present residuals alone. Zeros would suffice for independent
        residuals, but next to a near duplicate a zero is an outlier. The system is solved by conjugate gradients over
        the missing residuals, each scaled by its own precision.
        """
        free = (1 - present) * self.root.square().sum(0).rsqrt()
        filled = residual
        slope = -((filled @ self.root) @ self.root) * free
        step, norm = slope, slope.square().sum(1, keepdim=True)
        for _ in range(FILL_STEPS):
            moved = step * free
            turned = ((moved @ self.root) @ self.root) * free
            length = norm / (step * turned).sum(1, keepdim=True).clamp(min=1e-30)
            filled = filled + length * moved
            slope = slope - length * turned
            before, norm = norm, slope.square().sum(1, keepdim=True)
            step = slope + norm / before.clamp(min=1e-30) * step
        return filled


def _robust_distance(residual: Tensor, present: Tensor) -> Tensor:
    """Return the mean square [n] in median absolute deviations, feature by feature, to start from.

    A covariance of all rows would hide the anomalies that it was fitted to (masking), and the later steps would not
    find them either.
    """
    centred = residual - residual.median(0).values
    unit = (1.4826 * centred.abs().median(0).values).clamp(min=VARIANCE_FLOOR**0.5)
    return ((centred / unit).square() * present).sum(1) / present.sum(1).clamp(min=1)
