"""The compiled loop of format `json`, for arrays, and for objects whose layout is known.

A record that is unusual in any way is left to worker/decoding/json/format.py.
"""

# mypy: disable-error-code="no-untyped-def,assignment"
from typing import Final

import numpy as np

from worker.decoding.event_time import NO_TIME, ms_of_float, ms_of_whole
from worker.decoding.json.numbers import extent, plain_number
from worker.decoding.loop_output import ENTITY, REFUSED, SKIP, TIME, VALUES
from worker.native.jit import compiled, inlined
from worker.native.raw_memory import byte, eight_bytes

_POWERS: Final = np.array([float(f"1e{k}") for k in range(309)])
# Multiplying a plain number is as exact as dividing it, after rounding to float32: with at most seven digits, it never
# lies close to the middle between two float32 numbers.
_TENTHS: Final = np.array([1 / _POWERS[:9], -1 / _POWERS[:9]])
_EXACT_POWER, _EXACT_DIGITS, _MOST_DIGITS = 22, 2**53, 19
_LEAST, _MOST = 1.2e-38, 3.4e38  # float32 is exact to the last of its bits in between
_LARGEST_INT: Final = np.uint64(2**63 - 1)
_1, _2, _3, _4, _8, _10 = (np.uint64(k) for k in (1, 2, 3, 4, 8, 10))
_QUOTE, _COMMA, _BACKSLASH, _MINUS, _POINT, _DIGIT_0 = 34, 44, 92, 45, 46, np.uint64(48)
_OPEN_ARRAY, _CLOSE_ARRAY, _CLOSE_OBJECT = 91, 93, 125


@compiled
def parse(buffer, start, length, words, masks, ends, sizes, roles, closers, x, times, names):
    """Fill a row of x, times and names for each record that has the known layout; return [n] successes.

    `words`, `masks`, `ends`, `sizes`, `roles` and `closers` describe the layout of the objects (_Layout in format.py).
    `cursor`, `begin` and `end` are addresses, since passing an array to another compiled function is slow: references
    to it are counted.
    """
    n, width = x.shape
    base = np.uint64(buffer.ctypes.data)
    limit = base + np.uint64(len(buffer))
    accepted = np.zeros(n, np.bool_)
    for i in range(n):
        end = base + np.uint64(start[i]) + np.uint64(length[i])
        cursor = skip_space(base + np.uint64(start[i]), end)
        if cursor >= end:
            continue
        in_array = byte(cursor) == _OPEN_ARRAY
        is_object = not in_array
        if is_object and len(roles) == 0:
            continue
        cursor += np.uint64(in_array)
        element = key = 0
        while True:
            # what stands before the next value
            if in_array:
                if element > 0:
                    if cursor >= end or byte(cursor) != _COMMA:
                        break
                    cursor += _1
                # Plain numbers, each with its comma and what stands between the two: all with a space, or all without.
                gap = _1 + np.uint64(cursor < end and byte(cursor) == 32)
                cursor += gap - _1
                while element < width - 1 and cursor + _10 <= limit:
                    word = eight_bytes(cursor)
                    spelled = extent(word)
                    is_valid, negative, mantissa, places = plain_number(word, spelled)
                    comma = cursor + spelled
                    is_valid &= (byte(comma) == _COMMA) & ((gap == _1) | (byte(comma + _1) == 32))
                    if not is_valid or comma >= end or _is_minus_zero(negative, mantissa):
                        break
                    x[i, element] = np.float64(mantissa) * _TENTHS[negative, places]
                    element += 1
                    cursor = comma + gap
                role = np.int64(element)
                element += 1
                cursor = skip_space(cursor, end)
            else:
                begin, over = np.uint64(ends[key - 1]) if key > 0 else np.uint64(0), np.uint64(ends[key])
                if end - cursor <= sizes[key] or limit - cursor < _8 * (over - begin):
                    break
                matches = True
                for k in range(over - begin):
                    matches &= (eight_bytes(cursor + _8 * k) ^ words[begin + k]) & masks[begin + k] == 0
                if not matches:
                    break
                cursor += sizes[key]
                role = roles[key]
                key += 1
                if role == VALUES:
                    in_array, element = True, 0
                    continue
            if cursor >= end or role == REFUSED:
                break

            # the value
            plain = False
            if role >= 0 and cursor + _10 <= limit:
                word = eight_bytes(cursor)
                spelled = extent(word)
                after = byte(cursor + spelled)
                plain, negative, mantissa, places = plain_number(word, spelled)
                plain &= (cursor + spelled <= end) & (after != 69) & (after != 101)  # E, e
                plain &= (spelled < _8) | (after < 45) | (after > 57)  # else there is more of it
            first = byte(cursor)
            if plain:
                if _is_minus_zero(negative, mantissa):
                    break
                x[i, role] = np.float64(mantissa) * _TENTHS[negative, places]
                cursor += spelled
            elif first == _QUOTE:
                if role != SKIP and role != ENTITY:
                    break
                begin = cursor + _1
                cursor = begin
                while (
                    cursor < end and 32 <= byte(cursor) < 128 and byte(cursor) != _QUOTE and byte(cursor) != _BACKSLASH
                ):
                    cursor += _1
                if cursor >= end or byte(cursor) != _QUOTE:
                    break
                if role == ENTITY:
                    names[i, 0], names[i, 1] = begin - base, cursor - base
                cursor += _1
            elif first == 110:  # n
                if end - cursor < 4 or byte(cursor + _1) != 117 or byte(cursor + _2) != 108 or byte(cursor + _3) != 108:
                    break
                if role >= 0:
                    x[i, role] = np.nan
                cursor += _4
            elif first == 78:  # N of NaN, which Python's json.dumps writes
                if role in (ENTITY, TIME) or end - cursor < 3 or byte(cursor + _1) != 97:
                    break
                if byte(cursor + _2) != 78:
                    break
                if role >= 0:
                    x[i, role] = np.nan
                cursor += _3
            elif first == 116 or first == 102:  # t, f
                if role != SKIP or end - cursor < 4:
                    break
                if first == 116:
                    matches = byte(cursor + _1) == 114 and byte(cursor + _2) == 117 and byte(cursor + _3) == 101
                else:
                    matches = byte(cursor + _1) == 97 and byte(cursor + _2) == 108 and byte(cursor + _3) == 115
                    cursor += _1
                    matches = matches and end - cursor >= 4 and byte(cursor + _3) == 101
                if not matches:
                    break
                cursor += _4
            elif role == ENTITY:
                break
            else:
                negative = np.uint64(first == _MINUS)
                cursor += negative
                is_number, cursor, mantissa, digits, exponent = number(cursor, end)
                if not is_number or digits > _MOST_DIGITS or abs(exponent) > 300 or _is_minus_zero(negative, mantissa):
                    break
                value = np.float64(mantissa)
                if exponent < 0:
                    value /= _POWERS[-exponent]
                else:
                    value *= _POWERS[exponent]
                exact = mantissa <= _EXACT_DIGITS and abs(exponent) <= _EXACT_POWER
                if negative:
                    value = -value
                if role >= 0:
                    if mantissa > 0 and (abs(value) < _LEAST or abs(value) > _MOST):
                        break
                    # float32 does not need every digit, except where the direction of rounding is in doubt.
                    if not exact and np.float32(value * (1 - 1e-15)) != np.float32(value * (1 + 1e-15)):
                        break
                    x[i, role] = value
                elif role == TIME:
                    if negative or (exponent == 0 and mantissa > _LARGEST_INT) or (exponent != 0 and not exact):
                        break
                    times[i] = ms_of_whole(np.int64(mantissa)) if exponent == 0 else ms_of_float(value)
                    if times[i] == NO_TIME:
                        break

            # what stands after it
            if in_array:
                cursor = skip_space(cursor, end)
                if element == width:
                    if cursor >= end or byte(cursor) != _CLOSE_ARRAY:
                        break
                    cursor += _1
                    in_array = False
            if not in_array and (key == len(roles) or not is_object):
                if is_object:
                    closed = 0
                    while closed < closers and cursor < end and byte(cursor) == _CLOSE_OBJECT:
                        closed += 1
                        cursor += _1
                    if closed < closers:
                        break
                accepted[i] = skip_space(cursor, end) == end
                break
    return accepted


@inlined
def skip_space(cursor, end):
    """Return where the next byte is that is no blank."""
    while cursor < end and byte(cursor) <= 32:
        if byte(cursor) != 32 and byte(cursor) != 10 and byte(cursor) != 13 and byte(cursor) != 9:
            break
        cursor += _1
    return cursor


@inlined
def _is_minus_zero(negative, mantissa):
    """Return whether the number is -0, by arithmetic: a branch would be mispredicted at every other sign."""
    return mantissa | (negative ^ _1) == 0


@inlined
def number(cursor, end):
    """Parse any number without its minus.

    Returns whether it is one, where it ends, its digits as an integer, how many these are, and the power of ten that
    goes with them.
    """
    mantissa, digits, exponent = np.uint64(0), np.int64(0), np.int64(0)
    begin = cursor
    while cursor < end:
        digit = byte(cursor) - _DIGIT_0
        if digit > 9:
            break
        mantissa = mantissa * _10 + digit
        digits += digits > 0 or digit > 0
        cursor += _1
    is_number = cursor > begin and (byte(begin) != 48 or cursor == begin + _1)  # 01 is no number
    if cursor < end and byte(cursor) == _POINT:
        cursor += _1
        begin = cursor
        while cursor < end:
            digit = byte(cursor) - _DIGIT_0
            if digit > 9:
                break
            mantissa = mantissa * _10 + digit
            digits += digits > 0 or digit > 0
            cursor += _1
        exponent = -np.int64(cursor - begin)
        is_number = is_number and cursor > begin
    if cursor < end and (byte(cursor) == 101 or byte(cursor) == 69):  # e, E
        cursor += _1
        minus = cursor < end and byte(cursor) == _MINUS
        if cursor < end and (byte(cursor) == 43 or minus):
            cursor += _1
        begin, power = cursor, np.int64(0)
        while cursor < end:
            digit = byte(cursor) - _DIGIT_0
            if digit > 9 or power > 9999:
                break
            power = power * 10 + np.int64(digit)
            cursor += _1
        exponent += -power if minus else power
        is_number = is_number and cursor > begin
    return is_number, cursor, mantissa, digits, exponent
