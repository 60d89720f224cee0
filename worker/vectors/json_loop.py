"""The compiled loop of format `json`: arrays, and objects of which it is known how they are written. What is unusual
about a record in any way leaves it alone; worker/vectors/json.py knows what becomes of that.
"""

# mypy: disable-error-code="no-untyped-def,assignment"
from typing import Final

import numpy as np

from worker.addresses import byte, eight_bytes
from worker.compiled import compiled, inlined
from worker.vectors.digits import extent, plain_number
from worker.vectors.loops import ENTITY, REFUSED, SKIP, TIME, VALUES

_POWERS: Final = np.array([float(f"1e{k}") for k in range(309)])
# Of a plain number, as float32, a product is as exact as a quotient: with seven digits at most it lies nowhere near to
# the middle of two of them.
_TENTHS: Final = np.array([1 / _POWERS[:9], -1 / _POWERS[:9]])
_EXACT_POWER, _EXACT_DIGITS, _MOST_DIGITS = 22, 2**53, 19
_LEAST, _MOST = 1.2e-38, 3.4e38  # float32 is exact to the last of its bits in between
_1, _2, _3, _4, _8, _10 = (np.uint64(k) for k in (1, 2, 3, 4, 8, 10))
_QUOTE, _COMMA, _BACKSLASH, _MINUS, _POINT, _DIGIT_0 = 34, 44, 92, 45, 46, np.uint64(48)
_OPEN_ARRAY, _CLOSE_ARRAY, _CLOSE_OBJECT = 91, 93, 125


@compiled
def parse(buffer, start, length, words, masks, ends, sizes, roles, x, times, names):
    """Fills a row of x, times and names for each record that it takes. -> [n] whether it did.

    What stands before the value of each key is `sizes` bytes long and lies in `words`, up to `ends`, as much of each as
    `masks` says.

    `at`, `begin`, `end` are addresses: what a compiled function takes of an array, another may only at a price, since
    references to it are counted.
    """
    n, width = x.shape
    base = np.uint64(buffer.ctypes.data)
    limit = base + np.uint64(len(buffer))
    taken = np.zeros(n, np.bool_)
    for i in range(n):
        end = base + np.uint64(start[i]) + np.uint64(length[i])
        at = _skip_space(base + np.uint64(start[i]), end)
        if at >= end:
            continue
        in_array = byte(at) == _OPEN_ARRAY
        is_object = not in_array
        if is_object and len(roles) == 0:
            continue
        at += np.uint64(in_array)
        element = key = 0
        while True:
            # what stands before the next value
            if in_array:
                if element > 0:
                    if at >= end or byte(at) != _COMMA:
                        break
                    at += _1
                # Plain numbers, each with its comma and what stands between the two: all with a space, or all without.
                gap = _1 + np.uint64(at < end and byte(at) == 32)
                at += gap - _1
                while element < width - 1 and at + _10 <= limit:
                    word = eight_bytes(at)
                    spelled = extent(word)
                    sound, negative, mantissa, places = plain_number(word, spelled)
                    comma = at + spelled
                    sound &= (byte(comma) == _COMMA) & ((gap == _1) | (byte(comma + _1) == 32))
                    if not sound or comma >= end or _is_minus_zero(negative, mantissa):
                        break
                    x[i, element] = np.float64(mantissa) * _TENTHS[negative, places]
                    element += 1
                    at = comma + gap
                role = np.int64(element)
                element += 1
                at = _skip_space(at, end)
            else:
                begin, over = np.uint64(ends[key - 1]) if key > 0 else np.uint64(0), np.uint64(ends[key])
                if end - at <= sizes[key] or limit - at < _8 * (over - begin):
                    break
                same = True
                for k in range(over - begin):
                    same &= (eight_bytes(at + _8 * k) ^ words[begin + k]) & masks[begin + k] == 0
                if not same:
                    break
                at += sizes[key]
                role = roles[key]
                key += 1
                if role == VALUES:
                    in_array, element = True, 0
                    continue
            if at >= end or role == REFUSED:
                break

            # the value
            plain = False
            if role >= 0 and at + _10 <= limit:
                word = eight_bytes(at)
                spelled = extent(word)
                after = byte(at + spelled)
                plain, negative, mantissa, places = plain_number(word, spelled)
                plain &= (at + spelled <= end) & (after != 69) & (after != 101)  # E, e
                plain &= (spelled < _8) | (after < 45) | (after > 57)  # else there is more of it
            first = byte(at)
            if plain:
                if _is_minus_zero(negative, mantissa):
                    break
                x[i, role] = np.float64(mantissa) * _TENTHS[negative, places]
                at += spelled
            elif first == _QUOTE:
                if role != SKIP and role != ENTITY:
                    break
                begin = at + _1
                at = begin
                while at < end and 32 <= byte(at) < 128 and byte(at) != _QUOTE and byte(at) != _BACKSLASH:
                    at += _1
                if at >= end or byte(at) != _QUOTE:
                    break
                if role == ENTITY:
                    names[i, 0], names[i, 1] = begin - base, at - base
                at += _1
            elif first == 110:  # n
                if end - at < 4 or byte(at + _1) != 117 or byte(at + _2) != 108 or byte(at + _3) != 108:
                    break
                if role >= 0:
                    x[i, role] = np.nan
                at += _4
            elif first == 116 or first == 102:  # t, f
                if role != SKIP or end - at < 4:
                    break
                if first == 116:
                    same = byte(at + _1) == 114 and byte(at + _2) == 117 and byte(at + _3) == 101
                else:
                    same = byte(at + _1) == 97 and byte(at + _2) == 108 and byte(at + _3) == 115
                    at += _1
                    same = same and end - at >= 4 and byte(at + _3) == 101
                if not same:
                    break
                at += _4
            elif role == ENTITY:
                break
            else:
                negative = np.uint64(first == _MINUS)
                at += negative
                found, at, mantissa, digits, exponent = _number(at, end)
                if not found or digits > _MOST_DIGITS or abs(exponent) > 300 or _is_minus_zero(negative, mantissa):
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
                    # Not every digit counts in float32: but where it is in doubt which way to round, they do.
                    if not exact and np.float32(value * (1 - 1e-15)) != np.float32(value * (1 + 1e-15)):
                        break
                    x[i, role] = value
                elif role == TIME:
                    if not exact or negative or value >= 1e14:
                        break
                    if exponent == 0:
                        times[i] = np.int64(mantissa) * (1000 if mantissa < 100_000_000_000 else 1)
                    else:
                        times[i] = np.int64(value * 1000) if value < 1e11 else np.int64(value)

            # what stands after it
            if in_array:
                at = _skip_space(at, end)
                if element == width:
                    if at >= end or byte(at) != _CLOSE_ARRAY:
                        break
                    at += _1
                    in_array = False
            if not in_array and (key == len(roles) or not is_object):
                if is_object:
                    if at >= end or byte(at) != _CLOSE_OBJECT:
                        break
                    at += _1
                taken[i] = _skip_space(at, end) == end
                break
    return taken


@inlined
def _skip_space(at, end):
    while at < end and byte(at) <= 32:
        if byte(at) != 32 and byte(at) != 10 and byte(at) != 13 and byte(at) != 9:
            break
        at += _1
    return at


@inlined
def _is_minus_zero(negative, mantissa):
    """In numbers, since a condition of two parts would have the processor guess at the sign."""
    return mantissa | (negative ^ _1) == 0


@inlined
def _number(at, end):
    """Any number, its minus apart. -> whether it is one, where it ends, its digits as an integer, how many these are,
    and the power of ten that goes with them.
    """
    mantissa, digits, exponent = np.uint64(0), np.int64(0), np.int64(0)
    begin = at
    while at < end:
        digit = byte(at) - _DIGIT_0
        if digit > 9:
            break
        mantissa = mantissa * _10 + digit
        digits += digits > 0 or digit > 0
        at += _1
    found = at > begin and (byte(begin) != 48 or at == begin + _1)  # 01 is no number
    if at < end and byte(at) == _POINT:
        at += _1
        begin = at
        while at < end:
            digit = byte(at) - _DIGIT_0
            if digit > 9:
                break
            mantissa = mantissa * _10 + digit
            digits += digits > 0 or digit > 0
            at += _1
        exponent = -np.int64(at - begin)
        found = found and at > begin
    if at < end and (byte(at) == 101 or byte(at) == 69):  # e, E
        at += _1
        minus = at < end and byte(at) == _MINUS
        if at < end and (byte(at) == 43 or minus):
            at += _1
        begin, power = at, np.int64(0)
        while at < end:
            digit = byte(at) - _DIGIT_0
            if digit > 9 or power > 9999:
                break
            power = power * 10 + np.int64(digit)
            at += _1
        exponent += -power if minus else power
        found = found and at > begin
    return found, at, mantissa, digits, exponent
