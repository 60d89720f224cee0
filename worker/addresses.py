"""Memory by its address, for compiled loops: to hand an array from one compiled function to another costs ten times
what most of them do, since references to it are counted. `array.ctypes.data` is where an array begins; it is to be made
an int64 or all else a uint64, since numba adds the two as floats. Nothing looks whether an address is good: whoever
calls has made sure of it, and keeps the array alive.
"""

# mypy: disable-error-code="no-untyped-def,misc,no-untyped-call"
import sys

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_BYTE, _WORD = ir.IntType(8), ir.IntType(64)


@intrinsic
def byte(typing, at):
    """The byte there, as a uint64."""

    def build(context, builder, signature, arguments):
        return builder.zext(builder.load(builder.inttoptr(arguments[0], _BYTE.as_pointer())), _WORD)

    return types.uint64(types.uint64), build


@intrinsic
def eight_bytes(typing, at):
    """The eight bytes from there on as a uint64: the first one is the lowest."""

    def build(context, builder, signature, arguments):
        word = builder.load(builder.inttoptr(arguments[0], _WORD.as_pointer()), align=1)
        return word if sys.byteorder == "little" else builder.bswap(word)

    return types.uint64(types.uint64), build


@intrinsic
def four_bytes(typing, at):
    """The four bytes from there on as a uint64: the first one is the lowest."""

    def build(context, builder, signature, arguments):
        half = ir.IntType(32)
        word = builder.load(builder.inttoptr(arguments[0], half.as_pointer()), align=1)
        return builder.zext(word if sys.byteorder == "little" else builder.bswap(word), _WORD)

    return types.uint64(types.uint64), build


@intrinsic
def put(typing, at, value):
    """Writes one byte."""

    def build(context, builder, signature, arguments):
        builder.store(builder.trunc(arguments[1], _BYTE), builder.inttoptr(arguments[0], _BYTE.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.uint64, types.int64), build


@intrinsic
def move(typing, to, source, n):
    """Copies n bytes; the two places do not overlap."""

    def build(context, builder, signature, arguments):
        to, source = (builder.inttoptr(each, _BYTE.as_pointer()) for each in arguments[:2])
        cgutils.raw_memcpy(builder, to, source, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.int64), build
