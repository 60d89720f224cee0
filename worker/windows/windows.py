"""The windows of all entities: takes rows in the order of their arrival, and returns each row's last w vectors.

A row's window consists of what had arrived by then, ordered by event time, regardless of the batches. The same records
therefore give the same windows again after a crash.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from worker.blocks import VectorBlock
from worker.blocks.entity_codes import EntityCodes
from worker.models.wavelet import blocks, spans
from worker.native.arrays import Bools, Float32s, Int64s
from worker.native.jit import read_only
from worker.settings import EntitySettings, InputSettings
from worker.windows import ring

LEAST_MAX_GAP: Final = 3600.0  # seconds
INTERVALS: Final = 4  # an entity that is silent for about so many of its intervals has been away


@dataclass(frozen=True, slots=True)
class Windowed:
    """`x` [n, K d], the coefficients of a block's windows.

    They are NaN where a window is not full yet (`cold` [n]) or its newest vector has too few readings. `late` vectors
    came out of order beyond the bound, and have no window. `restarted` windows began anew, after a gap or because the
    entity's clock was set back. `set_back` are the rows, in ascending order, at which the latter was detected.
    """

    x: Float32s
    cold: Bools
    late: int
    restarted: int
    set_back: Int64s


def max_gap(inputs: InputSettings, interval: float) -> float:
    """Return how many seconds an entity may be silent without starting a new window.

    `interval` is the time in seconds between two of its vectors, 0 if unknown. It is measured, and a new value must not
    mean new windows: so the result is an hour times a power of two.
    """
    if inputs.max_gap is not None:
        return inputs.max_gap
    return LEAST_MAX_GAP * 2.0 ** round(math.log2(max(INTERVALS * interval / LEAST_MAX_GAP, 1)))


class Windows:
    """The windows of all entities, of vectors with d features.

    They take entities * (w + reorder) * (4 d + 16) bytes, as entities appear. `interval` is as in `max_gap`.
    """

    def __init__(
        self,
        window: int,
        width: int,
        max_missing: float,
        inputs: InputSettings,
        entities: EntitySettings,
        *,
        interval: float = 0.0,
    ):
        length, capacity = window + inputs.reorder, entities.max
        self._columns = blocks(window) * width
        self._spans = np.array(spans(window), np.int64).reshape(-1, 2)
        self._least = width * (1 - max_missing)
        self._step = int(round(inputs.step * 1000)) if inputs.step else 0
        self._max_gap, self._reorder = int(max_gap(inputs, interval) * 1000), inputs.reorder
        # Pages that nobody has touched yet take no memory.
        self._rings = np.empty((capacity, length, width), np.float32)
        self._time = np.empty((capacity, length), np.int64)
        self._offset = np.empty((capacity, length), np.int64)
        self._head = np.zeros(capacity, np.int64)
        self._count = np.zeros(capacity, np.int64)
        self._last = np.zeros(capacity, np.int64)  # event time of what came last
        self._late_run = np.zeros(capacity, np.int64)  # late rows one after another, up to now
        self._anchor = np.full(capacity, -1)  # see ring.push, with the next two
        self._high = np.zeros(capacity, np.int64)
        self._in_order = np.zeros(capacity, np.int64)
        self._codes = EntityCodes(capacity, entities.idle)

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def evicted(self) -> int:
        """Return how many entities lost their windows because they were idle, or for want of room."""
        return self._codes.evicted

    def push(self, block: VectorBlock) -> Windowed:
        """Take a block's vectors into the windows; return each vector's window."""
        records, n = block.records, len(block)
        partition = records.partition[block.record]
        offset = records.offset[block.record] if block.since is None else block.since
        hashes = block.entity_hash[block.record]
        times = block.time + (block.row if block.steps is None else block.steps) * self._step
        x = np.empty((n, self._columns), np.float32)
        flags = np.empty(n, np.uint8)
        begin = 0
        while begin < n:
            codes = self._codes.assign(hashes[begin:], partition[begin:])
            part = slice(begin, begin + len(codes))
            flags[part] = ring.push(
                read_only(block.x[part]),
                times[part],
                offset[part],
                codes,
                self._rings,
                self._time,
                self._offset,
                self._head,
                self._count,
                self._last,
                self._late_run,
                self._anchor,
                self._high,
                self._in_order,
                self._spans,
                self._step,
                self._max_gap,
                self._reorder,
                self._least,
                x[part],
            )
            begin += len(codes)
            if begin < n:
                self._drop(self._codes.idlest())
        return Windowed(
            x,
            (flags & ring.COLD) > 0,
            int(np.count_nonzero(flags & ring.LATE)),
            int(np.count_nonzero(flags & ring.RESTARTED)),
            np.flatnonzero(flags & ring.SET_BACK),
        )

    def forget(self, partition: int) -> None:
        """Forget a partition that was revoked, or is read again."""
        self._drop(self._codes.of_partition(partition))

    def sweep(self) -> None:
        """Forget the entities that have been idle for too long."""
        self._drop(self._codes.idle())

    def replay_from(self, partition: int, end: int, depth: int) -> int:
        """Return the offset from which reading back fills the windows as they are now.

        It is at most `depth` before `end`.
        """
        earliest = max(end - depth, 0)
        offset, _ = ring.oldest(
            self._codes.owner,
            self._codes.partition,
            self._offset,
            self._head,
            self._count,
            self._anchor,
            partition,
            earliest,
        )
        return end if offset < 0 else int(offset)

    def _drop(self, codes: Int64s) -> None:
        self._count[codes] = 0
        self._late_run[codes] = 0
        self._anchor[codes] = -1
        self._codes.drop(codes)
