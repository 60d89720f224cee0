"""The common parts of the formats' compiled loops: the roles of fields, and the output."""

from typing import Final

import numpy as np

from worker.blocks.bytes_column import BytesColumn
from worker.blocks.limits import MAX_ENTITY_BYTES
from worker.decoding.event_time import NO_TIME
from worker.decoding.format import Parsed
from worker.native.arrays import Int64s

# The role of a key or field. A role that is not negative is a column.
VALUES: Final = -1
SKIP: Final = -2
TIME: Final = -3
ENTITY: Final = -4
REFUSED: Final = -5


class Taken:
    """What a loop fills for n records: rows `x` [n, d], event times, and where the entities' names begin and end."""

    def __init__(self, n: int, width: int, whole: bool):
        """Make room for n records. `whole`: each of them has all features."""
        self.x = np.empty((n, width), np.float32)
        if not whole:
            self.x[:] = np.nan
        self.times = np.full(n, NO_TIME)
        self.names = np.zeros((n, 2), np.int64)

    def parsed(
        self, values: BytesColumn, records: Int64s, good: np.ndarray[tuple[int], np.dtype[np.bool_]]
    ) -> tuple[Parsed, Int64s]:
        """Return the `records` that the loop took, `good` [n], and those that it refused."""
        x, times, names = self.x, self.times, self.names
        good &= names[:, 1] - names[:, 0] <= MAX_ENTITY_BYTES
        accepted, refused = records[good], records[~good]
        if len(refused):
            x, times, names = x[good], times[good], names[good]
        entities = named(values, accepted, names)
        timed = times != NO_TIME
        event_times = dict(zip(accepted[timed].tolist(), times[timed].tolist(), strict=True))
        return Parsed(
            records=accepted,
            counts=np.ones(len(accepted), np.int64),
            x=x,
            rejects=(),
            entities=entities,
            times=event_times,
        ), refused


def named(values: BytesColumn, records: Int64s, names: Int64s) -> dict[int, str]:
    """Return the entities of those `records` whose names, in ASCII, lie in the buffer.

    `names` [n, 2] are addresses, 0 where a record has none.
    """
    has_name = names[:, 0] > 0
    if not has_name.any():
        return {}
    places = zip(records[has_name].tolist(), names[has_name].tolist(), strict=True)
    return {r: str(values.buffer[begin:end], "ascii") for r, (begin, end) in places}
