"""JSON from columns: a template is prepared once, and many documents are written by one compiled loop.

    Template('{"id":', Text(0), ',"score":', Number(0), '}').render(texts=[ids], numbers=[scores])

Texts are inserted as they are, so they must be quoted already. Numbers have 7 to 9 significant digits, the fewest that
give back the same float32. Numbers that are not finite become null.
"""

# mypy: disable-error-code="no-untyped-def"
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from worker.blocks import BytesColumn
from worker.native.jit import compiled, read_only
from worker.native.raw_memory import move, put

_DIGITS: Final = 9
_LONGEST_NUMBER: Final = 24
_POWERS: Final = np.array([float(f"1e{k}") for k in range(-323, 309)])
_ZERO_POWER: Final = 323


class Text(NamedTuple):
    """The document's entry of this text column."""

    column: int


class Number(NamedTuple):
    """The document's entry of this number column."""

    column: int


class Integer(NamedTuple):
    """The document's entry of this column of integers, none of them negative."""

    column: int


class Template:
    """Constant text, with columns in between."""

    def __init__(self, *parts: str | bytes | Text | Number | Integer):
        encoded = [part.encode() if isinstance(part, str) else part for part in parts]
        constants = [part if isinstance(part, bytes) else b"" for part in encoded]
        self._buffer = read_only(np.frombuffer(b"".join(constants), np.uint8))
        ends = np.cumsum([len(c) for c in constants])
        kinds = {Text: 1, Number: 2, Integer: 3}
        table = [
            (0, end - len(part), end) if isinstance(part, bytes) else (kinds[type(part)], part.column, 0)
            for part, end in zip(encoded, ends.tolist(), strict=True)
        ]
        self._table = np.array(table, np.int64)
        numbers = sum(isinstance(part, Number | Integer) for part in parts)
        self._most = sum(map(len, constants)) + _LONGEST_NUMBER * numbers
        self._uses = Counter(part.column for part in parts if isinstance(part, Text))

    def render(
        self,
        n: int,
        texts: Sequence[BytesColumn] = (),
        numbers: Sequence[npt.ArrayLike] = (),
        integers: Sequence[npt.ArrayLike] = (),
    ) -> BytesColumn:
        """Return n documents; each column has n entries."""
        if not n:
            return BytesColumn.of([])
        buffers = [np.frombuffer(column.buffer, np.uint8) for column in texts]
        shifts = np.cumsum([0, *map(len, buffers)]).tolist()
        starts = np.array([column.start + shift for column, shift in zip(texts, shifts, strict=False)], np.int64)
        lengths = np.array([column.length for column in texts], np.int64)
        max_bytes = self._most * n + sum(int(column.length.sum()) * self._uses[k] for k, column in enumerate(texts))
        out = np.empty(max_bytes, np.uint8)
        ends = np.empty(n, np.int64)
        _render(
            self._table,
            self._buffer,
            np.concatenate(buffers) if buffers else np.empty(0, np.uint8),
            starts.reshape(-1, n),
            lengths.reshape(-1, n),
            np.array(numbers, np.float64).reshape(-1, n),
            np.array(integers, np.int64).reshape(-1, n),
            out,
            ends,
        )
        start = np.concatenate(([0], ends[:-1]))
        return BytesColumn(out.data[: int(ends[-1])], start, ends - start)


@compiled
def _render(table, constants, text, starts, lengths, numbers, integers, out, ends):
    """Fill `out`; each document ends at `ends` [n]."""
    begin = address = np.int64(out.ctypes.data)
    constant_base, text_base = np.int64(constants.ctypes.data), np.int64(text.ctypes.data)
    for i in range(len(ends)):
        for p in range(len(table)):
            kind, column = table[p, 0], table[p, 1]
            if kind == 0:
                size = table[p, 2] - table[p, 1]
                move(address, constant_base + table[p, 1], size)
                address += size
            elif kind == 1:
                move(address, text_base + starts[column, i], lengths[column, i])
                address += lengths[column, i]
            elif kind == 2:
                address = put_number(numbers[column, i], address)
            else:
                address = _put_integer(integers[column, i], address)
        ends[i] = address - begin


@compiled
def _put_integer(value, address):
    """Write a number that is not negative; return where it ends."""
    digits, left = 1, value // 10
    while left > 0:
        left //= 10
        digits += 1
    for k in range(digits - 1, -1, -1):
        put(address + k, 48 + value % 10)
        value //= 10
    return address + digits


@compiled
def _times_power(value, k):
    """Return value * 10^k, where 10^k itself may be infinite."""
    if k > 300:
        return value * 1e300 * _POWERS[_ZERO_POWER + k - 300]
    if k >= 0:
        return value * _POWERS[_ZERO_POWER + k]
    if k < -300:
        return value / 1e300 / _POWERS[_ZERO_POWER - k - 300]
    return value / _POWERS[_ZERO_POWER - k]


@compiled
def put_number(value, address):
    """Write a number at this address; return where it ends."""
    if not np.isfinite(value):
        for c in (110, 117, 108, 108):  # null
            put(address, c)
            address += 1
        return address
    if value < 0:
        put(address, 45)  # -
        address += 1
        value = -value
    if value == 0:
        for c in (48, 46, 48):
            put(address, c)
            address += 1
        return address
    exponent = int(np.floor(np.log10(value)))
    shift = _DIGITS - 1 - exponent
    scaled = _times_power(value, shift)
    digits = np.int64(np.rint(scaled))
    if digits >= 10**_DIGITS:  # by rounding, or by the logarithm's
        digits = (digits + 5) // 10
        exponent += 1
        shift -= 1
    elif digits < 10 ** (_DIGITS - 1):
        exponent -= 1
        shift += 1
        digits = np.int64(np.rint(_times_power(value, shift)))
    used = _DIGITS
    for fewer in (100, 10):
        rounded = (digits + fewer // 2) // fewer * fewer
        if np.float32(_times_power(np.float64(rounded), -shift)) == np.float32(value):
            digits = rounded
            break
    if digits >= 10**_DIGITS:
        digits //= 10
        exponent += 1
    while used > 1 and digits % 10 == 0:
        digits //= 10
        used -= 1
    if exponent < -5 or exponent >= _DIGITS + 6:
        return _put_exponent(exponent, _put_digits(digits, used, 1, address))
    if exponent < 0:
        put(address, 48)
        put(address + 1, 46)
        address += 2
        for _ in range(-exponent - 1):
            put(address, 48)
            address += 1
        for k in range(used - 1, -1, -1):
            put(address + k, 48 + digits % 10)
            digits //= 10
        return address + used
    while used <= exponent:
        digits *= 10
        used += 1
    return _put_digits(digits, used, exponent + 1, address)


@compiled
def _put_digits(digits, used, point, address):
    """Write `used` digits, with the point after `point` of them, and at least one digit behind it."""
    end = address + used + 1
    for k in range(used - 1, -1, -1):
        put(address + k + (k >= point), 48 + digits % 10)
        digits //= 10
    put(address + point, 46)
    if used == point:
        put(end, 48)
        end += 1
    return end


@compiled
def _put_exponent(exponent, address):
    put(address, 101)  # e
    address += 1
    if exponent < 0:
        put(address, 45)
        address += 1
        exponent = -exponent
    width = 1 if exponent < 10 else 2 if exponent < 100 else 3
    for k in range(width - 1, -1, -1):
        put(address + k, 48 + exponent % 10)
        exponent //= 10
    return address + width
