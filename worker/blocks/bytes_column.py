"""Byte strings in a column: slices of one buffer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from worker.native.arrays import Bools, Int64s
from worker.native.jit import compiled, read_only
from worker.native.raw_memory import move

Headers = Sequence[tuple[str, bytes | None]]


@compiled
def gather(buffer, start, length, out):  # type: ignore[no-untyped-def]
    """Copy slices of `buffer` to `out`, end to end."""
    source, target = np.int64(buffer.ctypes.data), np.int64(out.ctypes.data)
    for i in range(len(start)):
        move(target, source + start[i], length[i])
        target += length[i]


@dataclass(frozen=True, slots=True)
class BytesColumn:
    """n byte strings as slices of one buffer; a length of -1 is null."""

    buffer: memoryview
    start: Int64s
    length: Int64s

    @classmethod
    def of(cls, items: Sequence[bytes | None]) -> "BytesColumn":
        """Copy the items into one buffer, end to end."""
        try:
            data = b"".join(items)  # type: ignore[arg-type]
            length = np.fromiter(map(len, items), np.int64, len(items))  # type: ignore[arg-type]
        except TypeError:  # there are nulls
            data = b"".join(item for item in items if item is not None)
            length = np.fromiter((-1 if item is None else len(item) for item in items), np.int64, len(items))
        sizes = np.maximum(length, 0)
        return cls(memoryview(data), np.cumsum(sizes) - sizes, length)

    @classmethod
    def choice(cls, no: bytes, yes: bytes, is_yes: Bools) -> "BytesColumn":
        """Return `yes` where `is_yes` [n], else `no`."""
        length = np.where(is_yes, len(yes), len(no))
        return cls(memoryview(no + yes), np.where(is_yes, len(no), 0), length)

    @classmethod
    def concat(cls, columns: Sequence["BytesColumn"], joined: memoryview | None = None) -> "BytesColumn":
        """Join columns. `joined` are their buffers end to end, if they have been joined already."""
        sizes = np.array([len(c.buffer) for c in columns])
        shifts = np.cumsum(sizes) - sizes
        return cls(
            memoryview(b"".join(c.buffer for c in columns)) if joined is None else joined,
            np.concatenate([c.start + shift for c, shift in zip(columns, shifts, strict=True)]),
            np.concatenate([c.length for c in columns]),
        )

    def take(self, indices: Int64s) -> "BytesColumn":
        """Return the strings of these indices, without a copy."""
        return BytesColumn(self.buffer, self.start[indices], self.length[indices])

    def compact(self) -> "BytesColumn":
        """Return the same strings, in a buffer that holds nothing else."""
        sizes = np.maximum(self.length, 0)
        start = np.cumsum(sizes) - sizes
        out = np.empty(int(sizes.sum()), np.uint8)
        gather(read_only(np.frombuffer(self.buffer, np.uint8)), self.start, sizes, out)
        return BytesColumn(out.data, start, self.length)

    def __len__(self) -> int:
        return len(self.length)

    def view(self, i: int) -> memoryview:
        """Return the i-th string without a copy; an empty view where it is null."""
        return self.buffer[self.start[i] : self.start[i] + max(self.length[i], 0)]

    def __getitem__(self, i: int) -> bytes | None:
        return None if self.length[i] < 0 else bytes(self.view(i))

    def __iter__(self) -> Iterator[bytes | None]:
        return (self[i] for i in range(len(self)))
