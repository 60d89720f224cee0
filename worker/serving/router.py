"""Which model scores which records: by patterns over their keys."""

import fnmatch
from collections.abc import Mapping
from typing import Final

import numpy as np

from worker.blocks import RecordBlock
from worker.blocks.entity_hash import hashes

_REMEMBERED: Final = 1_000_000  # keys; beyond, all are matched anew


class Router:
    """Chooses the model of a record by its key.

    `routes` maps patterns to models, with patterns as in a shell (`press-*`). The first pattern that fits counts.
    Records without a key, and keys that no pattern fits, go to `otherwise`, or nowhere if that is None.
    """

    def __init__(self, routes: Mapping[str, str], otherwise: str | None):
        self._routes, self._otherwise = routes, otherwise
        self._models = list(dict.fromkeys([*routes.values(), otherwise]))
        self._number = {model: i for i, model in enumerate(self._models)}
        self._known: dict[int, int] = {}  # hash of partition and key -> number of its model

    def model(self, key: bytes | None) -> str | None:
        """Return the model for a key: that of the first pattern that fits, else the default."""
        name = None if key is None else key.decode("utf-8", "replace")
        if name is not None:
            for pattern, model in self._routes.items():
                if fnmatch.fnmatchcase(name, pattern):
                    return model
        return self._otherwise

    def split(self, records: RecordBlock) -> list[tuple[str, RecordBlock]]:
        """Return the block in parts, one for each model that has any records of it."""
        if not self._routes and self._otherwise is not None:
            return [(self._otherwise, records)]
        key_hashes, first, inverse = np.unique(hashes(records, records.keys), return_index=True, return_inverse=True)
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        numbers = np.empty(len(key_hashes), np.int64)
        for i, (entity, record) in enumerate(zip(key_hashes.tolist(), first.tolist(), strict=True)):
            number = self._known.get(entity)
            if number is None:
                number = self._known[entity] = self._number[self.model(records.keys[record])]
            numbers[i] = number
        of_record = numbers[inverse]
        parts = ((model, np.flatnonzero(of_record == i)) for i, model in enumerate(self._models))
        return [(model, records.take(indices)) for model, indices in parts if model is not None and len(indices)]
