"""The variational autoencoder (Kingma and Welling 2014): a code that follows a standard normal, so that one can sample.

Training maximises the evidence lower bound: Gaussian log likelihood with a variance that is learned along (sigma-VAE,
Rybkin et al. 2021, so that nothing has to be tuned between the two terms) minus the divergence of the code from the
prior. Against collapse the divergence is phased in, and each code dimension has some nats free (Kingma et al. 2016).
Scoring uses the mean code: the same vector always gets the same score. Only `sample` draws.
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from worker.models.base import Autoencoder, Layer, chained, layers, mean_square

BETA: Final = 1.0
FREE_NATS: Final = 0.1  # of each code dimension
WARM_UP: Final = 500  # training steps until the divergence counts in full
_LEAST_LOG_VARIANCE: Final = -9.0  # of the likelihood: a constant set would drive it down for ever


class Variational(Autoencoder):
    """`sizes` are the hidden layers down to the code, as for the stacked kind."""

    kind = "variational"

    def __init__(
        self, width: int, sizes: Sequence[int] | None = None, beta: float = BETA, free_nats: float = FREE_NATS
    ):
        super().__init__()
        self.width = width
        self.sizes = tuple(sizes or (min(max(2 * width, 128), 512), max(2, min(width // 2, 32))))
        self.beta = beta
        self.free_nats = free_nats
        *hidden, code = self.sizes
        self.encoder = layers([width, *hidden, 2 * code])
        self.decoder = layers([width, *self.sizes][::-1])
        self.log_variance = nn.Parameter(torch.zeros(()))
        self._steps = 0

    def architecture(self) -> dict[str, Any]:
        """Return the arguments that make such a module again."""
        return {"width": self.width, "sizes": list(self.sizes), "beta": self.beta, "free_nats": self.free_nats}

    def posterior(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean [n, c] and log variance [n, c] of the codes of z [n, d]."""
        mean, log_variance = self.encoder(z).chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 10)

    def chain(self) -> list[Layer]:
        """Return the layers, for the compiled scorer; of the posterior the mean alone."""
        *encoder, (weight, bias, _) = chained(self.encoder)
        code = self.sizes[-1]  # of the posterior the mean alone
        return [*encoder, (weight[:code], bias[:code], False), *chained(self.decoder)]

    def encode(self, z: Tensor) -> Tensor:
        """Return the posterior's means [n, k]."""
        return self.posterior(z)[0]

    def decode(self, code: Tensor) -> Tensor:
        """Return the rebuilt rows [n, width]."""
        return self.decoder(code)  # type: ignore[no-any-return]

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n vectors [n, d] in scaled units: the decoder's means of codes drawn from the prior."""
        return self.decode(torch.randn(n, self.sizes[-1], generator=generator, device=generator.device))

    def losses(self, z: Tensor, present: Tensor, generator: torch.Generator) -> Tensor:
        """Return the negative evidence lower bound [n] of each row, by reading."""
        mean, log_variance = self.posterior(self.corrupt(z, generator))
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        error = mean_square(self.decode(mean + noise * (log_variance / 2).exp()) - z, present)
        own = self.log_variance.clamp(min=_LEAST_LOG_VARIANCE)
        surprise = (error / own.exp() + own) / 2
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
        if self.training:
            self._steps += 1
        weight = self.beta * (min(1.0, self._steps / WARM_UP) if self.training else 1.0)
        return surprise + weight * divergence.clamp(min=self.free_nats).sum(1) / self.width
