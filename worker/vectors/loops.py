"""What the compiled loops of the formats have in common: what is to be done with a field, and what they fill."""

from typing import Final

import numpy as np

from worker.vectors.block import BytesColumn, Int64s
from worker.vectors.formats import LONGEST_ENTITY, NO_TIME, Parsed

# What to do with the value of a key or field; what is not negative is a column.
VALUES: Final = -1
SKIP: Final = -2
TIME: Final = -3
ENTITY: Final = -4
REFUSED: Final = -5


class Taken:
    """Of n records a row `x` [n, d] each, the event time, and where in the buffer the entity's name begins and ends."""

    def __init__(self, n: int, width: int, whole: bool):
        """`whole`: each of the records has all features."""
        self.x = np.empty((n, width), np.float32)
        if not whole:
            self.x[:] = np.nan
        self.times = np.full(n, NO_TIME)
        self.names = np.zeros((n, 2), np.int64)

    def parsed(
        self, values: BytesColumn, records: Int64s, good: np.ndarray[tuple[int], np.dtype[np.bool_]]
    ) -> tuple[Parsed, Int64s]:
        """The `records` that the loop took, `good` [n], and those that it refused."""
        x, times, names = self.x, self.times, self.names
        good &= names[:, 1] - names[:, 0] <= LONGEST_ENTITY
        taken, refused = records[good], records[~good]
        if len(refused):
            x, times, names = x[good], times[good], names[good]
        entities = named(values, taken, names)
        timed = times != NO_TIME
        event_times = dict(zip(taken[timed].tolist(), times[timed].tolist(), strict=True))
        return Parsed(taken, np.ones(len(taken), np.int64), x, (), entities, event_times), refused


def named(values: BytesColumn, records: Int64s, names: Int64s) -> dict[int, str]:
    """The entities of those `records` whose names, in ASCII, lie in the buffer: `names` [n, 2], 0 where it has none."""
    there = names[:, 0] > 0
    if not there.any():
        return {}
    places = zip(records[there].tolist(), names[there].tolist(), strict=True)
    return {r: str(values.buffer[begin:end], "ascii") for r, (begin, end) in places}
