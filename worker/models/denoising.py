"""The denoising autoencoder (Vincent et al. 2008): it sees a corrupted vector and has to give back the clean one.

It learns the way back to the nearest normal vector (Alain and Bengio 2014: the residual follows the gradient of the log
density), and so the distance to it. A single noise level would teach a single distance. So each row gets its own level,
drawn evenly in its logarithm, which the model does not get to know.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from worker.models.stacked import Stacked

NOISE: Final = (0.1, 3.0)  # standard deviations, in scaled units, of which a reading's range has some 3.5
SWAPPED: Final = 0.01  # share of readings taken from another row


class Denoising(Stacked):
    """`sizes` as for the stacked kind, but wide: it is the corruption that forbids the identity, not a bottleneck."""

    kind = "denoising"

    def __init__(
        self,
        width: int,
        sizes: Sequence[int] | None = None,
        noise: Sequence[float] = NOISE,
        swapped: float = SWAPPED,
    ):
        super().__init__(width, sizes or (min(max(2 * width, 128), 512), 32))
        self.noise = tuple(noise)
        self.swapped = swapped

    def architecture(self) -> dict[str, Any]:
        """Return the arguments that make such a module again."""
        return {**super().architecture(), "noise": list(self.noise), "swapped": self.swapped}

    def corrupt(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Add swap noise, then Gaussian noise, then missing readings."""
        low, high = map(math.log, self.noise)
        sigma = (torch.rand(len(z), 1, generator=generator, device=z.device) * (high - low) + low).exp()
        drawn = z.gather(0, torch.randint(len(z), z.shape, generator=generator, device=z.device))
        swapped = torch.rand(z.shape, generator=generator, device=z.device) < self.swapped
        noisy = torch.where(swapped, drawn, z) + sigma * torch.randn(z.shape, generator=generator, device=z.device)
        return super().corrupt(noisy, generator)
