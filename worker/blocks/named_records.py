"""The entities of a block's records: what VectorBlock and ReadingBlock have in common."""

from collections.abc import Mapping
from functools import cached_property

from worker.blocks.bytes_column import BytesColumn
from worker.blocks.entity_hash import hashes
from worker.blocks.record_block import RecordBlock
from worker.native.arrays import UInt64s


class NamedRecords:
    """Records and their entities: `entities` maps a record to the one that its payload names; others have their key."""

    records: RecordBlock
    entities: Mapping[int, str]

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

    def entity_of_record(self, record: int) -> str | None:
        """Return the entity of a record, or None where neither payload nor key names one."""
        if record in self.entities:
            return self.entities[record]
        key = self.records.keys[record]
        return None if key is None else key.decode("utf-8", "replace")
