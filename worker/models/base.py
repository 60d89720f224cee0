"""What every kind of autoencoder is: a module that encodes and decodes scaled vectors, and knows its own losses.

A kind is one file: subclass, set `kind`, enter it in kinds.py; tests/unit/worker/models/test_kinds.py then checks it.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

# In training, half of the rows lose up to this share of their readings, which the others have to make up for.
DROPPED: Final = 0.3

# weight [out, in] and bias [out] of a linear layer, and whether ReLU follows it
Layer = tuple[Tensor, Tensor, bool]


class Autoencoder(nn.Module):
    """Maps scaled vectors [n, d], 0 where a reading is missing, to codes [n, c] and back.

    The constructor takes d and keyword arguments that `architecture()` gives back, so that an artefact can rebuild the
    module from its metadata.
    """

    kind: ClassVar[str]
    width: int

    def architecture(self) -> dict[str, Any]:
        """Return the keyword arguments, all JSON, that rebuild this module."""
        raise NotImplementedError

    def encode(self, z: Tensor) -> Tensor:
        """Return the codes [n, c] of z [n, d]. Deterministic."""
        raise NotImplementedError

    def decode(self, code: Tensor) -> Tensor:
        """Return the vectors [n, d] of codes [n, c]. Deterministic."""
        raise NotImplementedError

    def chain(self) -> Sequence[Layer] | None:
        """Return the layers one after another from z to the reconstruction; None where it is more than that."""
        return None

    def forward(self, z: Tensor) -> Tensor:
        """Return the reconstruction [n, d]."""
        return self.decode(self.encode(z))

    def corrupt(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Return what the encoder sees of z [n, d] in training; never used for scoring."""
        share = (torch.rand(len(z), 1, generator=generator, device=z.device) * 2 - 1).clamp(min=0) * DROPPED
        return z * (torch.rand(z.shape, generator=generator, device=z.device) >= share)

    def losses(self, z: Tensor, present: Tensor, generator: torch.Generator) -> Tensor:
        """Return the training loss of each row [n]: the mean squared error over the `present` [n, d] (1 or 0) readings.

        Readings that `corrupt` took away count too. All randomness comes from `generator`, so that a seed gives one
        model.
        """
        return mean_square(self(self.corrupt(z, generator)) - z, present)


def mean_square(error: Tensor, present: Tensor) -> Tensor:
    """Return the mean square [n] of errors [n, d], over the readings that are present."""
    return (error.square() * present).sum(1) / present.sum(1).clamp(min=1)


def layers(sizes: Sequence[int]) -> nn.Sequential:
    """Return linear layers with ReLU between them; the last one is linear."""
    modules: list[nn.Module] = []
    for before, after in pairwise(sizes):
        modules += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def chained(*networks: nn.Sequential) -> list[Layer]:
    """Return the layers of these networks, one after another."""
    layers: list[Layer] = []
    for module in (module for network in networks for module in network):
        if isinstance(module, nn.Linear):
            layers.append((module.weight.detach(), module.bias.detach(), False))
        else:
            layers[-1] = (*layers[-1][:2], True)
    return layers
