"""The entities that vectors within budget may change something for, in columns, counted without a look at each."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from worker.compiled import compiled, read_only
from worker.vectors.identity import UInt64s

Int64s = npt.NDArray[np.int64]

NEVER: Final = int(np.iinfo(np.int64).max)


class Watched(NamedTuple):
    """An entity that has had `position` vectors: at position `expires` its oldest flag runs out, at event time `closes`
    its incident does. `seen` is when its last vector came, in monotonic seconds.
    """

    entity: int
    position: int
    expires: int
    closes: int
    seen: float


_COLUMNS: Final = np.dtype([("entity", "u8"), ("position", "i8"), ("expires", "i8"), ("closes", "i8"), ("seen", "f8")])


@compiled
def place(known, wanted):  # type: ignore[no-untyped-def]
    """Where it is in `known`, which rises; -1 if it is not there."""
    low, high = 0, len(known) - 1
    while low < high:
        middle = (low + high) // 2
        if known[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low if len(known) and known[low] == wanted else -1


@compiled
def _count(known, of_row, times, counts, latest):  # type: ignore[no-untyped-def]
    """How many of the rows are of each of the `known` entities, which rise, and the latest time of these."""
    k = -1
    for i in range(len(of_row)):
        if k < 0 or known[k] != of_row[i]:  # mostly it is the one of the row before
            k = place(known, of_row[i])
        if k >= 0:
            counts[k] += 1
            latest[k] = max(latest[k], times[i])


class Watch:
    """`rows` are structured, a `Watched` each, by rising entity."""

    def __init__(self) -> None:
        self.rows = np.empty(0, _COLUMNS)

    def __len__(self) -> int:
        return len(self.rows)

    def find(self, entities: UInt64s) -> tuple[Int64s, npt.NDArray[np.bool_]]:
        """[n] Where these are, and whether they are there at all."""
        if not len(self):
            return np.zeros(len(entities), np.int64), np.zeros(len(entities), bool)
        known = self.rows["entity"]
        at = np.minimum(np.searchsorted(known, entities), len(known) - 1)
        return at, known[at] == entities

    def advance(self, of_row: UInt64s, times: Int64s, but: UInt64s, now: float) -> UInt64s:
        """Counts the vectors of all entities that are watched, `but` those of some; -> those for which it is time to
        look, which are not counted either.
        """
        rows = self.rows
        counts, latest = np.zeros(len(rows), np.int64), np.full(len(rows), np.iinfo(np.int64).min)
        _count(rows["entity"].copy(), read_only(of_row), read_only(times), counts, latest)
        due = (latest >= rows["closes"]) | ((counts > 0) & (rows["position"] + counts >= rows["expires"]))
        still = ~due & ~np.isin(rows["entity"], but)
        rows["position"][still] += counts[still]
        rows["seen"][still & (counts > 0)] = now
        found: UInt64s = rows["entity"][due]
        return found

    def replace(self, entities: UInt64s, by: Sequence[Watched]) -> None:
        """Watches these as they are in `by`; or no longer, where they are not in it."""
        at, there = self.find(entities)
        keep = np.ones(len(self), bool)
        keep[at[there]] = False
        rows = np.concatenate((self.rows[keep], np.array(list(by), _COLUMNS)))
        self.rows = rows[np.argsort(rows["entity"])]
