"""Whitened residuals: how far a reconstruction error lies outside what held-out normal rows show.

The score is the Mahalanobis distance of the residual r = z - reconstruction under the mean m and covariance S of the
residuals of normal rows, as a root mean square: sqrt(|w|^2 / d) with w = S^(-1/2) (r - m), so that about 1 is normal.
The symmetric root (ZCA) keeps w_i next to feature i, so that w_i^2 / |w|^2 is that feature's share of the score.
S is shrunk towards its diagonal (Ledoit and Wolf 2004 give the idea; the weight here is d / (d + n)) and has a floor,
since a constant feature, or one that is reconstructed perfectly, has no variance of its own.
"""

from typing import Final

import torch
from torch import Tensor, nn

# Of a scaled reading's variance, which is about 1. Below, a residual is rounding or quantisation, not behaviour.
VARIANCE_FLOOR: Final = 1e-4


class Whitening(nn.Module):
    def __init__(self, mean: Tensor, root: Tensor):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("root", root)

    mean: Tensor
    root: Tensor

    @classmethod
    def fit(cls, residual: Tensor, present: Tensor) -> "Whitening":
        """From residuals [n, d] of normal rows; `present` [n, d] is 0 where a reading was missing."""
        r = residual.double()
        weight = present.double()
        seen = weight.sum(0).clamp(min=1)
        mean = (r * weight).sum(0) / seen
        centred = (r - mean) * weight
        both = (weight.T @ weight).clamp(min=1)
        covariance = centred.T @ centred / both
        n, d = r.shape
        # A feature without any reading here is as uncertain as a scaled reading is, not as certain as no error.
        covariance = covariance + torch.diag((weight.sum(0) == 0).double())
        diagonal = torch.diag(covariance.diagonal())
        shrunk = covariance + (d / (d + n)) * (diagonal - covariance)
        values, vectors = torch.linalg.eigh(shrunk)
        root = vectors @ torch.diag(values.clamp(min=VARIANCE_FLOOR).rsqrt()) @ vectors.T
        return cls(mean.float(), root.float())

    def forward(self, residual: Tensor, present: Tensor | None) -> Tensor:
        """w [n, d]; a missing reading (0 in `present`, None if there is none) adds nothing."""
        if present is None:
            return torch.addmm(-(self.mean @ self.root), residual, self.root)
        return ((residual - self.mean) * present) @ self.root
