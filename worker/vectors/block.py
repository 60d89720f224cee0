"""The two blocks that travel through the worker: fetched records in columns, and the vectors decoded from them.

Work happens on blocks. A Python object per record exists only for what is published.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from worker.addresses import move
from worker.compiled import compiled, read_only

Headers = Sequence[tuple[str, bytes | None]]
Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]


@compiled
def gather(buffer, start, length, out):  # type: ignore[no-untyped-def]
    """Copies slices of `buffer` to `out`, end to end."""
    given, at = np.int64(buffer.ctypes.data), np.int64(out.ctypes.data)
    for i in range(len(start)):
        move(at, given + start[i], length[i])
        at += length[i]


@dataclass(frozen=True, slots=True)
class BytesColumn:
    """n byte strings as slices of one buffer; a length of -1 is null."""

    buffer: memoryview
    start: Int64s
    length: Int64s

    @classmethod
    def of(cls, items: Sequence[bytes | None]) -> "BytesColumn":
        """Copies the items into one buffer, end to end."""
        try:
            data = b"".join(items)  # type: ignore[arg-type]
            length = np.fromiter(map(len, items), np.int64, len(items))  # type: ignore[arg-type]
        except TypeError:  # there are nulls
            data = b"".join(item for item in items if item is not None)
            length = np.fromiter((-1 if item is None else len(item) for item in items), np.int64, len(items))
        sizes = np.maximum(length, 0)
        return cls(memoryview(data), np.cumsum(sizes) - sizes, length)

    @classmethod
    def choice(cls, no: bytes, yes: bytes, which: npt.NDArray[np.bool_]) -> "BytesColumn":
        """One of the two for each, as `which` [n] says."""
        length = np.where(which, len(yes), len(no))
        return cls(memoryview(no + yes), np.where(which, len(no), 0), length)

    @classmethod
    def concat(cls, columns: Sequence["BytesColumn"], joined: memoryview | None = None) -> "BytesColumn":
        """`joined` are their buffers end to end, if they have been joined already."""
        sizes = np.array([len(c.buffer) for c in columns])
        shifts = np.cumsum(sizes) - sizes
        return cls(
            memoryview(b"".join(c.buffer for c in columns)) if joined is None else joined,
            np.concatenate([c.start + shift for c, shift in zip(columns, shifts, strict=True)]),
            np.concatenate([c.length for c in columns]),
        )

    def take(self, indices: Int64s) -> "BytesColumn":
        return BytesColumn(self.buffer, self.start[indices], self.length[indices])

    def compact(self) -> "BytesColumn":
        """The same strings, in a buffer that holds nothing else."""
        sizes = np.maximum(self.length, 0)
        start = np.cumsum(sizes) - sizes
        out = np.empty(int(sizes.sum()), np.uint8)
        gather(read_only(np.frombuffer(self.buffer, np.uint8)), self.start, sizes, out)
        return BytesColumn(out.data, start, self.length)

    def __len__(self) -> int:
        return len(self.length)

    def view(self, i: int) -> memoryview:
        """The i-th string without a copy; an empty view where it is null."""
        return self.buffer[self.start[i] : self.start[i] + max(self.length[i], 0)]

    def __getitem__(self, i: int) -> bytes | None:
        return None if self.length[i] < 0 else bytes(self.view(i))

    def __iter__(self) -> Iterator[bytes | None]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True, slots=True)
class RecordBlock:
    """n fetched records of one topic, undecoded, in the order of their offsets within each partition.

    `timestamp` is in milliseconds since the epoch. `headers` has an entry only for a record that has any.
    """

    topic: str
    partition: Int64s
    offset: Int64s
    timestamp: Int64s
    keys: BytesColumn
    values: BytesColumn
    headers: Mapping[int, Headers]

    def __len__(self) -> int:
        return len(self.offset)

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return int(self.values.length.sum())

    @classmethod
    def concat(cls, blocks: Sequence["RecordBlock"]) -> "RecordBlock":
        """Blocks of one topic, in the order of their reading."""
        if len(blocks) == 1:
            return blocks[0]
        headers: dict[int, Headers] = {}
        first = 0
        for block in blocks:
            headers.update({first + i: h for i, h in block.headers.items()})
            first += len(block)
        keys = BytesColumn.concat([b.keys for b in blocks])
        shared = all(b.keys.buffer is b.values.buffer for b in blocks)
        return cls(
            blocks[0].topic,
            np.concatenate([b.partition for b in blocks]),
            np.concatenate([b.offset for b in blocks]),
            np.concatenate([b.timestamp for b in blocks]),
            keys,
            BytesColumn.concat([b.values for b in blocks], keys.buffer if shared else None),
            headers,
        )

    def take(self, indices: Int64s) -> "RecordBlock":
        """The records of these indices, which rise."""
        headers = {new: self.headers[old] for new, old in enumerate(indices.tolist()) if old in self.headers}
        return RecordBlock(
            self.topic,
            self.partition[indices],
            self.offset[indices],
            self.timestamp[indices],
            self.keys.take(indices),
            self.values.take(indices),
            headers if self.headers else {},
        )

    def ends(self) -> dict[int, int]:
        """Partition -> the offset after its last record here."""
        last = np.flatnonzero(np.diff(self.partition, append=-1))  # of each stretch of one partition
        return dict(zip(self.partition[last].tolist(), (self.offset[last] + 1).tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that does not parse: its index in the block, a fixed word for the reason, and the error in words."""

    record: int
    reason: str
    error: str


@dataclass(frozen=True, slots=True)
class VectorBlock:
    """The n vectors of a RecordBlock, all of one feature schema.

    `x` is float32 [n, d], NaN where a reading is missing; `record` [n] points to the source record, `row` [n] counts
    within it; `time` [n] is the event time in milliseconds since the epoch. `entities`, per record, is there only
    where the payload names them; else the record's key is the entity. `nulls` counts skipped records without a value.
    """

    records: RecordBlock
    x: Float32s
    record: Int64s
    row: Int64s
    time: Int64s
    entities: Mapping[int, str]
    rejects: Sequence[Reject]
    nulls: int

    def __len__(self) -> int:
        return len(self.x)

    def entity(self, i: int) -> str | None:
        """The entity of the i-th vector, or None where neither payload nor key names one."""
        return self.entity_of_record(int(self.record[i]))

    def entity_of_record(self, record: int) -> str | None:
        if record in self.entities:
            return self.entities[record]
        key = self.records.keys[record]
        return None if key is None else key.decode("utf-8", "replace")
