"""The entities with flags or an open incident, in columns, whose vectors within budget are counted in one pass."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from worker.native.arrays import Bools, Int64s, UInt64s
from worker.native.jit import compiled, read_only

NEVER: Final = int(np.iinfo(np.int64).max)


class Watched(NamedTuple):
    """An entity that is watched.

    It has had `position` vectors. At position `expires` its oldest flag runs out; at event time `closes` its incident
    closes. `seen` is when its last vector came, in monotonic seconds.
    """

    entity: int
    position: int
    expires: int
    closes: int
    seen: float


_COLUMNS: Final = np.dtype([("entity", "u8"), ("position", "i8"), ("expires", "i8"), ("closes", "i8"), ("seen", "f8")])


@compiled
def place(watched, wanted):  # type: ignore[no-untyped-def]
    """Return the index of `wanted` in the sorted array `watched`; -1 if it is not there."""
    low, high = 0, len(watched) - 1
    while low < high:
        middle = (low + high) // 2
        if watched[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low if len(watched) and watched[low] == wanted else -1


@compiled
def _count(watched, of_row, times, counts, latest):  # type: ignore[no-untyped-def]
    """Count the rows of each of the `watched` entities, which are sorted, and find the latest time of each."""
    k = -1
    for i in range(len(of_row)):
        if k < 0 or watched[k] != of_row[i]:  # mostly it is the one of the row before
            k = place(watched, of_row[i])
        if k >= 0:
            counts[k] += 1
            latest[k] = max(latest[k], times[i])


class Watch:
    """The watched entities as a structured array of `Watched`, sorted by entity."""

    def __init__(self) -> None:
        self.rows = np.empty(0, _COLUMNS)

    def __len__(self) -> int:
        return len(self.rows)

    def find(self, entities: UInt64s) -> tuple[Int64s, Bools]:
        """Return the index [n] of each entity, and whether it is watched."""
        if not len(self):
            return np.zeros(len(entities), np.int64), np.zeros(len(entities), bool)
        watched = self.rows["entity"]
        index = np.minimum(np.searchsorted(watched, entities), len(watched) - 1)
        return index, watched[index] == entities

    def advance(self, of_row: UInt64s, times: Int64s, but: UInt64s, now: float) -> UInt64s:
        """Count the vectors of all watched entities, except those of `but`; return the entities that are due.

        An entity is due if its oldest flag expires or its incident closes. Its vectors are not counted either.
        """
        rows = self.rows
        counts, latest = np.zeros(len(rows), np.int64), np.full(len(rows), np.iinfo(np.int64).min)
        _count(rows["entity"].copy(), read_only(of_row), read_only(times), counts, latest)
        due = (latest >= rows["closes"]) | ((counts > 0) & (rows["position"] + counts >= rows["expires"]))
        still = ~due & ~np.isin(rows["entity"], but)
        rows["position"][still] += counts[still]
        rows["seen"][still & (counts > 0)] = now
        due_entities: UInt64s = rows["entity"][due]
        return due_entities

    def replace(self, entities: UInt64s, by: Sequence[Watched]) -> None:
        """Update the entities that are in `by`, and drop those that are not."""
        index, is_watched = self.find(entities)
        keep = np.ones(len(self), bool)
        keep[index[is_watched]] = False
        rows = np.concatenate((self.rows[keep], np.array(list(by), _COLUMNS)))
        self.rows = rows[np.argsort(rows["entity"])]
