"""Finds the entities that have been silent for long by the wall clock.

Their last readings are made vectors although no later record has come. When that was does not follow from the records,
so it is remembered, and stored beside the committed offset.
"""

import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

KEPT: Final = 8  # of a partition; the last one covers all entities that have been silent since
_MARKS: Final = 4  # positions remembered for each time of silence


class Flush(NamedTuple):
    """When the offset `at` was next, the entities were closed whose last record lies before the offset `before`."""

    at: int
    before: int


class Silence:
    """Remembers for each partition when which offset was next, and which flushes there have been.

    An entity is silent if `seconds` have passed since its last record was read.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._next: dict[int, int] = {}
        self._marks: dict[int, deque[tuple[float, int]]] = defaultdict(deque)
        self._made: dict[int, deque[Flush]] = defaultdict(lambda: deque(maxlen=KEPT))

    def passed(self, ends: Mapping[int, int]) -> None:
        """Take note that the records before `ends` (partition -> offset) have been processed."""
        self._next.update(ends)

    def due(self, positions: Mapping[int, int]) -> list[tuple[int, Flush]]:
        """Return the flushes that are due, for partitions of which all before the position has been processed."""
        now, due = time.monotonic(), []
        for partition, following in self._next.items():
            marks = self._marks[partition]
            if not marks or now - marks[-1][0] >= self._seconds / _MARKS:
                marks.append((now, following))
            before = -1
            while marks and now - marks[0][0] >= self._seconds:
                before = marks.popleft()[1]
            if before >= 0 and positions.get(partition, -1) >= following:
                due.append((partition, Flush(following, before)))
        return due

    def made(self, partition: int, flush: Flush) -> None:
        """Take note that a flush has closed something."""
        self._made[partition].append(flush)

    def flushes(self, partition: int) -> Sequence[Flush]:
        """Return the last flushes of a partition, the newest last."""
        return tuple(self._made.get(partition, ()))

    def restore(self, partition: int, end: int, flushes: Sequence[Flush]) -> None:
        """Go on at the offset `end`, after the flushes of the former owner."""
        self.forget(partition)
        self._next[partition] = end
        self._made[partition].extend(flushes)

    def forget(self, partition: int) -> None:
        """Forget a partition that was revoked, or is read again."""
        for state in (self._next, self._marks, self._made):
            state.pop(partition, None)
