"""The stacked autoencoder: n hidden layers of ReLU down to a code, mirrored back up; linear at both ends."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from worker.models.base import Autoencoder, Layer, chained, layers


class Stacked(Autoencoder):
    """`sizes` are the hidden layers down to the code, e.g. (64, 16) for d-64-16-64-d; derived from d if not given.

    The bottleneck makes the residual meaningful. It is half of the inputs, since sensors rarely have more independent
    directions.
    """

    kind = "stacked"

    def __init__(self, width: int, sizes: Sequence[int] | None = None):
        super().__init__()
        self.width = width
        self.sizes = tuple(sizes or (min(max(2 * width, 16), 512), max(1, min(width // 2, 64))))
        down = [width, *self.sizes]
        self.encoder = layers(down)
        self.decoder = layers(down[::-1])

    def architecture(self) -> dict[str, Any]:
        """Return the arguments that make such a module again."""
        return {"width": self.width, "sizes": list(self.sizes)}

    def chain(self) -> list[Layer]:
        """Return the layers, for the compiled scorer."""
        return chained(self.encoder, self.decoder)

    def encode(self, z: Tensor) -> Tensor:
        """Return the codes [n, k]."""
        return self.encoder(z)  # type: ignore[no-any-return]

    def decode(self, code: Tensor) -> Tensor:
        """Return the rebuilt rows [n, width]."""
        return self.decoder(code)  # type: ignore[no-any-return]
