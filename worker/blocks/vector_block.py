"""The vectors that were decoded from a block of records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from worker.blocks.bytes_column import BytesColumn
from worker.blocks.entity_hash import hashes
from worker.blocks.record_block import RecordBlock
from worker.native.arrays import Float32s, Int64s, UInt64s


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that does not parse: its index in the block, a fixed word for the reason, and the error in words."""

    record: int
    reason: str
    error: str


@dataclass(frozen=True)
class VectorBlock:
    """The n vectors of a RecordBlock, all of one feature schema.

    `x` is float32 [n, d], NaN where a reading is missing. `record` [n] is the index of the source record, and `row` [n]
    counts within it. `time` [n] is the event time in milliseconds since the epoch. `entities` maps a record to the
    entity that its payload names; other records have their key as the entity. `nulls` counts skipped records without a
    value, `timed` the records whose event time is in their payload.
    """

    records: RecordBlock
    x: Float32s
    record: Int64s
    row: Int64s
    time: Int64s
    entities: Mapping[int, str]
    rejects: Sequence[Reject]
    nulls: int
    timed: int = 0

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def entity_names(self) -> BytesColumn:
        """The names of the records' entities, null where neither payload nor key names one."""
        keys = self.records.keys
        if not self.entities:
            return keys
        named = self.entities
        return BytesColumn.of([named[r].encode() if r in named else keys[r] for r in range(len(keys))])

    @cached_property
    def entity_hash(self) -> UInt64s:
        """A hash for each record, equal for the records of one entity in one partition; never 0."""
        return hashes(self.records, self.entity_names)

    def entity(self, i: int) -> str | None:
        """Return the entity of the i-th vector, or None where neither payload nor key names one."""
        return self.entity_of_record(int(self.record[i]))

    def entity_of_record(self, record: int) -> str | None:
        """Return the entity of a record, or None where neither payload nor key names one."""
        if record in self.entities:
            return self.entities[record]
        key = self.records.keys[record]
        return None if key is None else key.decode("utf-8", "replace")
