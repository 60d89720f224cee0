"""Which vectors are of the same entity: a hash for each record, so that no Python object is made per record.

64 bits: of 100,000 entities two share a hash with a probability of 3e-10. It stays the same over restarts, since what
is committed with the offsets names entities by it.
"""

import numpy as np
import numpy.typing as npt

from worker.compiled import compiled, read_only
from worker.vectors.block import BytesColumn, RecordBlock, VectorBlock

UInt64s = npt.NDArray[np.uint64]


def identities(block: VectorBlock) -> UInt64s:
    """[records] Equal for the records of one entity in one partition; never 0.

    The entity is what the payload names, else the record's key; records without any are one entity a partition. The
    order of a partition's records is all that Kafka promises, so the partition is part of it.
    """
    return hashes(block.records, names(block))


def names(block: VectorBlock) -> BytesColumn:
    """[records] The names of the records' entities, null where there is none."""
    keys = block.records.keys
    if not block.entities:
        return keys
    return BytesColumn.of([block.entities[r].encode() if r in block.entities else keys[r] for r in range(len(keys))])


def hashes(records: RecordBlock, names: BytesColumn) -> UInt64s:
    data = read_only(np.frombuffer(names.buffer, np.uint8))
    found: UInt64s = _hashes(records.partition, data, names.start, names.length, np.empty(len(names), np.uint64))
    return found


@compiled
def _hashes(partition, buffer, start, length, out):  # type: ignore[no-untyped-def]
    """FNV-1a over the bytes, and the finaliser of MurmurHash3, which lets every bit of the input reach all of these."""
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
