"""A detector is what an artefact holds: scaler, autoencoder, whitening and attribution as one module, the calibration,
and, where each entity has a scaler of its own, these.

x -> z (scaler) -> reconstruction (autoencoder) -> residual -> w (whitening) -> score; the calibration turns a score
into a p-value. With windows of w vectors a row x has K d columns, wavelet coefficients (wavelet.py); all that follows
takes them as it would features.
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
from worker.models.entities import EntityScaler
from worker.models.scaler import Scaler
from worker.models.variational import Variational
from worker.models.whitening import Whitening

# Degrees of freedom of the Student t distribution whose log density the score follows: as good as w^2 up to some five
# standard deviations, and beyond them one wild reading does not outweigh several that are off.
DEGREES: Final = 30.0


class ScoringModule(nn.Module):
    """The part of a detector that lives on the device. D = K d columns; K is 1 without windows."""

    def __init__(self, scaler: Scaler, autoencoder: Autoencoder, whitening: Whitening, attribution: Attribution):
        super().__init__()
        self.scaler = scaler
        self.autoencoder = autoencoder
        self.whitening = whitening
        self.attribution = attribution

    def forward(self, x: Tensor, least_present: float = 0.0) -> Tensor:
        """x [n, D], NaN where missing -> scores [n]; NaN for a row of which a smaller share than `least_present` is
        there, or nothing at all.

        The score is the mean over the readings of nu log(1 + w^2 / nu): about 1 for a normal row.
        """
        z, present = self.scaler(x)
        w = self.whitening(z - self.autoencoder(z), present)
        terms = w.square_().div_(DEGREES).log1p_()
        if present is None:
            scores: Tensor = terms.mean(1) * DEGREES
            return scores
        seen = present.sum(1)
        enough = (seen >= least_present * present.shape[1]) & (seen > 0)
        return torch.where(enough, terms.sum(1) * DEGREES / seen, torch.nan)

    def explain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [n, D] -> expected columns [n, D] in their own units; contributions [n, D], shares that add up to 1."""
        z, present = self.scaler(x)
        reconstruction = self.autoencoder(z)
        contributions: Tensor = self.attribution(z - reconstruction, z, present)
        return self.scaler.inverse(reconstruction), contributions

    def encode(self, x: Tensor) -> Tensor:
        """x [n, D] -> codes [n, c]."""
        return self.autoencoder.encode(self.scaler(x)[0])

    def reconstruct(self, x: Tensor) -> Tensor:
        """x [n, D] -> the same cleaned, in their own units, nothing missing."""
        return self.scaler.inverse(self.autoencoder(self.scaler(x)[0]))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n normal rows [n, D] in their own units, of a kind that can sample: what it decodes from the prior, with
        residuals as normal rows have them.
        """
        if not isinstance(self.autoencoder, Variational):
            raise TypeError(f"the {self.autoencoder.kind} kind cannot sample; variational can")
        z = self.autoencoder.sample(n, generator)
        return self.scaler.inverse(z + self.whitening.colour(torch.randn(z.shape, generator=generator)))


@dataclass(frozen=True, eq=False)
class Detector:
    """A scoring module with its calibration and the names of its d features."""

    features: tuple[str, ...]
    module: ScoringModule
    calibration: Calibration
    window: int = 1
    entities: EntityScaler | None = None

    def score(self, x: Tensor, entity: Tensor | None = None) -> Tensor:
        """Scores [n] of x [n, D], where the module lives; `entity` [n] are rows of the entity scaler, the fleet's if
        not given.
        """
        with torch.inference_mode():
            if self.entities is not None and entity is not None:
                x = self.entities(x, entity)
            return self.module(x)  # type: ignore[no-any-return]

    def p_value(self, x: Tensor, entity: Tensor | None = None) -> npt.NDArray[np.float64]:
        """P-values [n] of x [n, D]."""
        return self.calibration.p_value(self.score(x, entity).cpu().numpy())
