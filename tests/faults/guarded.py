"""Memory that ends, or begins, at a page that may not be touched: one byte too many is a SIGSEGV, where it would
otherwise be whatever happens to lie there.
"""

import ctypes
import math
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest import mock

import numpy as np
import numpy.typing as npt

PAGE: Final = mmap.PAGESIZE
_PROT_NONE: Final = 0
_RUBBISH: Final = 0xA5  # in memory that nobody has written to yet: zeros would hide that

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Guarded:
    """Room for `size` bytes, to be used again and again, with a forbidden page before it and one after it."""

    def __init__(self, size: int):
        self.size = max(-(-size // PAGE), 1) * PAGE
        # The array keeps the mapping alive, and a slice of it the array.
        whole = np.frombuffer(mmap.mmap(-1, self.size + 2 * PAGE), np.uint8)
        for page in (0, PAGE + self.size):
            if _libc.mprotect(whole.ctypes.data + page, PAGE, _PROT_NONE):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._room = whole[PAGE : PAGE + self.size]

    def ending(self, data: bytes) -> memoryview:
        """A read-only copy whose last byte is the last before the forbidden page. The one made before is lost."""
        return self._placed(self._room[self.size - len(data) :], data)

    def beginning(self, data: bytes) -> memoryview:
        """A copy whose first byte is the first behind the forbidden page."""
        return self._placed(self._room[: len(data)], data)

    def last(self, size: int) -> npt.NDArray[np.uint8]:
        """The last `size` bytes, to be written to."""
        return self._room[self.size - size :]

    def _placed(self, place: npt.NDArray[np.uint8], data: bytes) -> memoryview:
        if len(data) > self.size:
            raise ValueError(f"{len(data)} bytes, and room for {self.size}")
        place[:] = np.frombuffer(data, np.uint8)
        place = place.view()
        place.flags.writeable = False
        return place.data


class GuardedEmpty:
    """Stands for numpy.empty: each array has a mapping of its own, and ends at its forbidden page."""

    def __init__(self) -> None:
        self._bytes: int | None = None

    def __call__(self, shape: Any, dtype: Any = np.float64) -> npt.NDArray[Any]:
        kind = np.dtype(dtype)
        size = int(math.prod(shape) if isinstance(shape, tuple) else shape) * kind.itemsize
        if self._bytes is not None and kind == np.uint8:
            assert self._bytes <= size, f"{size} bytes are asked for, and {self._bytes} are needed"
            shape = size = self._bytes
        room = Guarded(size).last(size)
        room[:] = _RUBBISH
        return room.view(kind).reshape(shape)

    @contextmanager
    def exactly(self, size: int) -> Iterator[None]:
        """An array of bytes has `size` of them, however many are asked for: as many as it is known to take."""
        self._bytes = size
        try:
            yield
        finally:
            self._bytes = None


@contextmanager
def guarded_empty() -> Iterator[GuardedEmpty]:
    """What takes memory from numpy.empty gets such. Nothing may be compiled meanwhile: numba knows numpy's own."""
    made = GuardedEmpty()
    with mock.patch.object(np, "empty", made):
        yield made
