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
from worker.models.trim import Trims
from worker.models.usual import Usual
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

    def forward(
        self, x: Tensor, least_present: float = 0.0, trims: Trims | None = None, row: Tensor | None = None
    ) -> Tensor:
        """Return the scores [n] of x [n, D], where NaN is a missing reading; with `trims`, by their rows `row` [n].

        A row of which a smaller share than `least_present` is there, or nothing at all, scores NaN; sensors that are
        ignored do not count for that share. The score is the mean over the readings of nu log(1 + w^2 / nu): about 1
        for a normal row. That of an incomplete row is put on the scale of complete ones.
        """
        z, present = self._filled(x)
        w = self._whitened(z - self.autoencoder(z), present, trims, row)
        terms = w.square_().div_(DEGREES).log1p_()
        if present is None:
            scores: Tensor = terms.mean(1) * DEGREES
            return scores
        n_present = present.sum(1)
        counted = present.shape[1] if trims is None or row is None else trims.counted[row]
        has_enough = (n_present >= least_present * counted) & (n_present > 0)
        mean = torch.where(has_enough, terms.sum(1) * DEGREES / n_present, torch.nan)
        return mean if self.incomplete is None else self.incomplete(mean, 1 - n_present / present.shape[1])

    def _whitened(self, residual: Tensor, present: Tensor | None, trims: Trims | None, row: Tensor | None) -> Tensor:
        if trims is None or row is None:
            untrimmed: Tensor = self.whitening(residual, present)
            return untrimmed
        if present is None:
            return (residual @ self.whitening.root + trims.offset[row]) * trims.shrink[row]
        w: Tensor = self.whitening(residual - trims.shift[row], present)
        return w * trims.shrink[row]

    def residual(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the residuals [n, D] of x [n, D], in scaled units, and `present` [n, D], 1 or 0; None if all are."""
        z, present = self._filled(x)
        return z - self.autoencoder(z), present

    def explain(
        self, x: Tensor, trims: Trims | None = None, row: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the expected columns [n, D] in their own units, contributions [n, D], and strengths [n].

        Contributions are shares that add up to 1. Where those of several rows are added up, each counts by its
        strength.
        """
        z, present = self._filled(x)
        reconstruction = self.autoencoder(z)
        residual, shrink = z - reconstruction, None
        if trims is not None and row is not None:
            residual, shrink = residual - trims.shift[row], trims.shrink[row]
        return self.scaler.inverse(reconstruction), *self.attribution(residual, z, present, shrink)

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
    usual: Usual | None = None  # models of earlier releases do not know it

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
