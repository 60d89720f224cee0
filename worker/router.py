"""Which model scores which records: by patterns over their keys."""

import fnmatch
from collections.abc import Mapping
from typing import Final

import numpy as np

from worker.vectors import RecordBlock
from worker.vectors.identity import hashes

_REMEMBERED: Final = 1_000_000  # keys; beyond, all are matched anew


class Router:
    """`routes` are pattern -> model, with patterns as in a shell (`press-*`); the first that fits counts. Keys that
    none fits, and records without a key, go to `otherwise`, or, where that is None, nowhere.
    """

    def __init__(self, routes: Mapping[str, str], otherwise: str | None):
        self._routes, self._otherwise = routes, otherwise
        self._models = list(dict.fromkeys([*routes.values(), otherwise]))
        self._number = {model: i for i, model in enumerate(self._models)}
        self._known: dict[int, int] = {}  # hash of partition and key -> number of its model

    def model(self, key: bytes | None) -> str | None:
        name = None if key is None else key.decode("utf-8", "replace")
        if name is not None:
            for pattern, model in self._routes.items():
                if fnmatch.fnmatchcase(name, pattern):
                    return model
        return self._otherwise

    def split(self, records: RecordBlock) -> list[tuple[str, RecordBlock]]:
        """The block in parts, one for each model that has any of it."""
        if not self._routes and self._otherwise is not None:
            return [(self._otherwise, records)]
        found, first, inverse = np.unique(hashes(records, records.keys), return_index=True, return_inverse=True)
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        numbers = np.empty(len(found), np.int64)
        for i, (entity, record) in enumerate(zip(found.tolist(), first.tolist(), strict=True)):
            number = self._known.get(entity)
            if number is None:
                number = self._known[entity] = self._number[self.model(records.keys[record])]
            numbers[i] = number
        of_record = numbers[inverse]
        parts = ((model, np.flatnonzero(of_record == i)) for i, model in enumerate(self._models))
        return [(model, records.take(indices)) for model, indices in parts if model is not None and len(indices)]
