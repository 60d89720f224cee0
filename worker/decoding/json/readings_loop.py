"""The compiled loop over readings of single tags in JSON, for objects whose layout is known, alone or in an array.

A record that is unusual in any way is left to worker/decoding/readings.py, which says what is valid.
"""

# mypy: disable-error-code="no-untyped-def,assignment"
from typing import Final

import numpy as np

from worker.decoding.event_time import FIRST_MS, LAST_MS, NO_TIME, ms_of_float, ms_of_whole
from worker.decoding.json.loop import number, skip_space
from worker.decoding.loop_output import ENTITY, SKIP, TIME, VALUES
from worker.native.jit import compiled, inlined, read_only
from worker.native.raw_memory import byte, eight_bytes, four_bytes

# Roles of fields, beside those of vectors.
VALUE: Final = 0
TAG: Final = -6
QUALITY: Final = -7

_POWERS: Final = np.array([float(f"1e{k}") for k in range(309)])
_EXACT_POWER, _EXACT_DIGITS, _MOST_DIGITS = 22, 2**53, 19
_LEAST, _MOST = 1.2e-38, 3.4e38  # float32 is exact to the last of its bits in between
_LARGEST_INT: Final = np.uint64(2**63 - 1)
_1, _2, _3, _4, _8, _10 = (np.uint64(k) for k in (1, 2, 3, 4, 8, 10))
_QUOTE, _COMMA, _BACKSLASH, _MINUS, _PLUS, _POINT, _COLON = 34, 44, 92, 45, 43, 46, 58
_CLOSE_ARRAY, _CLOSE_OBJECT, _Z = 93, 125, 90
_LOWER: Final = np.uint64(0x20202020)
_GOOD: Final = np.uint64(int.from_bytes(b"good", "little"))
_GOOD_FROM, _GOOD_BELOW = 192, 256  # OPC's qualities
_DAYS_BEFORE: Final = np.array([0, 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334])
_DAYS_TO_1970: Final = 719_162  # from the first day of the year 1


@compiled
def parse(
    buffer,
    start,
    length,
    words,
    masks,
    ends,
    sizes,
    roles,
    array,
    inner_end,
    inner_closers,
    closers,
    is_utc,
    names,
    record,
    tag_begin,
    tag_end,
    value,
    time,
):
    """Append the readings of each record that has the known layout; return [n] successes, and how many there are.

    Field `array` (-1 for none) is the array, whose elements have the fields from array + 1 to inner_end. An element
    ends with `inner_closers`, the record with `closers`. Without an array all fields are those of one element. `names`
    [n, 2] gets the place of the entity's name. There is room for all readings that the layout allows.

    `cursor` and `end` are addresses, as in loop.py. A reading of bad quality is NaN.
    """
    n, n_fields = len(start), len(roles)
    base = np.uint64(buffer.ctypes.data)
    limit = base + np.uint64(len(buffer))
    accepted = np.zeros(n, np.bool_)
    n_out = 0
    for i in range(n):
        end = base + np.uint64(start[i]) + np.uint64(length[i])
        cursor = skip_space(base + np.uint64(start[i]), end)
        key, first_out = 0, n_out
        in_element, is_good, has_tag, has_value = array < 0, True, False, False
        record_time = NO_TIME
        element_time = NO_TIME
        names[i] = 0
        while True:
            # what stands before the next value
            begin, over = np.uint64(ends[key - 1]) if key > 0 else np.uint64(0), np.uint64(ends[key])
            if cursor >= end or end - cursor <= sizes[key]:
                break
            matches = True
            if limit - cursor >= _8 * (over - begin):
                for k in range(over - begin):
                    matches &= (eight_bytes(cursor + _8 * k) ^ words[begin + k]) & masks[begin + k] == 0
            else:  # whole words would reach beyond the buffer
                for k in range(sizes[key]):
                    matches &= byte(cursor + k) == words[begin + k // _8] >> (_8 * (k % _8)) & np.uint64(255)
            if not matches:
                break
            cursor += sizes[key]
            role = roles[key]
            key += 1
            if role == VALUES:
                in_element = True
                continue

            # the value
            if cursor >= end:
                break
            first = byte(cursor)
            if first == _QUOTE:
                begin_text = cursor + _1
                cursor = begin_text
                while (
                    cursor < end and 32 <= byte(cursor) < 128 and byte(cursor) != _QUOTE and byte(cursor) != _BACKSLASH
                ):
                    cursor += _1
                if cursor >= end or byte(cursor) != _QUOTE or role == VALUE:
                    break
                if role == TAG:
                    tag_begin[n_out], tag_end[n_out] = begin_text - base, cursor - base
                    has_tag = True
                elif role == ENTITY:
                    known, known_end = base + np.uint64(names[i, 0]), base + np.uint64(names[i, 1])
                    if names[i, 1] > 0 and not _is_same(known, known_end, begin_text, cursor):
                        break
                    names[i, 0], names[i, 1] = begin_text - base, cursor - base
                elif role == QUALITY:
                    is_good = _is_good(begin_text, cursor)
                    if not is_good and not _is_bad(begin_text, cursor):
                        break
                elif role == TIME:
                    read = _iso(begin_text, cursor, is_utc)
                    if read == NO_TIME:
                        break
                    if in_element:
                        element_time = read
                    else:
                        record_time = read
                cursor += _1
            elif first == 110 or first == 78:  # null, NaN
                size = _4 if first == 110 else _3
                if end - cursor < size or role in (ENTITY, TAG):
                    break
                if first == 110:
                    matches = byte(cursor + _1) == 117 and byte(cursor + _2) == 108 and byte(cursor + _3) == 108
                else:
                    matches = role in (VALUE, SKIP) and byte(cursor + _1) == 97 and byte(cursor + _2) == 78
                if not matches:
                    break
                if role == VALUE:
                    value[n_out] = np.nan
                    has_value = True
                cursor += size
            elif first == 116 or first == 102:  # true, false
                if role not in (SKIP, QUALITY) or end - cursor < 5:
                    break
                if first == 116:
                    matches = byte(cursor + _1) == 114 and byte(cursor + _2) == 117 and byte(cursor + _3) == 101
                    cursor += _4
                else:
                    matches = byte(cursor + _1) == 97 and byte(cursor + _2) == 108 and byte(cursor + _3) == 115
                    matches &= byte(cursor + _4) == 101
                    cursor += _4 + _1
                if not matches:
                    break
                if role == QUALITY:
                    is_good = first == 116
            else:
                if role in (ENTITY, TAG):
                    break
                negative = np.uint64(first == _MINUS)
                cursor += negative
                is_number, cursor, mantissa, digits, exponent = number(cursor, end)
                if not is_number or digits > _MOST_DIGITS or abs(exponent) > 300:
                    break
                if mantissa == 0 and negative:
                    break
                wide = np.float64(mantissa)
                if exponent < 0:
                    wide /= _POWERS[-exponent]
                else:
                    wide *= _POWERS[exponent]
                exact = mantissa <= _EXACT_DIGITS and abs(exponent) <= _EXACT_POWER
                if negative:
                    wide = -wide
                if role == VALUE:
                    if mantissa > 0 and (abs(wide) < _LEAST or abs(wide) > _MOST):
                        break
                    # float32 does not need every digit, except where the direction of rounding is in doubt.
                    if not exact and np.float32(wide * (1 - 1e-15)) != np.float32(wide * (1 + 1e-15)):
                        break
                    value[n_out] = wide
                    has_value = True
                elif role == TIME:
                    if negative or (exponent == 0 and mantissa > _LARGEST_INT) or (exponent != 0 and not exact):
                        break
                    read = ms_of_whole(np.int64(mantissa)) if exponent == 0 else ms_of_float(wide)
                    if read == NO_TIME:
                        break
                    if in_element:
                        element_time = read
                    else:
                        record_time = read
                elif role == QUALITY:
                    if not exact:
                        break
                    is_good = wide >= _GOOD_FROM and wide < _GOOD_BELOW

            # what stands after it
            if in_element and key == inner_end:
                if not has_tag or not has_value:
                    break
                if not is_good:
                    value[n_out] = np.nan
                record[n_out], time[n_out] = i, element_time
                n_out += 1
                is_good, has_tag, has_value, element_time = True, False, False, NO_TIME
                closed = 0
                while closed < inner_closers and cursor < end and byte(cursor) == _CLOSE_OBJECT:
                    closed += 1
                    cursor += _1
                if closed < inner_closers:
                    break
                if array >= 0:
                    cursor = skip_space(cursor, end)
                    if cursor >= end:
                        break
                    if byte(cursor) == _COMMA:
                        cursor = skip_space(cursor + _1, end)
                        key = array + 1
                        continue
                    if byte(cursor) != _CLOSE_ARRAY:
                        break
                    cursor += _1
                    in_element = False
            if key == n_fields:
                closed = 0
                while closed < closers and cursor < end and byte(cursor) == _CLOSE_OBJECT:
                    closed += 1
                    cursor += _1
                accepted[i] = closed == closers and skip_space(cursor, end) == end
                break
        if not accepted[i]:
            n_out = first_out
            names[i] = 0
        elif record_time != NO_TIME:
            for k in range(first_out, n_out):
                time[k] = record_time
    return accepted, n_out


def warm_up() -> None:
    """Load the compiled code, or compile it, before there are data."""
    nothing, none = read_only(np.empty(0, np.uint8)), np.empty(0, np.int64)
    words, values = np.empty(0, np.uint64), np.empty(0, np.float32)
    layout = words, words, none, words, none, -1, 0, 0, 0, True
    parse(nothing, none, none, *layout, np.empty((0, 2), np.int64), none, none, none, values, none)
    columns(nothing, none, none, words, none, nothing, none, none)


@inlined
def _is_same(begin, end, other_begin, other_end):
    """Return whether two stretches of memory hold the same bytes."""
    same = end - begin == other_end - other_begin
    k = np.uint64(0)
    while same and begin + k < end:
        same = byte(begin + k) == byte(other_begin + k)
        k += _1
    return same


@inlined
def _is_good(begin, end):
    """Return whether a text says that the quality is good."""
    if end - begin < _4:
        return False
    four = four_bytes(begin) | _LOWER
    if four == _GOOD:
        return True
    return end - begin == _4 and four == np.uint64(0x65757274)  # true


@inlined
def _is_bad(begin, end):
    """Return whether a text begins as those do that say that the quality is bad, or uncertain."""
    if end - begin < _3:
        return False
    letter = (byte(begin) | np.uint64(32), byte(begin + _1) | np.uint64(32), byte(begin + _2) | np.uint64(32))
    return letter == (98, 97, 100) or letter == (117, 110, 99)


@inlined
def _two(cursor):
    """Return a number of two digits; -1 if it is none."""
    tens, units = np.int64(byte(cursor)) - 48, np.int64(byte(cursor + _1)) - 48
    return 10 * tens + units if 0 <= tens <= 9 and 0 <= units <= 9 else np.int64(-1)


@inlined
def _iso(begin, end, is_utc):
    """Return a time in ISO 8601 to the second or finer, in ms; NO_TIME if it is written in another way.

    `is_utc`: a time without an offset is UTC.
    """
    if end - begin < np.uint64(19):
        return NO_TIME
    century, year = _two(begin), _two(begin + _2)
    month, day = _two(begin + np.uint64(5)), _two(begin + _8)
    hour, minute, second = _two(begin + np.uint64(11)), _two(begin + np.uint64(14)), _two(begin + np.uint64(17))
    if byte(begin + _4) != _MINUS or byte(begin + np.uint64(7)) != _MINUS:
        return NO_TIME
    separator = byte(begin + _10)
    if (separator != 84 and separator != 32) or byte(begin + np.uint64(13)) != _COLON:
        return NO_TIME
    if byte(begin + np.uint64(16)) != _COLON or century < 0 or year < 0:
        return NO_TIME
    year += 100 * century
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if month < 1 or month > 12 or day < 1 or not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 60):
        return NO_TIME
    in_month = 31 - (month == 4 or month == 6 or month == 9 or month == 11)
    if month == 2:
        in_month = 28 + is_leap
    if day > in_month:
        return NO_TIME
    cursor, fraction, unit = begin + np.uint64(19), np.int64(0), np.int64(100)
    if cursor < end and byte(cursor) == _POINT:
        cursor += _1
        first = cursor
        while cursor < end and 48 <= byte(cursor) <= 57:
            fraction += unit * (np.int64(byte(cursor)) - 48)
            unit //= 10
            cursor += _1
        if cursor == first or cursor - first > np.uint64(9):
            return NO_TIME
    offset = np.int64(0)
    if cursor == end:
        if not is_utc:
            return NO_TIME
    elif byte(cursor) == _Z:
        if cursor + _1 != end:
            return NO_TIME
    else:
        sign = byte(cursor)
        if (sign != _PLUS and sign != _MINUS) or end - cursor != np.uint64(6) or byte(cursor + _3) != _COLON:
            return NO_TIME
        hours, minutes = _two(cursor + _1), _two(cursor + _4)
        if not (0 <= hours < 24 and 0 <= minutes < 60):
            return NO_TIME
        offset = (60 * hours + minutes) * 60_000
        if sign == _MINUS:
            offset = -offset
    before = year - 1
    days = 365 * before + before // 4 - before // 100 + before // 400 + _DAYS_BEFORE[month] + day - 1
    days += is_leap and month > 2
    ms = (days - _DAYS_TO_1970) * 86_400_000 + ((60 * hour + minute) * 60 + second) * 1000 + fraction - offset
    return ms if FIRST_MS <= ms < LAST_MS else NO_TIME


@compiled
def columns(buffer, begin, end, table, table_columns, text, text_ends, out):
    """Fill `out` [n] with the feature of each tag, -1 where it is none.

    The tags are from `begin` to `end` of the buffer. `table` holds the hashes of the features, 0 where a slot is empty,
    and `table_columns` their columns; feature j's name ends at `text_ends[j]` of `text`.
    """
    mask = len(table) - 1
    for i in range(len(begin)):
        size = end[i] - begin[i]
        h = hash_of(buffer, begin[i], end[i])
        slot = np.int64(h & np.uint64(mask))
        out[i] = -1
        while table[slot] != 0:
            if table[slot] == h:
                column = table_columns[slot]
                first = text_ends[column - 1] if column > 0 else 0
                same = text_ends[column] - first == size
                k = 0
                while same and k < size:
                    same = text[first + k] == buffer[begin[i] + k]
                    k += 1
                if same:
                    out[i] = column
                    break
            slot = (slot + 1) & mask


@compiled
def hash_of(buffer, begin, end):
    """Return a hash of some bytes, never 0: FNV-1a."""
    h = np.uint64(14695981039346656037)
    for k in range(begin, end):
        h = (h ^ np.uint64(buffer[k])) * np.uint64(1099511628211)
    h ^= h >> np.uint64(32)
    return h if h != 0 else np.uint64(1)
