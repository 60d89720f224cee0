"""The kinds of autoencoder, by the name that settings and artefacts use."""

from worker.models.base import Autoencoder
from worker.models.stacked import Stacked

KINDS: dict[str, type[Autoencoder]] = {kind.kind: kind for kind in (Stacked,)}
