"""Records as they were fetched, in columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from worker.blocks.bytes_column import BytesColumn, Headers
from worker.blocks.topic_set import TopicSet
from worker.native.arrays import Int64s


@dataclass(frozen=True, slots=True)
class RecordBlock:
    """n fetched records, undecoded, in the order of their offsets within each partition.

    `partition` numbers the partitions of all `topics`: with one topic, it is Kafka's own number (topic_set.py).
    `timestamp` is in milliseconds since the epoch. `headers` has an entry only for a record that has any. `origin` are
    the records as they were fetched, where these are a translation (worker/decoding/sparkplug).
    """

    topics: TopicSet
    partition: Int64s
    offset: Int64s
    timestamp: Int64s
    keys: BytesColumn
    values: BytesColumn
    headers: Mapping[int, Headers]
    origin: "RecordBlock | None" = None

    def __len__(self) -> int:
        return len(self.offset)

    @property
    def size(self) -> int:
        """Return the number of bytes of the values."""
        return int(self.values.length.sum())

    @classmethod
    def concat(cls, blocks: Sequence["RecordBlock"]) -> "RecordBlock":
        """Join blocks as they were fetched, of the same topics, in the order in which they were read."""
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
            topics=blocks[0].topics,
            partition=np.concatenate([b.partition for b in blocks]),
            offset=np.concatenate([b.offset for b in blocks]),
            timestamp=np.concatenate([b.timestamp for b in blocks]),
            keys=keys,
            values=BytesColumn.concat([b.values for b in blocks], keys.buffer if shared else None),
            headers=headers,
        )

    def take(self, indices: Int64s) -> "RecordBlock":
        """Return the records of these indices, which are in ascending order."""
        headers = {new: self.headers[old] for new, old in enumerate(indices.tolist()) if old in self.headers}
        return RecordBlock(
            topics=self.topics,
            partition=self.partition[indices],
            offset=self.offset[indices],
            timestamp=self.timestamp[indices],
            keys=self.keys.take(indices),
            values=self.values.take(indices),
            headers=headers if self.headers else {},
            origin=None if self.origin is None else self.origin.take(indices),
        )

    def begins(self) -> dict[int, int]:
        """Return the offset of the first record of each partition in the block."""
        partitions, first = np.unique(self.partition, return_index=True)
        return dict(zip(partitions.tolist(), self.offset[first].tolist(), strict=True))

    def ends(self) -> dict[int, int]:
        """Return the offset after the last record of each partition in the block."""
        last = np.flatnonzero(np.diff(self.partition, append=-1))  # of each stretch of one partition
        return dict(zip(self.partition[last].tolist(), (self.offset[last] + 1).tolist(), strict=True))
