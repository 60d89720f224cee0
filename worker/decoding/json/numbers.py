"""Parses short decimal numbers eight bytes at a time, branch-free (after D. Lemire). For compiled loops only."""

# mypy: disable-error-code="no-untyped-def,misc,no-untyped-call"
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from worker.native.jit import inlined

_ZEROS = np.uint64(0x3030303030303030)
_POINTS = np.uint64(0x2E2E2E2E2E2E2E2E)
_ONES = np.uint64(0x0101010101010101)
_TOP_BITS = np.uint64(0x8080808080808080)
_FROM_MINUS = np.uint64(0x5353535353535353)  # added: the top bit of what is "-" or above
_ABOVE_NINE = np.uint64(0x4646464646464646)  # likewise, of what is above "9"
_FROM_TEN = np.uint64(0x7676767676767676)  # likewise, of ten or more
_1, _8, _63, _64 = np.uint64(1), np.uint64(8), np.uint64(63), np.uint64(64)
_BYTE, _MINUS, _ZERO = np.uint64(0xFF), np.uint64(0x2D), np.uint64(0x30)
_PAIRS, _FOURS = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)


@intrinsic
def _first_byte_of(typing, word):
    """Return the first byte that has a bit set; 8 if none has."""

    def build(context, builder, signature, arguments):
        zeros = builder.cttz(arguments[0], cgutils.false_bit)
        return builder.lshr(zeros, ir.Constant(ir.IntType(64), 3))

    return types.uint64(word), build


@inlined
def extent(word):
    """Return how many of the eight bytes come before the first that is no digit, point or minus."""
    return _first_byte_of(((word + _ABOVE_NINE) | ~(word + _FROM_MINUS) | word) & _TOP_BITS)


@inlined
def plain_number(word, n):
    """Parse the lowest n bytes, n <= 8.

    Returns whether they are a plain number (perhaps a minus, digits, a point, digits); 1 if it is negative, else 0; its
    digits as an integer; and how many of them stand after the point.
    """
    negative = np.uint64(word & _BYTE == _MINUS)
    word >>= _8 * negative
    count = n - negative - _1
    points = word ^ _POINTS
    whole = _first_byte_of((points - _ONES) & ~points & _TOP_BITS)
    before = (_1 << (_8 * whole & _63)) - _1
    digits = (word & before) | ((word >> _8) & ~before)
    digits = (digits ^ _ZEROS) << (_64 - _8 * count & _63)
    is_valid = (((digits + _FROM_TEN) | digits) & _TOP_BITS == 0) & (whole - _1 < count - _1) & (count < _8)
    is_valid &= (whole == _1) | (word & _BYTE != _ZERO)
    pairs = (digits * np.uint64(2561)) >> _8 & _PAIRS
    fours = (pairs * np.uint64(6553601)) >> np.uint64(16) & _FOURS
    return is_valid, negative, (fours * np.uint64(42949672960001)) >> np.uint64(32), count - whole
