"""Loops that are wrong on purpose: the memory checks must find each of them (tests/faults/test_guarded.py)."""

# mypy: disable-error-code="no-untyped-def"
import numpy as np

from tests.faults.fuzz_guarded.target import Target
from worker.native.jit import compiled, read_only
from worker.native.raw_memory import byte, put

_ONE = np.uint64(1)


@compiled
def _sum(buffer, first, last):
    """Of the bytes from `first` to `last`, as the loops of the worker read them: by the address."""
    at, total = np.uint64(buffer.ctypes.data) + np.uint64(first), np.uint64(0)
    for _ in range(last - first):
        total += byte(at)
        at += _ONE
    return total


@compiled
def _fill(out, n):
    at = np.int64(out.ctypes.data)
    for k in range(n):
        put(at + k, 7)


@compiled
def _item(array, k):
    return array[k]


@compiled
def _endless(n):
    while n > 0:
        n += 1
        n -= 1
    return n


class _Wrong(Target):
    def step(self) -> int:
        data = self.rng.randbytes(self.rng.randrange(1, 50))
        self.journal.note(data)
        # Sound while it is compiled, and then but for one time in a hundred.
        self.use(data, int(self.empty is not None and self.rng.random() < 0.01))
        return 1

    def use(self, data: bytes, too_many: int) -> None:
        raise NotImplementedError


class OverRead(_Wrong):
    def use(self, data: bytes, too_many: int) -> None:
        _sum(read_only(np.frombuffer(self.memory.ending(data), np.uint8)), 0, len(data) + too_many)


class UnderRead(_Wrong):
    def use(self, data: bytes, too_many: int) -> None:
        _sum(read_only(np.frombuffer(self.memory.beginning(data), np.uint8)), -too_many, len(data))


class OverWrite(_Wrong):
    def use(self, data: bytes, too_many: int) -> None:
        _fill(np.empty(len(data), np.uint8), len(data) + too_many)


class OutOfBounds(_Wrong):
    """Of an array within another: there is memory, and it is not the array's."""

    def use(self, data: bytes, too_many: int) -> None:
        _item(np.frombuffer(data + b"more", np.uint8)[: len(data)], len(data) - 1 + too_many)


class Differs(_Wrong):
    def use(self, data: bytes, too_many: int) -> None:
        assert not too_many, "not what the reference has"


class Endless(_Wrong):
    def use(self, data: bytes, too_many: int) -> None:
        _endless(too_many)


WRONG = {
    "over-read": OverRead, "under-read": UnderRead, "over-write": OverWrite, "out-of-bounds": OutOfBounds,
    "differs": Differs, "endless": Endless,
}  # fmt: skip
