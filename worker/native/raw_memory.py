"""Reads and writes memory by its address, for compiled loops.

Passing an array from one compiled function to another costs ten times what most of these functions do, since references
to it are counted. `array.ctypes.data` is the address of an array. Convert it to int64, or everything else to uint64,
since numba adds the two types as floats.

Nothing checks whether an address is valid. The caller makes sure that it is, and keeps the array alive.
"""

# mypy: disable-error-code="no-untyped-def,misc,no-untyped-call"
import sys

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_BYTE, _WORD = ir.IntType(8), ir.IntType(64)


@intrinsic
def byte(typing, address):
    """Return the byte at this address, as a uint64."""

    def build(context, builder, signature, arguments):
        return builder.zext(builder.load(builder.inttoptr(arguments[0], _BYTE.as_pointer())), _WORD)

    return types.uint64(types.uint64), build


@intrinsic
def eight_bytes(typing, address):
    """Return the eight bytes from this address on, as a uint64. The first one is the lowest."""

    def build(context, builder, signature, arguments):
        word = builder.load(builder.inttoptr(arguments[0], _WORD.as_pointer()), align=1)
        return word if sys.byteorder == "little" else builder.bswap(word)

    return types.uint64(types.uint64), build


@intrinsic
def four_bytes(typing, address):
    """Return the four bytes from this address on, as a uint64. The first one is the lowest."""

    def build(context, builder, signature, arguments):
        half = ir.IntType(32)
        word = builder.load(builder.inttoptr(arguments[0], half.as_pointer()), align=1)
        return builder.zext(word if sys.byteorder == "little" else builder.bswap(word), _WORD)

    return types.uint64(types.uint64), build


@intrinsic
def put(typing, address, value):
    """Write one byte."""

    def build(context, builder, signature, arguments):
        builder.store(builder.trunc(arguments[1], _BYTE), builder.inttoptr(arguments[0], _BYTE.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.uint64, types.int64), build


@intrinsic
def move(typing, to, source, n):
    """Copy n bytes. Source and target do not overlap."""

    def build(context, builder, signature, arguments):
        to, source = (builder.inttoptr(address, _BYTE.as_pointer()) for address in arguments[:2])
        cgutils.raw_memcpy(builder, to, source, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.int64), build
