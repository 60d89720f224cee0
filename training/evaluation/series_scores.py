"""Scores a series in the order of time, as a worker does that follows the plant: by trims of what came before.

Rows that were drawn from among those of the training have no such order (Dataset.is_later).
"""

from typing import Final

import numpy as np

from worker.following.follower import Basis, Follower
from worker.models.entities import EntityRows
from worker.models.trim import PlacedTrims
from worker.native.arrays import Float32s
from worker.serving.loaded_model import Explanation, LoadedModel

LATE: Final = 50  # rows that are scored by one trim, which knows the rows up to as many before them
_SERIES: Final = 1  # the hash of the only entity


def followed(model: LoadedModel, x: Float32s, entity: EntityRows) -> tuple[Float32s, Explanation]:
    """Return the scores [n] of rows x [n, D] and what explains them, by a model that follows them.

    A model of an earlier release cannot follow, and scores as it is.
    """
    basis = Basis.of(model)
    if basis is None:
        return model.score(x, entity), model.explain(x, entity)
    follower, own = Follower(basis), model
    scores: list[Float32s] = []
    explained: list[Explanation] = []
    for number, begin in enumerate(range(0, len(x), LATE), 1):
        rows = slice(begin, begin + LATE)
        of_rows = entity.take(rows)._replace(trim=None if own is model else np.ones(len(x[rows]), np.int64))
        scores.append(own.score(x[rows], of_rows))
        explained.append(own.explain(x[rows], of_rows))
        own = model.trimmed({"series/0": PlacedTrims({_SERIES: follower.trim}, (number,))}, number)
        follower.take_from(model, x[rows], of_rows)
    parts = [list(part) for part in zip(*explained, strict=True)]
    return np.concatenate(scores), Explanation(
        *(None if part[0] is None else np.concatenate(part) for part in parts)  # type: ignore[arg-type]
    )
