"""A detector: scaler, autoencoder, whitening and attribution as one module, the calibration, and entity scalers if any.

x -> z (scaler) -> reconstruction (autoencoder) -> residual -> w (whitening) -> score. The calibration turns a score
into a p-value. With windows of w vectors a row x has K d columns, wavelet coefficients (wavelet.py). Everything after
the scaler treats them like features.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from worker.models.attribution import Attribution
from worker.models.base import Autoencoder
from worker.models.calibration import Calibration
from worker.models.entities import EntityScaler
from worker.models.incomplete import IncompleteScores, filled
from worker.models.scaler import Scaler
from worker.models.variational import Variational
from worker.models.whitening import Whitening
from worker.native.arrays import Float64s

# Degrees of freedom of the Student t distribution whose log density the score follows. Up to about five standard
# deviations the score is close to w^2. Beyond, one wild reading does not outweigh several that are off.
DEGREES: Final = 30.0


class ScoringModule(nn.Module):
    """The part of a detector that lives on the device. D = K d columns; K is 1 without windows.

    Models of earlier releases have no `incomplete`: they see 0 for a missing reading.
    """

    def __init__(
        self,
        scaler: Scaler,
        autoencoder: Autoencoder,
        whitening: Whitening,
        attribution: Attribution,
        incomplete: IncompleteScores | None,
    ):
        super().__init__()
        self.scaler = scaler
        self.autoencoder = autoencoder
        self.whitening = whitening
        self.attribution = attribution
        self.incomplete = incomplete

    def forward(self, x: Tensor, least_present: float = 0.0) -> Tensor:
        """Return the scores [n] of x [n, D], where NaN is a missing reading.

        A row of which a smaller share than `least_present` is there, or nothing at all, scores NaN. The score is the
        mean over the readings of nu log(1 + w^2 / nu): about 1 for a normal row. That of an incomplete row is put on
        the scale of complete ones.
        """
        z, present = self._filled(x)
        w = self.whitening(z - self.autoencoder(z), present)
        terms = w.square_().div_(DEGREES).log1p_()
        if present is None:
            scores: Tensor = terms.mean(1) * DEGREES
            return scores
        n_present = present.sum(1)
        has_enough = (n_present >= least_present * present.shape[1]) & (n_present > 0)
        mean = torch.where(has_enough, terms.sum(1) * DEGREES / n_present, torch.nan)
        return mean if self.incomplete is None else self.incomplete(mean, 1 - n_present / present.shape[1])

    def explain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the expected columns [n, D] in their own units, and contributions [n, D], shares that add up to 1."""
        z, present = self._filled(x)
        reconstruction = self.autoencoder(z)
        contributions: Tensor = self.attribution(z - reconstruction, z, present)
        return self.scaler.inverse(reconstruction), contributions

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes [n, c] of x [n, D]."""
        return self.autoencoder.encode(self._filled(x)[0])

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return x [n, D] cleaned, in its own units, with nothing missing."""
        return self.scaler.inverse(self.autoencoder(self._filled(x)[0]))

    def _filled(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return scaled rows [n, D], and `present` [n, D], 1 or 0; None if all readings are present."""
        z, present = self.scaler(x)
        if present is None or self.incomplete is None:
            return z, present
        return filled(self.autoencoder, z, present), present

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n normal rows [n, D] in their own units, of a kind that can sample.

        A row is what the autoencoder decodes from the prior, with a residual as normal rows have it.
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
        """Return the scores [n] of x [n, D], where the module lives.

        `entity` [n] are rows of the entity scaler; the fleet's if not given.
        """
        with torch.inference_mode():
            if self.entities is not None and entity is not None:
                x = self.entities(x, entity)
            return self.module(x)  # type: ignore[no-any-return]

    def p_value(self, x: Tensor, entity: Tensor | None = None) -> Float64s:
        """Return the p-values [n] of x [n, D]."""
        return self.calibration.p_value(self.score(x, entity).cpu().numpy())
