"""The compiled loop of format `avro`, for records whose fields are all plain.

A record that is unusual in any way is left to worker/decoding/avro/format.py.
"""

# mypy: disable-error-code="no-untyped-def,assignment"
from typing import Final

import numpy as np

from worker.decoding.event_time import FIRST_MS, LAST_MS, NO_TIME, ms_of_float, ms_of_whole
from worker.decoding.loop_output import ENTITY, SKIP, TIME, VALUES
from worker.native.jit import compiled, inlined, read_only
from worker.native.raw_memory import byte, eight_bytes

# How a field is written. LONG is also int and enum; FLOATS and DOUBLES are arrays.
NULL, BOOLEAN, LONG, FLOAT, DOUBLE, TEXT, BYTES, FLOATS, DOUBLES = range(9)
_LARGEST: Final = np.float64(np.finfo(np.float32).max)
_1, _7, _4, _8, _127 = (np.uint64(k) for k in (1, 7, 4, 8, 127))


@compiled
def parse(buffer, start, length, kinds, roles, nulls, units, x, times, names):
    """Fill a row of x, times and names for each record that is plain; return [n] successes.

    `nulls` is the branch of a field's union that is null, -1 if it is no union. `units` is the divisor that turns a
    time into milliseconds, 0 for a number without a unit. For an enum, it is minus the number of its symbols.
    """
    n, width = x.shape
    base = np.uint64(buffer.ctypes.data)
    limit = base + np.uint64(len(buffer))
    accepted = np.zeros(n, np.bool_)
    bits = np.zeros(1, np.uint64)
    as_double, as_float = bits.view(np.float64), bits.view(np.float32)
    for i in range(n):
        cursor = base + np.uint64(start[i])
        end = cursor + np.uint64(length[i])
        good = True
        for k in range(len(kinds)):
            kind, role = kinds[k], roles[k]
            if nulls[k] >= 0:
                good, branch, cursor = _long(cursor, end)
                if not good or branch < 0 or branch > 1:
                    good = False
                    break
                if branch == nulls[k]:
                    kind = NULL
            if kind == NULL:
                if role >= 0:
                    x[i, role] = np.nan
                elif role == VALUES:
                    good = False
                    break
            elif kind in (DOUBLE, FLOAT):
                size = _8 if kind == DOUBLE else _4
                if end - cursor < size or limit - cursor < _8:
                    good = end - cursor >= size
                    if not good:
                        break
                    bits[0] = _last_bytes(cursor, size)
                else:
                    bits[0] = eight_bytes(cursor)
                value = as_double[0] if kind == DOUBLE else np.float64(as_float[0])
                cursor += size
                if role >= 0:
                    x[i, role] = value
                    if abs(value) > _LARGEST:
                        good = False
                        break
                elif role == TIME:
                    times[i] = ms_of_float(value)
                    good = times[i] != NO_TIME
                    if not good:
                        break
                elif role != SKIP:
                    good = False
                    break
            elif kind == LONG:
                good, number, cursor = _long(cursor, end)
                if not good or (units[k] < 0 and (number < 0 or number >= -units[k])):
                    good = False
                    break
                if role >= 0:
                    x[i, role] = np.float64(number)
                elif role == TIME:
                    if units[k] > 0:
                        number //= units[k]
                        times[i] = number if number >= FIRST_MS and number < LAST_MS else NO_TIME
                    else:
                        times[i] = ms_of_whole(number)
                    good = times[i] != NO_TIME
                    if not good:
                        break
                elif role != SKIP:
                    good = False
                    break
            elif kind in (TEXT, BYTES):
                good, size_of, cursor = _long(cursor, end)
                if not good or size_of < 0 or np.uint64(size_of) > end - cursor:
                    good = False
                    break
                begin = cursor
                cursor += np.uint64(size_of)
                if kind == TEXT:
                    for c in range(size_of):
                        good &= byte(begin + np.uint64(c)) < 128
                    if not good:
                        break
                if role == ENTITY:
                    names[i, 0], names[i, 1] = np.int64(begin - base), np.int64(cursor - base)
                elif role != SKIP:
                    good = False
                    break
            elif kind == BOOLEAN:
                good = cursor < end and byte(cursor) <= _1 and role == SKIP
                if not good:
                    break
                cursor += _1
            else:  # an array of readings, in one block: count, items, 0
                size = _8 if kind == DOUBLES else _4
                good, count, cursor = _long(cursor, end)
                if not good or role != VALUES or count != width or end - cursor <= np.uint64(width) * size:
                    good = False
                    break
                for j in range(width):
                    if limit - cursor < _8:
                        bits[0] = _last_bytes(cursor, size)
                    else:
                        bits[0] = eight_bytes(cursor)
                    value = as_double[0] if kind == DOUBLES else np.float64(as_float[0])
                    good &= not abs(value) > _LARGEST
                    x[i, j] = value
                    cursor += size
                if not good or byte(cursor) != 0:
                    good = False
                    break
                cursor += _1
        accepted[i] = good and cursor == end
    return accepted


def warm_up() -> None:
    """Load the compiled loop, so that live data do not wait for that."""
    nothing, x, names = np.zeros(0, np.int64), np.zeros((0, 1), np.float32), np.zeros((0, 2), np.int64)
    parse(read_only(np.zeros(0, np.uint8)), *[nothing] * 6, x, nothing, names)


@inlined
def _long(cursor, end):
    """Read a zigzag varint; return whether it is one of 64 bits, its value, and where it ends."""
    value, part, shift, more = np.uint64(0), np.uint64(0), np.uint64(0), True
    while more and cursor < end and shift < 64:
        part = byte(cursor)
        value |= (part & _127) << shift
        shift += _7
        cursor += _1
        more = part > _127
    number = np.int64(value >> _1) ^ -np.int64(value & _1)
    return not more and (shift < 70 or part == _1), number, cursor


@inlined
def _last_bytes(cursor, size):
    """Return fewer than eight bytes, at the end of the buffer, as a number."""
    word = np.uint64(0)
    for k in range(size):
        word |= byte(cursor + np.uint64(k)) << (_8 * np.uint64(k))
    return word
