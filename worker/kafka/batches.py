"""Record batches (magic 2) of a fetch response, decoded to columns by compiled loops.

    RecordBatch => BaseOffset i64, Length i32, PartitionLeaderEpoch i32, Magic i8, CRC u32, Attributes i16,
                   LastOffsetDelta i32, FirstTimestamp i64, MaxTimestamp i64, ProducerId i64, ProducerEpoch i16,
                   BaseSequence i32, count i32, Records
    Record      => Length, Attributes, TimestampDelta, OffsetDelta, KeyLength, Key, ValueLength, Value, count, Headers

All big endian; the lengths, deltas and counts of a record are zigzag varints. What is not exactly so is refused, and
left to kafka-python's own classes, which know what to say of it (worker/kafka/columns.py).
"""

# mypy: disable-error-code="no-untyped-def"
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from worker.compiled import compiled

Bytes = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]

HEADER: Final = 61  # bytes of a batch before its records
CHECKED_FROM: Final = 21  # what the CRC covers begins here
SMALLEST_RECORD: Final = 7
FAR: Final = 1 << 60  # for a sum of two of them not to overflow
CODEC, LOG_APPEND_TIME, TRANSACTIONAL, CONTROL = 0x07, 0x08, 0x10, 0x20  # bits of the attributes


class Batch(NamedTuple):
    """The header of one batch, which lies at `begin` to `end` of the buffer."""

    begin: int
    end: int
    base_offset: int
    leader_epoch: int
    crc: int
    attributes: int
    last_offset_delta: int
    first_timestamp: int
    max_timestamp: int
    producer_id: int
    n: int


class Columns(NamedTuple):
    """n records as slices of `buffer`: `starts` [n, 3] of key, value and headers, `lengths` [n, 3] in bytes; -1 is
    null, or no headers. `offset` and `timestamp` (ms) are [n].
    """

    buffer: Bytes
    offset: Int64s
    timestamp: Int64s
    starts: Int64s
    lengths: Int64s

    def __len__(self) -> int:
        return len(self.offset)


def batches(buffer: Bytes) -> tuple[list[Batch], int]:
    """The batches at the head of a fetch response that are of magic 2, and where what follows them begins: at the end
    of the buffer, unless there is more than a batch that was cut off.
    """
    headers = np.empty((len(buffer) // HEADER + 1, len(Batch._fields)), np.int64)
    n, end = _headers(buffer, headers)
    return [Batch(*row) for row in headers[:n].tolist()], int(end)


def records(buffer: Bytes, found: Sequence[Batch]) -> tuple[Columns, int]:
    """The records of these batches, whose records are at `begin` to `end` of `buffer`, up to the first batch that is
    refused; and how many batches these are.
    """
    table = np.array(found, np.int64).reshape(-1, len(Batch._fields))
    n = int(np.clip(table[:, 10], 0, np.maximum(table[:, 1] - table[:, 0], 0) // SMALLEST_RECORD).sum())
    columns = Columns(
        buffer, np.empty(n, np.int64), np.empty(n, np.int64), np.empty((n, 3), np.int64), np.empty((n, 3), np.int64)
    )
    sound, n = _records(*columns, table)
    return Columns(buffer, *(column[:n] for column in columns[1:])), int(sound)


@compiled
def _int(buffer, at, size):
    value = np.int64(np.int8(buffer[at]))
    for i in range(1, size):
        value = (value << 8) | np.int64(buffer[at + i])
    return value


@compiled
def _headers(buffer, out):
    n, at = 0, 0
    while len(buffer) - at >= 12:
        size = _int(buffer, at + 8, 4)
        if at + 12 + size > len(buffer):
            return n, len(buffer)
        if size < HEADER - 12 or buffer[at + 16] != 2:
            return n, at
        out[n, 0] = at
        out[n, 1] = at + 12 + size
        out[n, 2] = _int(buffer, at, 8)
        out[n, 3] = _int(buffer, at + 12, 4)
        out[n, 4] = _int(buffer, at + 17, 4) & 0xFFFFFFFF
        out[n, 5] = _int(buffer, at + 21, 2)
        out[n, 6] = _int(buffer, at + 23, 4)
        out[n, 7] = _int(buffer, at + 27, 8)
        out[n, 8] = _int(buffer, at + 35, 8)
        out[n, 9] = _int(buffer, at + 43, 8)
        out[n, 10] = _int(buffer, at + 57, 4)
        n += 1
        at += 12 + size
    return n, len(buffer)


@compiled
def _varint(buffer, at, end):
    """-> value, and where it ends; -1 where it is cut off or does not fit into 63 bits."""
    result, shift = np.uint64(0), 0
    while at < end and shift < 63:
        b = buffer[at]
        at += 1
        result |= np.uint64(b & 0x7F) << np.uint64(shift)
        if b < 0x80:
            return np.int64(result >> np.uint64(1)) ^ -np.int64(result & np.uint64(1)), at
        shift += 7
    return np.int64(0), -1


@compiled
def _record(buffer, at, end, r, offset, timestamp, starts, lengths, base_offset, first_timestamp, append_timestamp):
    """Fills row r of the columns. -> where the record ends, -1 where it is not exactly as it should be."""
    size, at = _varint(buffer, at, end)
    if at < 0 or size < SMALLEST_RECORD - 1 or size > end - at:
        return -1
    stop = at + size
    _, at = _varint(buffer, at, stop)  # attributes: none are in use
    if at < 0:
        return -1
    delta, at = _varint(buffer, at, stop)
    if at < 0 or abs(delta) > FAR:
        return -1
    timestamp[r] = first_timestamp + delta if append_timestamp < 0 else append_timestamp
    delta, at = _varint(buffer, at, stop)
    if at < 0 or abs(delta) > FAR:
        return -1
    offset[r] = base_offset + delta
    for part in range(2):  # key and value
        size, at = _varint(buffer, at, stop)
        if at < 0 or size > stop - at:
            return -1
        starts[r, part] = at
        lengths[r, part] = max(size, -1)
        at += max(size, 0)
    starts[r, 2] = at
    headers, at = _varint(buffer, at, stop)
    if at < 0 or headers < 0:
        return -1
    for _ in range(headers):
        size, at = _varint(buffer, at, stop)
        if at < 0 or size < 0 or size > stop - at:
            return -1
        for i in range(at, at + size):
            if buffer[i] >= 0x80:  # it may be no UTF-8
                return -1
        at += size
        size, at = _varint(buffer, at, stop)
        if at < 0 or size > stop - at:
            return -1
        at += max(size, 0)
    lengths[r, 2] = stop - starts[r, 2] if headers else -1
    return at if at == stop else -1


@compiled
def _records(buffer, offset, timestamp, starts, lengths, table):
    """Fills the columns. -> how many batches are sound before one is not, and how many records these have."""
    n = 0
    for b in range(len(table)):
        at, end, count = table[b, 0], table[b, 1], table[b, 10]
        base_offset, first_timestamp = table[b, 2], table[b, 7]
        is_append_time = table[b, 5] & LOG_APPEND_TIME != 0
        append_timestamp = table[b, 8] if is_append_time else np.int64(-1)
        if count < 0 or count > (end - at) // SMALLEST_RECORD or (is_append_time and append_timestamp < 0):
            return b, n
        if (
            (table[b, 5] & LOG_APPEND_TIME and append_timestamp < 0)
            or count < 0
            or count > (end - at) // SMALLEST_RECORD
        ):
            return b, n
        if abs(first_timestamp) > FAR or abs(base_offset) > FAR:
            return b, n
        for r in range(n, n + count):
            at = _record(
                buffer, at, end, r, offset, timestamp, starts, lengths, base_offset, first_timestamp, append_timestamp
            )
            if at < 0:
                return b, n
        if at != end:
            return b, n
        n += count
    return len(table), n
