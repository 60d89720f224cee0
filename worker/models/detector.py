"""A detector is what an artefact holds: scaler, autoencoder and whitening as one module, and the calibration.

x -> z (scaler) -> reconstruction (autoencoder) -> residual -> w (whitening) -> score; the calibration turns a score
into a p-value.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from worker.models.base import Autoencoder
from worker.models.calibration import Calibration
from worker.models.scaler import Scaler
from worker.models.whitening import Whitening


class ScoringModule(nn.Module):
    """The part of a detector that lives on the device."""

    def __init__(self, scaler: Scaler, autoencoder: Autoencoder, whitening: Whitening):
        super().__init__()
        self.scaler = scaler
        self.autoencoder = autoencoder
        self.whitening = whitening

    def residual(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """x [n, d] -> residual [n, d] in scaled units; present [n, d] or None, see Scaler; reconstruction [n, d]."""
        z, present = self.scaler(x)
        reconstruction = self.autoencoder(z)
        return z - reconstruction, present, reconstruction

    def forward(self, x: Tensor, least_present: float = 1.0) -> Tensor:
        """x [n, d], NaN where missing -> scores [n]; NaN for a row with fewer than `least_present` readings."""
        residual, present, _ = self.residual(x)
        w = self.whitening(residual, present)
        if present is None:
            scores: Tensor = torch.linalg.vector_norm(w, dim=1) / x.shape[1] ** 0.5
            return scores
        seen = present.sum(1)
        return torch.where(seen >= least_present, (w.square().sum(1) / seen).sqrt(), torch.nan)

    def explain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [n, d] -> expected readings [n, d] in their own units; contributions [n, d], shares that add up to 1."""
        residual, present, reconstruction = self.residual(x)
        squares = self.whitening(residual, present).square()
        if present is not None:
            squares = squares * present
        return self.scaler.inverse(reconstruction), squares / squares.sum(1, keepdim=True).clamp(min=1e-30)


@dataclass(frozen=True)
class Detector:
    """A scoring module with its calibration and the names of its d features."""

    features: tuple[str, ...]
    module: ScoringModule
    calibration: Calibration

    def score(self, x: Tensor) -> Tensor:
        """Scores [n] of x [n, d], where the module lives."""
        with torch.inference_mode():
            return self.module(x)  # type: ignore[no-any-return]

    def p_value(self, x: Tensor) -> npt.NDArray[np.float64]:
        """P-values [n] of x [n, d]."""
        return self.calibration.p_value(self.score(x).cpu().numpy())
