"""What every kind of autoencoder is: a module that encodes and decodes scaled vectors, and knows its own losses.

A kind is one file: subclass, set `kind`, and enter it in worker/models/kinds.py.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Maps scaled vectors [n, d] to codes [n, c] and back.

    The base's constructor takes d and keyword arguments that `architecture()` gives back, so that an artefact can
    rebuild the module from its metadata.
    """

    kind: ClassVar[str]
    width: int

    def architecture(self) -> dict[str, Any]:
        """The keyword arguments, all JSON, that rebuild this module."""
        raise NotImplementedError

    def encode(self, z: Tensor) -> Tensor:
        """[n, d] -> [n, c]"""
        raise NotImplementedError

    def decode(self, code: Tensor) -> Tensor:
        """[n, c] -> [n, d]"""
        raise NotImplementedError

    def forward(self, z: Tensor) -> Tensor:
        """Reconstruction [n, d]; deterministic."""
        return self.decode(self.encode(z))

    def losses(self, z: Tensor, present: Tensor, generator: torch.Generator) -> Tensor:
        """Training loss of each row [n]: mean squared error over the readings that are `present` [n, d] (1 or 0).

        Kinds that corrupt or sample draw from `generator`, so that a seed gives one model.
        """
        error = (self(z) - z) * present
        losses: Tensor = error.square().sum(1) / present.sum(1).clamp(min=1)
        return losses
