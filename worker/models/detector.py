"""A detector is what an artefact holds: scaler, autoencoder, whitening and attribution as one module, and the
calibration.

x -> z (scaler) -> reconstruction (autoencoder) -> residual -> w (whitening) -> score; the calibration turns a score
into a p-value.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from worker.models.attribution import Attribution
from worker.models.base import Autoencoder
from worker.models.calibration import Calibration
from worker.models.scaler import Scaler
from worker.models.variational import Variational
from worker.models.whitening import Whitening

# Degrees of freedom of the Student t distribution whose log density the score follows: as good as w^2 up to some five
# standard deviations, and beyond them one wild reading does not outweigh several that are off.
DEGREES: Final = 30.0


class ScoringModule(nn.Module):
    """The part of a detector that lives on the device."""

    def __init__(self, scaler: Scaler, autoencoder: Autoencoder, whitening: Whitening, attribution: Attribution):
        super().__init__()
        self.scaler = scaler
        self.autoencoder = autoencoder
        self.whitening = whitening
        self.attribution = attribution

    def forward(self, x: Tensor, least_present: float = 1.0) -> Tensor:
        """x [n, d], NaN where missing -> scores [n]; NaN for a row with fewer than `least_present` readings.

        The score is the mean over the readings of nu log(1 + w^2 / nu): about 1 for a normal row.
        """
        z, present = self.scaler(x)
        w = self.whitening(z - self.autoencoder(z), present)
        terms = w.square_().div_(DEGREES).log1p_()
        if present is None:
            scores: Tensor = terms.mean(1) * DEGREES
            return scores
        seen = present.sum(1)
        return torch.where(seen >= least_present, terms.sum(1) * DEGREES / seen, torch.nan)

    def explain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [n, d] -> expected readings [n, d] in their own units; contributions [n, d], shares that add up to 1."""
        z, present = self.scaler(x)
        reconstruction = self.autoencoder(z)
        contributions: Tensor = self.attribution(z - reconstruction, z, present)
        return self.scaler.inverse(reconstruction), contributions

    def encode(self, x: Tensor) -> Tensor:
        """x [n, d] -> codes [n, c]."""
        return self.autoencoder.encode(self.scaler(x)[0])

    def reconstruct(self, x: Tensor) -> Tensor:
        """x [n, d] -> cleaned vectors [n, d] in their own units, nothing missing."""
        return self.scaler.inverse(self.autoencoder(self.scaler(x)[0]))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n normal vectors [n, d] in their own units, of a kind that can sample: what it decodes from the prior, with
        residuals as normal rows have them.
        """
        if not isinstance(self.autoencoder, Variational):
            raise TypeError(f"the {self.autoencoder.kind} kind cannot sample; variational can")
        z = self.autoencoder.sample(n, generator)
        return self.scaler.inverse(z + self.whitening.colour(torch.randn(z.shape, generator=generator)))


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
