"""Hashes that tell which vectors belong to the same entity, without a Python object per record.

A hash has 64 bits: among 100,000 entities, two share a hash with a probability of 3e-10. It is the same after a
restart, since the state that is committed with the offsets identifies entities by it.
"""

import numpy as np

from worker.blocks.bytes_column import BytesColumn
from worker.blocks.record_block import RecordBlock
from worker.native.arrays import UInt64s
from worker.native.jit import compiled, read_only


def hashes(records: RecordBlock, names: BytesColumn) -> UInt64s:
    """Return a hash [n] of each record's partition and name, equal for equal ones; never 0.

    A null name is hashed too: records without any entity are one entity for each partition. The partition is part of
    the hash, since Kafka keeps an order only within a partition.
    """
    data = read_only(np.frombuffer(names.buffer, np.uint8))
    entity_hashes: UInt64s = _hashes(
        records.partition, data, names.start, names.length, np.empty(len(names), np.uint64)
    )
    return entity_hashes


@compiled
def _hashes(partition, buffer, start, length, out):  # type: ignore[no-untyped-def]
    """Compute FNV-1a over the bytes, then MurmurHash3's finaliser, so that each input bit affects all output bits."""
    for i in range(len(out)):
        h = np.uint64(14695981039346656037) ^ (np.uint64(partition[i]) * np.uint64(2) + np.uint64(length[i] >= 0))
        h *= np.uint64(1099511628211)
        for b in range(start[i], start[i] + max(length[i], 0)):
            h = (h ^ np.uint64(buffer[b])) * np.uint64(1099511628211)
        h = (h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
        h = (h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
        h ^= h >> np.uint64(33)
        out[i] = h if h else np.uint64(1)
    return out
