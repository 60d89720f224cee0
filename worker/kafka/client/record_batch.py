"""Record batches (magic 2) of a fetch response, decoded to columns by compiled loops.

    RecordBatch => BaseOffset i64, Length i32, PartitionLeaderEpoch i32, Magic i8, CRC u32, Attributes i16,
                   LastOffsetDelta i32, FirstTimestamp i64, MaxTimestamp i64, ProducerId i64, ProducerEpoch i16,
                   BaseSequence i32, count i32, Records
    Record      => Length, Attributes, TimestampDelta, OffsetDelta, KeyLength, Key, ValueLength, Value, count, Headers

All numbers are big endian; the lengths, deltas and counts of a record are zigzag varints. Any other batch is refused,
and left to kafka-python's own classes, which raise the proper errors (worker/kafka/client/fetch.py).

A broker sets a batch's base offset, and checks its count and last delta, but never looks at the records' own deltas.
These have to rise, and to end by the last delta. Otherwise offsets would be committed that no record has.
"""

# mypy: disable-error-code="no-untyped-def"
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from worker.native.arrays import Bytes, Int64s
from worker.native.jit import compiled

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
    """Records of a buffer, in columns.

    `starts` [n, 3] and `lengths` [n, 3] locate key, value and headers of each record in `buffer`, in bytes. A length of
    -1 means null, or no headers. `offset` and `timestamp` (milliseconds) are [n].
    """

    buffer: Bytes
    offset: Int64s
    timestamp: Int64s
    starts: Int64s
    lengths: Int64s

    def __len__(self) -> int:
        return len(self.offset)


def batches(buffer: Bytes) -> tuple[list[Batch], int]:
    """Return the batches of magic 2 at the head of a fetch response, and where the rest begins.

    The rest is empty (its beginning is the end of the buffer) if nothing but a cut-off batch follows.
    """
    headers = np.empty((len(buffer) // HEADER + 1, len(Batch._fields)), np.int64)
    n, end = _headers(buffer, headers)
    return [Batch(*row) for row in headers[:n].tolist()], int(end)


def records(buffer: Bytes, batches_to_read: Sequence[Batch]) -> tuple[Columns, int]:
    """Return the records of these batches up to the first batch that is refused, and how many batches these are.

    The records of each batch lie at its `begin` to `end` of `buffer`.
    """
    table = np.array(batches_to_read, np.int64).reshape(-1, len(Batch._fields))
    n = int(np.clip(table[:, 10], 0, np.maximum(table[:, 1] - table[:, 0], 0) // SMALLEST_RECORD).sum())
    columns = Columns(
        buffer, np.empty(n, np.int64), np.empty(n, np.int64), np.empty((n, 3), np.int64), np.empty((n, 3), np.int64)
    )
    n_valid, n = _records(*columns, table)
    return Columns(buffer, *(column[:n] for column in columns[1:])), int(n_valid)


@compiled
def _int(buffer, position, size):
    value = np.int64(np.int8(buffer[position]))
    for i in range(1, size):
        value = (value << 8) | np.int64(buffer[position + i])
    return value


@compiled
def _headers(buffer, out):
    n, position = 0, 0
    while len(buffer) - position >= 12:
        size = _int(buffer, position + 8, 4)
        if position + 12 + size > len(buffer):
            return n, len(buffer)
        if size < HEADER - 12 or buffer[position + 16] != 2:
            return n, position
        out[n, 0] = position
        out[n, 1] = position + 12 + size
        out[n, 2] = _int(buffer, position, 8)
        out[n, 3] = _int(buffer, position + 12, 4)
        out[n, 4] = _int(buffer, position + 17, 4) & 0xFFFFFFFF
        out[n, 5] = _int(buffer, position + 21, 2)
        out[n, 6] = _int(buffer, position + 23, 4)
        out[n, 7] = _int(buffer, position + 27, 8)
        out[n, 8] = _int(buffer, position + 35, 8)
        out[n, 9] = _int(buffer, position + 43, 8)
        out[n, 10] = _int(buffer, position + 57, 4)
        n += 1
        position += 12 + size
    return n, len(buffer)


# The fields of a record, each a zigzag varint; a key and a value follow theirs.
_LENGTH, _ATTRIBUTES, _TIME, _OFFSET, _KEY, _VALUE, _HEADERS = range(7)
_ONE: Final = np.uint64(1)
_SEVEN: Final = np.uint64(7)
_LOW: Final = np.uint64(0x7F)


@compiled
def _records(buffer, offset, timestamp, starts, lengths, table):
    """Fill the columns; return how many batches are valid before one is not, and how many records these have.

    This is one function, because handing an array to another costs ten times what it does here. Addresses are unsigned,
    because numba checks each index that may be negative.
    """
    n = np.uint64(0)
    for b in range(len(table)):
        position, end, count = np.uint64(table[b, 0]), np.uint64(table[b, 1]), table[b, 10]
        base_offset, first_timestamp = table[b, 2], table[b, 7]
        is_append_time = table[b, 5] & LOG_APPEND_TIME != 0
        if count < 0 or count > np.int64(end - position) // SMALLEST_RECORD:
            return b, n
        if abs(first_timestamp) > FAR or abs(base_offset) > FAR:
            return b, n
        last_delta = np.int64(-1)
        for r in range(n, n + np.uint64(count)):
            stop = end
            for field in range(7):
                shift, raw, byte = np.uint64(0), np.uint64(0), np.uint64(0x80)
                while byte >= 0x80:
                    if position >= stop or shift > 56:  # cut off, or more than 63 bits
                        return b, n
                    byte = np.uint64(buffer[position])
                    raw |= (byte & _LOW) << shift
                    shift += _SEVEN
                    position += _ONE
                value = np.int64(raw >> _ONE) ^ -np.int64(raw & _ONE)
                if field == _TIME:
                    if abs(value) > FAR:
                        return b, n
                    timestamp[r] = table[b, 8] if is_append_time else first_timestamp + value
                elif field == _OFFSET:
                    if value <= last_delta or value > table[b, 6]:
                        return b, n
                    last_delta = value
                    offset[r] = base_offset + value
                elif field in (_KEY, _VALUE):
                    if value > np.int64(stop - position):
                        return b, n
                    starts[r, field - _KEY] = position
                    lengths[r, field - _KEY] = value if value >= 0 else -1
                    if value > 0:
                        position += np.uint64(value)
                elif field == _LENGTH:
                    if value < 0 or value > np.int64(stop - position):
                        return b, n
                    stop = position + np.uint64(value)
                elif field == _HEADERS:
                    starts[r, 2], lengths[r, 2] = position - shift // _SEVEN, -1
                    if value < 0:
                        return b, n
                    if value > 0:
                        lengths[r, 2] = stop - np.uint64(starts[r, 2])
                        position = _headers_end(buffer, position, stop, value)
            if position != stop:
                return b, n
        if position != end:
            return b, n
        n += np.uint64(count)
    return len(table), n


@compiled
def _headers_end(buffer, position, end, count):
    """Return where `count` headers end; a place after `end` if they are malformed."""
    for part in range(2 * count):
        shift, raw, byte = np.uint64(0), np.uint64(0), np.uint64(0x80)
        while byte >= 0x80:
            if position >= end or shift > 56:
                return end + _ONE
            byte = np.uint64(buffer[position])
            raw |= (byte & _LOW) << shift
            shift += _SEVEN
            position += _ONE
        size = np.int64(raw >> _ONE) ^ -np.int64(raw & _ONE)
        is_name = part % 2 == 0
        if size > np.int64(end - position) or (is_name and size < 0):
            return end + _ONE
        if size > 0:
            position += np.uint64(size)
    return position
