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


# The fields of a record, each a zigzag varint; a key and a value follow theirs.
_LENGTH, _ATTRIBUTES, _TIME, _OFFSET, _KEY, _VALUE, _HEADERS = range(7)
_ONE: Final = np.uint64(1)
_SEVEN: Final = np.uint64(7)
_LOW: Final = np.uint64(0x7F)


@compiled
def _records(buffer, offset, timestamp, starts, lengths, table):
    """Fills the columns. -> how many batches are sound before one is not, and how many records these have.

    One function, since to hand an array to another costs ten times what it does here; places are unsigned, since numba
    looks at each index that may be negative.
    """
    n = np.uint64(0)
    for b in range(len(table)):
        at, end, count = np.uint64(table[b, 0]), np.uint64(table[b, 1]), table[b, 10]
        base_offset, first_timestamp = table[b, 2], table[b, 7]
        is_append_time = table[b, 5] & LOG_APPEND_TIME != 0
        if count < 0 or count > np.int64(end - at) // SMALLEST_RECORD:
            return b, n
        if abs(first_timestamp) > FAR or abs(base_offset) > FAR:
            return b, n
        for r in range(n, n + np.uint64(count)):
            stop = end
            for field in range(7):
                shift, raw, byte = np.uint64(0), np.uint64(0), np.uint64(0x80)
                while byte >= 0x80:
                    if at >= stop or shift > 56:  # cut off, or more than 63 bits
                        return b, n
                    byte = np.uint64(buffer[at])
                    raw |= (byte & _LOW) << shift
                    shift += _SEVEN
                    at += _ONE
                value = np.int64(raw >> _ONE) ^ -np.int64(raw & _ONE)
                if field == _TIME:
                    if abs(value) > FAR:
                        return b, n
                    timestamp[r] = table[b, 8] if is_append_time else first_timestamp + value
                elif field == _OFFSET:
                    if abs(value) > FAR:
                        return b, n
                    offset[r] = base_offset + value
                elif field in (_KEY, _VALUE):
                    if value > np.int64(stop - at):
                        return b, n
                    starts[r, field - _KEY] = at
                    lengths[r, field - _KEY] = value if value >= 0 else -1
                    if value > 0:
                        at += np.uint64(value)
                elif field == _LENGTH:
                    if value < 0 or value > np.int64(stop - at):
                        return b, n
                    stop = at + np.uint64(value)
                elif field == _HEADERS:
                    starts[r, 2], lengths[r, 2] = at - shift // _SEVEN, -1
                    if value < 0:
                        return b, n
                    if value > 0:
                        lengths[r, 2] = stop - np.uint64(starts[r, 2])
                        at = _headers_end(buffer, at, stop, value)
            if at != stop:
                return b, n
        if at != end:
            return b, n
        n += np.uint64(count)
    return len(table), n


@compiled
def _headers_end(buffer, at, end, count):
    """Where so many headers end; past `end` where they are not as they should be."""
    for part in range(2 * count):
        shift, raw, byte = np.uint64(0), np.uint64(0), np.uint64(0x80)
        while byte >= 0x80:
            if at >= end or shift > 56:
                return end + _ONE
            byte = np.uint64(buffer[at])
            raw |= (byte & _LOW) << shift
            shift += _SEVEN
            at += _ONE
        size = np.int64(raw >> _ONE) ^ -np.int64(raw & _ONE)
        is_name = part % 2 == 0
        if size > np.int64(end - at) or (is_name and size < 0):
            return end + _ONE
        if size > 0:
            at += np.uint64(size)
    return at
