"""The readings that were decoded from a block of records, where each stands for itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from worker.blocks.named_records import NamedRecords
from worker.blocks.record_block import RecordBlock
from worker.blocks.vector_block import Reject, VectorBlock
from worker.native.arrays import Float32s, Int64s


@dataclass(frozen=True)
class ReadingBlock(NamedRecords):
    """The n readings of a RecordBlock, in the order of their records.

    `record` [n] is the index of the source record, `column` [n] the feature, or -1 for a tag that is none. `value` [n]
    is NaN where the sensor says that it has no valid reading. `time` [n] is in milliseconds since the epoch. The rest
    is as in VectorBlock.
    """

    records: RecordBlock
    record: Int64s
    column: Int64s
    value: Float32s
    time: Int64s
    entities: Mapping[int, str]
    rejects: Sequence[Reject]
    nulls: int
    timed: int

    def __len__(self) -> int:
        return len(self.record)

    @classmethod
    def of_vectors(cls, block: VectorBlock, step: int) -> "ReadingBlock":
        """Return the readings of vectors of which each has only some. A vector without any tells the time alone.

        Rows without a time of their own are `step` ms apart.
        """
        times = block.time + (block.row if block.steps is None else block.steps) * step
        row, column = np.nonzero(~np.isnan(block.x))
        values = block.x[row, column]
        empty = np.setdiff1d(np.arange(len(block)), row)
        if len(empty):
            row = np.concatenate((row, empty))
            order = np.argsort(row, kind="stable")
            row = row[order]
            column = np.concatenate((column, np.full(len(empty), -1)))[order]
            values = np.concatenate((values, np.full(len(empty), np.nan, np.float32)))[order]
        return cls(
            records=block.records,
            record=block.record[row],
            column=column.astype(np.int64),
            value=values,
            time=times[row],
            entities=block.entities,
            rejects=block.rejects,
            nulls=block.nulls,
            timed=block.timed,
        )
