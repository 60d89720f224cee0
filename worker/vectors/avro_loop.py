"""The compiled loop of format `avro`: records whose fields are all plain. What is unusual about a record in any way
leaves it alone; worker/vectors/avro.py knows what becomes of that.
"""

# mypy: disable-error-code="no-untyped-def,assignment"
from typing import Final

import numpy as np

from worker.addresses import byte, eight_bytes
from worker.compiled import compiled, inlined, read_only
from worker.vectors.formats import LAST_SECOND, LAST_TIME
from worker.vectors.loops import ENTITY, SKIP, TIME, VALUES

# How a field is written. LONG is also int and enum; FLOATS and DOUBLES are arrays.
NULL, BOOLEAN, LONG, FLOAT, DOUBLE, TEXT, BYTES, FLOATS, DOUBLES = range(9)
_LAST_SECOND, _LAST_TIME = np.int64(LAST_SECOND), np.int64(LAST_TIME)
_LARGEST: Final = np.float64(np.finfo(np.float32).max)
_1, _7, _4, _8, _127 = (np.uint64(k) for k in (1, 7, 4, 8, 127))


@compiled
def parse(buffer, start, length, kinds, roles, nulls, units, x, times, names):
    """Fills a row of x, times and names for each record that it takes. -> [n] whether it did.

    A field is null in the branch `nulls` of its union, -1 where it is none. `units` make milliseconds of a time, 0
    where it is a number without a unit; of an enum they are its symbols' number, negative.
    """
    n, width = x.shape
    base = np.uint64(buffer.ctypes.data)
    limit = base + np.uint64(len(buffer))
    taken = np.zeros(n, np.bool_)
    bits = np.zeros(1, np.uint64)
    as_double, as_float = bits.view(np.float64), bits.view(np.float32)
    for i in range(n):
        at = base + np.uint64(start[i])
        end = at + np.uint64(length[i])
        good = True
        for k in range(len(kinds)):
            kind, role = kinds[k], roles[k]
            if nulls[k] >= 0:
                good, branch, at = _long(at, end)
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
                if end - at < size or limit - at < _8:
                    good = end - at >= size
                    if not good:
                        break
                    bits[0] = _last_bytes(at, size)
                else:
                    bits[0] = eight_bytes(at)
                value = as_double[0] if kind == DOUBLE else np.float64(as_float[0])
                at += size
                if role >= 0:
                    x[i, role] = value
                    if abs(value) > _LARGEST:
                        good = False
                        break
                elif role == TIME:
                    if not (value >= 0 and value < _LAST_TIME):
                        good = False
                        break
                    times[i] = np.int64(value * 1000) if value < _LAST_SECOND else np.int64(value)
                elif role != SKIP:
                    good = False
                    break
            elif kind == LONG:
                good, told, at = _long(at, end)
                if not good or (units[k] < 0 and (told < 0 or told >= -units[k])):
                    good = False
                    break
                if role >= 0:
                    x[i, role] = np.float64(told)
                elif role == TIME:
                    if units[k] > 0:
                        told //= units[k]
                    if told < 0 or told >= _LAST_TIME:
                        good = False
                        break
                    if units[k] == 0 and told < _LAST_SECOND:
                        told *= 1000
                    times[i] = told
                elif role != SKIP:
                    good = False
                    break
            elif kind in (TEXT, BYTES):
                good, size_of, at = _long(at, end)
                if not good or size_of < 0 or np.uint64(size_of) > end - at:
                    good = False
                    break
                begin = at
                at += np.uint64(size_of)
                if kind == TEXT:
                    for c in range(size_of):
                        good &= byte(begin + np.uint64(c)) < 128
                    if not good:
                        break
                if role == ENTITY:
                    names[i, 0], names[i, 1] = np.int64(begin - base), np.int64(at - base)
                elif role != SKIP:
                    good = False
                    break
            elif kind == BOOLEAN:
                good = at < end and byte(at) <= _1 and role == SKIP
                if not good:
                    break
                at += _1
            else:  # an array of readings, in one block: count, items, 0
                size = _8 if kind == DOUBLES else _4
                good, count, at = _long(at, end)
                if not good or role != VALUES or count != width or end - at <= np.uint64(width) * size:
                    good = False
                    break
                for j in range(width):
                    if limit - at < _8:
                        bits[0] = _last_bytes(at, size)
                    else:
                        bits[0] = eight_bytes(at)
                    value = as_double[0] if kind == DOUBLES else np.float64(as_float[0])
                    good &= not abs(value) > _LARGEST
                    x[i, j] = value
                    at += size
                if not good or byte(at) != 0:
                    good = False
                    break
                at += _1
        taken[i] = good and at == end
    return taken


def warm_up() -> None:
    """First calls compile, or load what was compiled: that is not a live batch's to pay."""
    nothing, x, names = np.zeros(0, np.int64), np.zeros((0, 1), np.float32), np.zeros((0, 2), np.int64)
    parse(read_only(np.zeros(0, np.uint8)), *[nothing] * 6, x, nothing, names)


@inlined
def _long(at, end):
    """A zigzag varint. -> whether it is one of 64 bits, its value, where it ends."""
    value, part, shift, more = np.uint64(0), np.uint64(0), np.uint64(0), True
    while more and at < end and shift < 64:
        part = byte(at)
        value |= (part & _127) << shift
        shift += _7
        at += _1
        more = part > _127
    told = np.int64(value >> _1) ^ -np.int64(value & _1)
    return not more and (shift < 70 or part == _1), told, at


@inlined
def _last_bytes(at, size):
    """Fewer than eight, at the end of the buffer."""
    word = np.uint64(0)
    for k in range(size):
        word |= byte(at + np.uint64(k)) << (_8 * np.uint64(k))
    return word
