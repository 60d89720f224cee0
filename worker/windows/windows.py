"""The windows of all entities: takes rows in the order of their arrival, and returns each row's last w vectors.

A row's window consists of what had arrived by then, ordered by event time, regardless of the batches. The same records
therefore give the same windows again after a crash.
"""

import math
import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from worker.blocks import VectorBlock
from worker.models.wavelet import blocks, spans
from worker.native.arrays import Bools, Float32s, Int64s
from worker.native.jit import read_only
from worker.settings import EntitySettings, InputSettings
from worker.windows import ring

_SWEEP_EVERY: Final = 10.0  # seconds
LEAST_MAX_GAP: Final = 3600.0  # seconds
INTERVALS: Final = 4  # an entity that is silent for about so many of its intervals has been away
_SPARE: Final = 0.1  # share of the entities to evict at once if there are too many: it costs a pass over all


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
        self._idle = entities.idle
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
        self._seen = np.zeros(capacity, np.float64)
        self._owner = np.zeros(capacity, np.uint64)
        self._partition = np.zeros(capacity, np.int64)
        self._free = np.arange(capacity - 1, -1, -1)  # from the end: low codes first
        self._n_free = capacity
        slots = 1 << (2 * capacity - 1).bit_length()
        self._slots = np.zeros(slots, np.uint64)
        self._slot_codes = np.zeros(slots, np.int64)
        self._swept = time.monotonic()
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._owner) - self._n_free

    def push(self, block: VectorBlock) -> Windowed:
        """Take a block's vectors into the windows; return each vector's window."""
        records, n = block.records, len(block)
        offset, partition = records.offset[block.record], records.partition[block.record]
        hashes = block.entity_hash[block.record]
        times = block.time + block.row * self._step  # the rows of a record are a step apart
        codes = np.empty(n, np.int64)
        x = np.empty((n, self._columns), np.float32)
        flags = np.empty(n, np.uint8)
        now, begin = time.monotonic(), 0
        while begin < n:
            done, self._n_free = ring.assign(
                self._slots,
                self._slot_codes,
                hashes[begin:],
                partition[begin:],
                self._free,
                self._n_free,
                self._owner,
                self._partition,
                self._seen,
                now,
                codes[begin:],
            )
            part = slice(begin, begin + done)
            flags[part] = ring.push(
                read_only(block.x[part]),
                times[part],
                offset[part],
                codes[part],
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
            begin += done
            if begin < n:
                self._make_room()
        return Windowed(
            x,
            (flags & ring.COLD) > 0,
            int(np.count_nonzero(flags & ring.LATE)),
            int(np.count_nonzero(flags & ring.RESTARTED)),
            np.flatnonzero(flags & ring.SET_BACK),
        )

    def forget(self, partition: int) -> None:
        """Forget a partition that was revoked, or is read again."""
        self._drop(np.flatnonzero((self._owner != 0) & (self._partition == partition)))

    def sweep(self) -> None:
        """Forget the entities that have been idle for too long."""
        now = time.monotonic()
        if now - self._swept >= _SWEEP_EVERY:
            self._swept = now
            idle = np.flatnonzero((self._owner != 0) & (now - self._seen >= self._idle))
            self.evicted += len(idle)
            self._drop(idle)

    def replay_from(self, partition: int, end: int, depth: int) -> int:
        """Return the offset from which reading back fills the windows as they are now.

        It is at most `depth` before `end`.
        """
        earliest = max(end - depth, 0)
        offset, _ = ring.oldest(
            self._owner, self._partition, self._offset, self._head, self._count, self._anchor, partition, earliest
        )
        return end if offset < 0 else int(offset)

    def _make_room(self) -> None:
        """Evict the entities that have been idle the longest."""
        spare = max(1, int(len(self._owner) * _SPARE))
        used = np.flatnonzero(self._owner)
        idlest = used[np.argpartition(self._seen[used], spare - 1)[:spare]]
        self.evicted += len(idlest)
        self._drop(idlest)

    def _drop(self, codes: Int64s) -> None:
        if not len(codes):
            return
        self._owner[codes] = 0
        self._count[codes] = 0
        self._late_run[codes] = 0
        self._anchor[codes] = -1
        self._free[self._n_free : self._n_free + len(codes)] = codes
        self._n_free += len(codes)
        ring.rebuild(self._slots, self._slot_codes, self._owner)
