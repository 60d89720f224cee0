"""The aligner: takes readings in the order of their arrival, and returns the vectors that they close.

A vector is what was known of an entity at a grid point: the last reading of each tag, unless it is older than the tag
holds. It is closed by the first record with a reading that is more than the lateness newer, and has that record's
identity. The same records therefore give the same vectors again after a crash.

No later record may come. So the readings of an entity that is silent for long by the wall clock are closed all the
same (silence.py).
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from worker.alignment import grid
from worker.alignment.silence import Flush
from worker.blocks import BytesColumn, RecordBlock, Reject, TopicSet, VectorBlock
from worker.blocks.entity_codes import EntityCodes
from worker.blocks.reading_block import ReadingBlock
from worker.errors import SettingsError
from worker.native.arrays import Float32s, Float64s, Int64s
from worker.native.jit import read_only
from worker.settings import EntitySettings, InputSettings

_SPARE: Final = 1024  # room for vectors beside one for each reading


@dataclass(frozen=True, slots=True)
class Aligned:
    """The vectors that a block of readings has closed.

    `late` readings came after their vector. `restarted` entities had a clock that was set back. Of all `readings`, the
    `unknown` have a tag that is no feature, and the `empty` have no value, as of bad quality.
    """

    block: VectorBlock
    readings: int = 0
    late: int = 0
    restarted: int = 0
    unknown: int = 0
    empty: int = 0


def warm_up() -> None:
    """Align a dummy reading, so that live data do not wait for compiled code to be loaded."""
    nothing, zero = BytesColumn.of([b""]), np.zeros(1, np.int64)
    one = Aligner(np.ones(1), InputSettings(align=True, step=1), EntitySettings(max=1))
    records = RecordBlock(TopicSet.of(""), zero, zero, zero, nothing, nothing, {})
    one.push(ReadingBlock(records, zero, zero, np.zeros(1, np.float32), zero, {}, (), 0, 1))
    one.replay_from(0, 1, 1)
    one.flush(0, Flush(1, 1))


class Aligner:
    """The readings of all entities that are not in a vector yet, or that still hold.

    `holds` [d] is how long a reading of each feature holds, in seconds.
    """

    def __init__(self, holds: Float64s, inputs: InputSettings, entities: EntitySettings):
        assert inputs.step is not None
        capacity, width = entities.max, len(holds)
        self._step, self._lateness = int(round(inputs.step * 1000)), int(round(inputs.allowed_lateness * 1000))
        self.hold(holds)
        n_cells = self._lateness // self._step + 2
        try:
            self._cells, self._held = _readings((capacity, n_cells, width)), _readings((capacity, width))
        except MemoryError:
            raise SettingsError(
                f"{capacity:,} entities with {width} tags over {n_cells} steps take too much memory: lower"
                " OFFNORMAL_ENTITIES__MAX or OFFNORMAL_INPUT__LATENESS"
            ) from None
        self._is_known = np.zeros(capacity, np.bool_)
        self._base, self._high = np.zeros(capacity, np.int64), np.zeros(capacity, np.int64)
        self._high_offset, self._last_offset = np.zeros(capacity, np.int64), np.zeros(capacity, np.int64)
        self._flushed_offset = np.zeros(capacity, np.int64)
        self._last_timestamp = np.zeros(capacity, np.int64)
        self._first_point = np.zeros(capacity, np.int64)
        self._late_run = np.zeros(capacity, np.int64)
        self._reach = entities.replay // 2  # the other half is for the vectors of a window
        self._names: dict[int, tuple[bytes | None, str | None]] = {}  # code -> key, and entity of the payload
        self._codes = EntityCodes(capacity, entities.idle)
        self._topics = TopicSet.of("")
        self._to_repeat: dict[int, deque[Flush]] = {}  # by a former owner: not reached yet

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def evicted(self) -> int:
        """Return how many entities lost their readings because they were idle, or for want of room."""
        return self._codes.evicted

    def hold(self, holds: Float64s) -> None:
        """Let the readings of each feature hold for so many seconds [d] from now on."""
        self._hold = np.round(holds * 1000).astype(np.int64)

    def push(self, readings: ReadingBlock) -> Aligned:
        """Take a block's readings; return the vectors that they close."""
        records, n = readings.records, len(readings)
        self._topics = records.topics
        offset, partition = records.offset[readings.record], records.partition[readings.record]
        hashes = readings.entity_hash[readings.record]
        flags = np.zeros(n, np.uint8)
        out = _Out.make(n + _SPARE, len(self._hold))
        begin = 0
        while begin < n:
            codes = self._codes.assign(hashes[begin:], partition[begin:])
            end = begin + len(codes)
            self._name(codes, readings, begin)
            done = 0
            while done < len(codes):
                part = slice(begin, end)
                done, out.n = grid.push(
                    readings.record[part],
                    readings.column[part],
                    read_only(readings.value[part]),
                    readings.time[part],
                    offset[part],
                    codes,
                    self._step,
                    self._lateness,
                    self._hold,
                    *self._cells,
                    *self._held,
                    self._is_known,
                    self._base,
                    self._high,
                    self._high_offset,
                    self._last_offset,
                    self._first_point,
                    self._late_run,
                    self._reach,
                    flags[part],
                    done,
                    out.x,
                    out.record,
                    out.row,
                    out.time,
                    out.since,
                    out.n,
                )
                if done < len(codes):
                    out.grow()
            self._last_timestamp[codes] = records.timestamp[readings.record[part]]
            begin = end
            if begin < n:
                self._drop(self._codes.idlest())
        return Aligned(
            out.block(records, readings.entities, readings.timed, readings.rejects, readings.nulls),
            readings=n,
            late=int(np.count_nonzero(flags & grid.LATE)),
            restarted=int(np.count_nonzero(flags & grid.RESTARTED)),
            unknown=int(np.count_nonzero(readings.column < 0)),
            empty=int(np.count_nonzero((readings.column >= 0) & np.isnan(readings.value))),
        )

    def flush(self, partition: int, flush: Flush) -> VectorBlock | None:
        """Close the cells of the entities that a flush is for; return their vectors, None if there are none."""
        codes = self._codes.of_partition(partition)
        is_open = self._is_known[codes] & (self._base[codes] <= -(-self._high[codes] // self._step))
        codes = codes[is_open & (self._last_offset[codes] < flush.before)]
        if not len(codes):
            return None
        out = _Out.make(len(codes) * self._cells[0].shape[1], len(self._hold))
        out.n = grid.flush(
            codes,
            self._step,
            self._hold,
            *self._cells,
            *self._held,
            self._base,
            self._high,
            self._last_offset,
            self._reach,
            out.x,
            out.record,
            out.row,
            out.time,
            out.since,
        )
        self._flushed_offset[codes] = self._high_offset[codes]
        named = [self._names[code] for code in codes.tolist()]
        records = RecordBlock(
            topics=self._topics,
            partition=np.full(len(codes), partition),
            offset=self._last_offset[codes],
            timestamp=self._last_timestamp[codes],
            keys=BytesColumn.of([key for key, _ in named]),
            values=BytesColumn.of([None] * len(codes)),
            headers={},
        )
        entities = {i: entity for i, (_, entity) in enumerate(named) if entity is not None}
        return out.block(records, entities, len(codes))

    def repeat(self, partition: int, flushes: Sequence[Flush]) -> None:
        """Repeat the flushes of a former owner, when reading back has come to their offsets."""
        if flushes:
            self._to_repeat[partition] = deque(flushes)

    def repeated(self, partition: int, at: int) -> list[VectorBlock]:
        """Repeat the flushes that are due when the offset `at` is next; return their vectors, published long ago."""
        waiting, blocks = self._to_repeat.get(partition), list[VectorBlock]()
        while waiting and waiting[0].at <= at:
            if (block := self.flush(partition, waiting.popleft())) is not None:
                blocks.append(block)
        return blocks

    def split(self, records: RecordBlock) -> list[RecordBlock]:
        """Return the records in parts, so that no flush to repeat is due within one."""
        if not self._to_repeat:
            return [records]
        cuts = {0, len(records)}
        for partition, waiting in self._to_repeat.items():
            own = np.flatnonzero(records.partition == partition)
            for flush in waiting:
                at = int(np.searchsorted(records.offset[own], flush.at))
                if at < len(own):
                    cuts.add(int(own[at]))
        bounds = sorted(cuts)
        return [records.take(np.arange(a, b)) for a, b in zip(bounds, bounds[1:], strict=False)]

    def forget(self, partition: int) -> None:
        """Forget a partition that was revoked, or is read again."""
        self._drop(self._codes.of_partition(partition))
        self._to_repeat.pop(partition, None)

    def sweep(self) -> None:
        """Forget the entities that have been idle for too long."""
        self._drop(self._codes.idle())

    def replay_from(self, partition: int, end: int, depth: int) -> int:
        """Return the offset from which reading back gives the state as it is now.

        For what is not in a vector yet it may lie more than `depth` before `end`.
        """
        codes = self._codes.of_partition(partition)
        offset = grid.oldest(
            codes,
            self._step,
            self._lateness,
            self._hold,
            self._cells[2],
            *self._held[1:],
            self._base,
            self._high,
            self._high_offset,
            self._flushed_offset,
            max(end - depth, 0),
        )
        return end if offset < 0 else int(offset)

    def _name(self, codes: Int64s, readings: ReadingBlock, begin: int) -> None:
        """Keep the names of entities that are new."""
        new, first = np.unique(codes[~self._is_known[codes]], return_index=True)
        if not len(new):
            return
        rows = np.flatnonzero(~self._is_known[codes])[first] + begin
        for code, record in zip(new.tolist(), readings.record[rows].tolist(), strict=True):
            self._names[code] = readings.records.keys[record], readings.entities.get(record)

    def _drop(self, codes: Int64s) -> None:
        self._is_known[codes] = False
        self._late_run[codes] = 0
        for code in codes.tolist():
            self._names.pop(code, None)
        self._codes.drop(codes)


def _readings(shape: tuple[int, ...]) -> tuple[Float32s, Int64s, Int64s]:
    """Return room for values, times and offsets. Pages that nobody has touched yet take no memory."""
    return np.empty(shape, np.float32), np.empty(shape, np.int64), np.empty(shape, np.int64)


@dataclass
class _Out:
    """Room for vectors, of which there are `n`."""

    x: Float32s
    record: Int64s
    row: Int64s
    time: Int64s
    since: Int64s
    n: int = 0

    @classmethod
    def make(cls, room: int, width: int) -> "_Out":
        record, row, time, since = (np.empty(room, np.int64) for _ in range(4))
        return cls(np.empty((room, width), np.float32), record, row, time, since)

    def grow(self) -> None:
        """Double the room."""
        self.x = np.concatenate((self.x, np.empty_like(self.x)))
        for name in ("record", "row", "time", "since"):
            column = getattr(self, name)
            setattr(self, name, np.concatenate((column, np.empty_like(column))))

    def block(
        self,
        records: RecordBlock,
        entities: Mapping[int, str],
        timed: int,
        rejects: Sequence[Reject] = (),
        nulls: int = 0,
    ) -> VectorBlock:
        """Return the vectors as a block of these records."""
        n = self.n
        return VectorBlock(
            records=records,
            x=self.x[:n],
            record=self.record[:n],
            row=self.row[:n],
            time=self.time[:n],
            entities=entities,
            rejects=rejects,
            nulls=nulls,
            timed=timed,
            steps=np.zeros(n, np.int64),
            since=self.since[:n],
        )
