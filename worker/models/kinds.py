"""The kinds of autoencoder, by the name that settings and artefacts use."""

from worker.models.base import Autoencoder
from worker.models.denoising import Denoising
from worker.models.sparse import Sparse
from worker.models.stacked import Stacked
from worker.models.variational import Variational

KINDS: dict[str, type[Autoencoder]] = {kind.kind: kind for kind in (Stacked, Sparse, Denoising, Variational)}
