"""The compiled loops of format `arrow`, for a stream of one batch of plain columns by a known schema.

A record that is unusual in any way is left to worker/decoding/arrow/format.py.

The metadata of a batch is a flatbuffer: a table begins with the distance back to its vtable, the list of its fields'
offsets. Each offset is checked against the bounds before anything is read there.
"""

# mypy: disable-error-code="no-untyped-def,assignment"
from typing import Final

import numpy as np

from worker.decoding.event_time import FIRST_MS, LAST_MS, NO_TIME, ms_of_float, ms_of_whole
from worker.decoding.loop_output import ENTITY, TIME, VALUES
from worker.native.jit import compiled, inlined, read_only
from worker.native.raw_memory import byte, eight_bytes, four_bytes

# How a column is written. LIST is of FLOAT or DOUBLE with offsets, FIXED without.
FLOAT, DOUBLE, INT8, INT16, INT32, INT64, UINT8, UINT16, UINT32, UINT64, TEXT = range(11)
PLAIN, FIXED, LIST = range(3)
SIZES: Final = np.array([4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 4])
_LARGEST: Final = np.float64(np.finfo(np.float32).max)
_CONTINUES: Final = 0xFFFFFFFF
_V5, _RECORD_BATCH = 4, 3
# Fields, in Arrow's Message.fbs: of a message, and of a batch.
_VERSION, _KIND, _HEADER, _BODY_LENGTH = range(4)
_ROWS, _NODES, _BUFFERS, _COMPRESSION = range(4)
MOST_READINGS: Final = 4  # maximum readings per byte of a record, since absent columns take no bytes
_1, _2, _3, _4, _8, _16 = (np.uint64(k) for k in (1, 2, 3, 4, 8, 16))


@compiled
def measure(buffer, start, length, prefix, n_nodes, n_buffers, columns, width, rows, places):
    """Set `rows` [n] to the row count of each accepted record, else to 0, and set `places` [n, 3].

    `places` are the addresses of a record's nodes, buffers and body. `prefix` is how such a stream begins: its schema.
    `columns` [k, 6] are the wanted columns: kind, shape, role, index of the first node, index of the first buffer, and
    the unit of a time.
    """
    prefix_address = np.uint64(prefix.ctypes.data)
    for i in range(len(start)):
        rows[i] = 0
        begin = np.uint64(buffer.ctypes.data) + np.uint64(start[i])
        end = begin + np.uint64(length[i])
        if length[i] < len(prefix) + 16:
            continue
        matches = True
        for k in range(len(prefix) // 8):
            matches &= eight_bytes(begin + _8 * np.uint64(k)) == eight_bytes(prefix_address + _8 * np.uint64(k))
        if not matches:
            continue
        address = begin + np.uint64(len(prefix))
        size = four_bytes(address + _4)
        meta = address + _8
        if four_bytes(address) != _CONTINUES or size < 16 or size > end - meta:
            continue
        body = meta + size
        message = _table(meta, meta, body)
        version = _field(message, _VERSION, 2, meta, body)
        kind = _field(message, _KIND, 1, meta, body)
        header = _field(message, _HEADER, 4, meta, body)
        body_size = _field(message, _BODY_LENGTH, 8, meta, body)
        if version == 0 or kind == 0 or header == 0 or body_size == 0:
            continue
        body_length = np.int64(eight_bytes(body_size))
        if byte(version) != _V5 or byte(version + _1) != 0 or byte(kind) != _RECORD_BATCH or body_length < 0:
            continue
        if np.uint64(body_length) > end - body:
            continue
        rest = end - body - np.uint64(body_length)
        if rest != 0 and (rest != _8 or eight_bytes(end - _8) != _CONTINUES):  # the stream ends there, or is marked so
            continue
        batch = _table(header, meta, body)
        count = _field(batch, _ROWS, 8, meta, body)
        nodes = _vector(_field(batch, _NODES, 4, meta, body), n_nodes, meta, body)
        buffers = _vector(_field(batch, _BUFFERS, 4, meta, body), n_buffers, meta, body)
        compressed = _field(batch, _COMPRESSION, 4, meta, body)
        if count == 0 or nodes == 0 or buffers == 0 or compressed != 0:
            continue
        n = np.int64(eight_bytes(count))
        if n < 1 or n > MOST_READINGS * length[i] // width:
            continue
        good = True
        for c in range(len(columns)):
            kind_of, shape, role, node, first = (
                columns[c, 0],
                columns[c, 1],
                columns[c, 2],
                columns[c, 3],
                columns[c, 4],
            )
            if shape == PLAIN:
                items, data = n, first + 1
                good &= _fits(nodes, buffers, node, first, n, body_length, role != ENTITY)
            else:
                items, data = n * width, first + (2 if shape == FIXED else 3)
                good &= _fits(nodes, buffers, node, first, n, body_length, False)
                good &= _fits(nodes, buffers, node + 1, data - 1, items, body_length, False)
            need = items * SIZES[kind_of]
            if role == ENTITY:
                need += 4  # offsets, one more
                good &= _within(buffers, first + 2, 0, body_length)
            good &= _within(buffers, data, need, body_length)
            if shape == LIST:
                good &= _within(buffers, first + 1, 4 * (n + 1), body_length)
        if good:
            rows[i] = n
            places[i, 0], places[i, 1], places[i, 2] = np.int64(nodes), np.int64(buffers), np.int64(body)


@compiled
def fill(rows, places, columns, x, times, names):
    """Fill x and times of all rows, and names [n, 2] (addresses) of the measured records; return [n] successes."""
    width = x.shape[1]
    good = np.ones(len(rows), np.bool_)
    bits = np.zeros(1, np.uint64)
    as_double = bits.view(np.float64)
    words = x.view(np.uint32)
    row = 0
    for i in range(len(rows)):
        nodes, buffers, body = np.uint64(places[i, 0]), np.uint64(places[i, 1]), np.uint64(places[i, 2])
        n = rows[i]
        if n == 0:
            good[i] = False
            continue
        for c in range(len(columns)):
            kind, shape, role, node, first, unit = columns[c]
            data = body + eight_bytes(buffers + _16 * np.uint64(first + 1))
            if role == ENTITY:
                good[i] &= _one_name(buffers, body, first, n, names, i)
                continue
            nulls = eight_bytes(nodes + _16 * np.uint64(node) + _8)
            valid = body + eight_bytes(buffers + _16 * np.uint64(first))
            step, column = 1, role
            if role == VALUES:
                good[i] &= shape == FIXED or _one_after_the_other(data, n, width)
                if not good[i]:
                    continue
                last = first + (2 if shape == FIXED else 3)
                data = body + eight_bytes(buffers + _16 * np.uint64(last))
                if shape == LIST:
                    begin = four_bytes(body + eight_bytes(buffers + _16 * np.uint64(first + 1)))
                    good[i] &= begin == 0
                step, column = width, 0
            if nulls == 0 and kind == FLOAT and step == 1 and role >= 0:  # as mostly
                infinite = np.uint64(0)
                for k in range(n):
                    word = four_bytes(data + _4 * np.uint64(k))
                    words[row + k, role] = word
                    infinite |= np.uint64((word & np.uint64(0x7FFFFFFF)) == np.uint64(0x7F800000))
                good[i] &= infinite == 0
                continue
            for k in range(n * step):
                address = data + np.uint64(k) * np.uint64(SIZES[kind])
                to, j = (row + k // step, k % step) if step > 1 else (row + k, column)
                if nulls > 0 and not (byte(valid + np.uint64(k) // _8) >> (np.uint64(k) % _8)) & _1:
                    if role == TIME:
                        times[to] = NO_TIME
                    else:
                        x[to, j] = np.nan
                    continue
                if kind == FLOAT and role != TIME:
                    word = four_bytes(address)
                    words[to, j] = word
                    good[i] &= (word & np.uint64(0x7FFFFFFF)) != np.uint64(0x7F800000)
                    continue
                whole, value = np.int64(0), 0.0
                if kind == DOUBLE:
                    bits[0] = eight_bytes(address)
                    value = as_double[0]
                    if role != TIME:
                        good[i] &= not abs(value) > _LARGEST
                elif kind == INT64:
                    whole = np.int64(eight_bytes(address))
                elif kind == UINT64:
                    value = np.float64(eight_bytes(address))
                elif kind == INT32:
                    whole = np.int64(np.int32(four_bytes(address)))
                elif kind == UINT32:
                    whole = np.int64(four_bytes(address))
                elif kind == INT16:
                    whole = np.int64(np.int16(byte(address) | byte(address + _1) << _8))
                elif kind == UINT16:
                    whole = np.int64(byte(address) | byte(address + _1) << _8)
                elif kind == INT8:
                    whole = np.int64(np.int8(byte(address)))
                else:
                    whole = np.int64(byte(address))
                if role != TIME:
                    x[to, j] = value if kind in (DOUBLE, UINT64) else np.float64(whole)
                elif kind == INT64:
                    if unit == 0:
                        times[to] = ms_of_whole(whole)
                    else:
                        if unit > 0:
                            whole //= unit
                        elif whole < LAST_MS // -unit:
                            whole *= -unit
                        else:
                            whole = LAST_MS
                        times[to] = whole if whole >= FIRST_MS and whole < LAST_MS else NO_TIME
                    good[i] &= times[to] != NO_TIME
                elif kind == DOUBLE:
                    times[to] = ms_of_float(value)
                    good[i] &= times[to] != NO_TIME
                else:
                    good[i] = False
        row += n
    return good


def warm_up() -> None:
    """Load the compiled loops, so that live data do not wait for that."""
    nothing, places, columns = np.zeros(0, np.int64), np.zeros((0, 3), np.int64), np.zeros((0, 6), np.int64)
    data = read_only(np.zeros(0, np.uint8))
    measure(data, nothing, nothing, data, 0, 0, columns, 1, nothing, places)
    fill(nothing, places, columns, np.zeros((0, 1), np.float32), nothing, np.zeros((0, 2), np.int64))


@inlined
def _table(address, begin, end):
    """Return the table that the offset at `address` leads to; 0 if there is none."""
    start = np.uint64(0)
    if address >= begin and end - address >= _4:
        table = address + four_bytes(address)
        if table < end and end - table >= _4:
            fields = np.int64(table) - np.int64(np.int32(four_bytes(table)))
            if fields >= np.int64(begin) and np.int64(end) - fields >= 4:
                start = table
    return start


@inlined
def _field(table, number, size, begin, end):
    """Return the address of a field of `size` bytes; 0 if it is left out, or out of bounds."""
    start = np.uint64(0)
    if table != 0:
        fields = np.uint64(np.int64(table) - np.int64(np.int32(four_bytes(table))))
        entry = fields + _4 + _2 * np.uint64(number)
        n = byte(fields) | byte(fields + _1) << _8
        if _4 + _2 * np.uint64(number) + _2 <= n and entry + _2 <= end:
            offset = byte(entry) | byte(entry + _1) << _8
            if offset != 0 and table + offset + np.uint64(size) <= end:
                start = table + offset
    return start


@inlined
def _vector(address, n, begin, end):
    """Return the address of a vector of n items of 16 bytes; 0 if it does not have n items, or is out of bounds."""
    start = np.uint64(0)
    if address != 0:
        vector, size = address + four_bytes(address), _4 + np.uint64(n) * _16
        if vector < end and end - vector >= size and four_bytes(vector) == np.uint64(n):
            start = vector + _4
    return start


@inlined
def _within(buffers, number, size, body_length):
    """Return whether a buffer of this many bytes lies within the body."""
    address = buffers + _16 * np.uint64(number)
    offset, length = np.int64(eight_bytes(address)), np.int64(eight_bytes(address + _8))
    return (
        offset >= 0 and offset & 7 == 0 and length >= size and offset <= body_length and length <= body_length - offset
    )


@inlined
def _fits(nodes, buffers, node, validity, n, body_length, may_miss):
    """Return whether a node has n items, and a bit for each if it may have nulls."""
    address = nodes + _16 * np.uint64(node)
    items, nulls = np.int64(eight_bytes(address)), np.int64(eight_bytes(address + _8))
    good = items == n and nulls >= 0 and nulls <= n and (nulls == 0 or may_miss)
    return good and (nulls == 0 or _within(buffers, validity, (n + 7) // 8, body_length))


@inlined
def _one_after_the_other(offsets, n, width):
    """Return whether these are the offsets of n lists of `width` items, from 0 on."""
    good = True
    for k in range(n + 1):
        good &= four_bytes(offsets + _4 * np.uint64(k)) == np.uint64(k * width)
    return good


@inlined
def _one_name(buffers, body, first, n, names, i):
    """Return whether all rows have one name, in ASCII, and where it begins and ends."""
    offsets = body + eight_bytes(buffers + _16 * np.uint64(first + 1))
    address = buffers + _16 * np.uint64(first + 2)
    data, length = body + eight_bytes(address), np.int64(eight_bytes(address + _8))
    begin, size = np.int64(four_bytes(offsets)), np.int64(four_bytes(offsets + _4)) - np.int64(four_bytes(offsets))
    good = begin >= 0 and size >= 0 and begin + n * size <= length
    if good:
        for k in range(n + 1):
            good &= np.int64(four_bytes(offsets + _4 * np.uint64(k))) == begin + k * size
    if good:
        for k in range(size):
            good &= byte(data + np.uint64(begin + k)) < 128
        for k in range(size, n * size):
            good &= byte(data + np.uint64(begin + k)) == byte(data + np.uint64(begin + k - size))
        names[i, 0], names[i, 1] = np.int64(data) + begin, np.int64(data) + begin + size
    return good
