"""A target: one chunk's work on one kind of input. And the journal, which outlives what kills the process."""

import mmap
import random
import struct
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.faults.guarded import Guarded, GuardedEmpty
from worker.blocks import BytesColumn

LARGEST: Final = 1 << 20  # bytes of an input
PATIENCE: Final = 120.0  # seconds that a chunk may take before it hangs


class Journal:
    """What is worked on, in a file that the kernel writes, whatever becomes of the process."""

    _HEAD = struct.Struct("<qq")  # chunk, bytes of the input

    def __init__(self, path: Path):
        with path.open("w+b") as file:
            file.truncate(self._HEAD.size + LARGEST)
            self._map = mmap.mmap(file.fileno(), 0)

    def begin(self, chunk: int) -> None:
        self._map[: self._HEAD.size] = self._HEAD.pack(chunk, 0)

    def note(self, data: bytes) -> None:
        self._map[8:16] = len(data).to_bytes(8, "little")
        self._map[16 : 16 + len(data)] = data

    @classmethod
    def read(cls, path: Path) -> tuple[int, bytes]:
        """-> the last chunk and the last input."""
        told = path.read_bytes()
        chunk, size = cls._HEAD.unpack_from(told)
        return chunk, told[cls._HEAD.size :][:size]


class Target:
    """One chunk's work on one kind of input: state that is learned from inputs is the chunk's."""

    def __init__(self, rng: random.Random, journal: Journal, memory: Guarded, empty: GuardedEmpty | None):
        """Without `empty`, all is compiled, and numpy.empty is numpy's."""
        self.rng, self.journal, self.memory, self.empty = rng, journal, memory, empty
        self._before = b""
        self.prepare()

    def prepare(self) -> None:
        pass

    def step(self) -> int:
        """-> how many records that were. Raises AssertionError where they are not read as they should be."""
        raise NotImplementedError

    def placed(self, data: bytes) -> BytesColumn:
        """Mostly alone, and the end of it is that of its memory; some stand behind another, some at the beginning."""
        where = self.rng.random()
        self.journal.note(data)
        if where < 0.7:
            return column_of(self.memory.ending(data), [len(data)])
        if where < 0.85:
            return column_of(self.memory.beginning(data), [len(data)])
        before = self._before if len(self._before) + len(data) <= self.memory.size else b""
        self._before = data
        return column_of(self.memory.ending(before + data), [len(before), len(data)])

    def exactly(self, size: int) -> Any:
        return self.empty.exactly(size) if self.empty is not None else nullcontext()


def column_of(buffer: memoryview, lengths: Sequence[int]) -> BytesColumn:
    """Of strings end to end; a length of -1 is null."""
    sizes = np.maximum(lengths, 0)
    return BytesColumn(buffer, np.cumsum(sizes) - sizes, np.array(lengths, np.int64))
