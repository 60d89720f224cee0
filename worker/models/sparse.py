"""The sparse autoencoder: a hidden layer wider than the input, of which each vector may use only a few units.

k-sparse (Makhzani and Frey 2014): all but the k largest activations are set to exactly zero, in training and at
scoring, so that the target is met by construction and not by a penalty that has to be tuned.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn

from worker.models.base import Autoencoder

ACTIVE: Final = 0.1  # share of hidden units that a vector may use


class Sparse(Autoencoder):
    """d-`hidden`-d with at most `active` (a share) of the hidden units in use."""

    kind = "sparse"

    def __init__(self, width: int, hidden: int | None = None, active: float = ACTIVE):
        super().__init__()
        self.width = width
        self.hidden = hidden or min(max(4 * width, 128), max(2 * width, 1024))
        self.active = active
        self.encoder = nn.Linear(width, self.hidden)
        self.decoder = nn.Linear(self.hidden, width)

    def architecture(self) -> dict[str, Any]:
        """Return the arguments that make such a module again."""
        return {"width": self.width, "hidden": self.hidden, "active": self.active}

    def encode(self, z: Tensor) -> Tensor:
        """Return the codes [n, hidden], mostly zeros."""
        activation = torch.relu(self.encoder(z))
        k = max(1, round(self.hidden * self.active))
        if k >= self.hidden:
            return activation
        smallest_kept = activation.topk(k, dim=1).values[:, -1:]
        return torch.where(activation >= smallest_kept, activation, 0.0)

    def decode(self, code: Tensor) -> Tensor:
        """Return the rebuilt rows [n, width]."""
        return self.decoder(code)  # type: ignore[no-any-return]
