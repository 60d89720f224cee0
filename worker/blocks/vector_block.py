"""The vectors that were decoded from a block of records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worker.blocks.named_records import NamedRecords
from worker.blocks.record_block import RecordBlock
from worker.native.arrays import Float32s, Int64s


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that does not parse: its index in the block, a fixed word for the reason, and the error in words."""

    record: int
    reason: str
    error: str


@dataclass(frozen=True)
class VectorBlock(NamedRecords):
    """The n vectors of a RecordBlock, all of one feature schema.

    `x` is float32 [n, d], NaN where a reading is missing. `record` [n] is the index of the source record, and `row` [n]
    counts within it. `time` [n] is the event time in milliseconds since the epoch, and `steps` [n] how many steps later
    the vector lies: rows without a time of their own follow one another. `since` [n] is the offset from which reading
    back gives all that the vector is made of, if that is not its record's. `entities` maps a record to the entity that
    its payload names; other records have their key as the entity. `nulls` counts skipped records without a value,
    `timed` the records whose event time is in their payload.
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
    steps: Int64s | None = None  # None: as `row`
    since: Int64s | None = None

    def __len__(self) -> int:
        return len(self.x)

    def entity(self, i: int) -> str | None:
        """Return the entity of the i-th vector, or None where neither payload nor key names one."""
        return self.entity_of_record(int(self.record[i]))
