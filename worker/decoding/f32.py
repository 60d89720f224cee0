"""Format `f32`: raw little-endian float32; n * d floats are n vectors. Decoded a block at a time."""

# mypy: disable-error-code="no-untyped-def"
from collections.abc import Sequence
from typing import Any

import numpy as np

from worker.blocks.bytes_column import BytesColumn
from worker.blocks.vector_block import Reject
from worker.decoding.dead_letter_reasons import WRONG_LENGTH
from worker.decoding.format import FeatureSchema, Parsed, without_infinite
from worker.native.arrays import Int64s
from worker.native.jit import compiled, read_only
from worker.native.raw_memory import move


class F32:
    """Reads `f32`: one copy of the bytes into the matrix."""

    def __init__(self, features: Sequence[str]):
        self._features, self._width = features, len(features)
        self._row_bytes = 4 * self._width

    @classmethod
    def of(cls, schema: FeatureSchema) -> "F32":
        """Return a reader for the feature schema."""
        return cls(schema.features)

    def decode(self, values: BytesColumn, records: Int64s) -> list[Parsed]:
        """Parse the values of `records`, as Format says."""
        length = values.length[records]
        if (length == self._row_bytes).all():  # as mostly: to divide would cost more than all else here
            return [self._parse(values, records, np.ones(len(records), np.int64))]
        counts, rest = np.divmod(length, self._row_bytes)
        good = (rest == 0) & (counts > 0)
        rejects = [
            Reject(int(r), WRONG_LENGTH, f"{n} bytes are not a multiple of {self._row_bytes} ({self._width} float32)")
            for r, n in zip(records[~good], length[~good], strict=True)
        ]
        return [self._parse(values, records[good], counts[good], rejects)]

    def document(self, value: memoryview) -> Any:
        """Return the readings as a list."""
        return np.frombuffer(value, "<f4").tolist()

    def _parse(
        self, values: BytesColumn, records: Int64s, counts: Int64s, rejects: list[Reject] | None = None
    ) -> Parsed:
        x = np.empty((int(counts.sum()), self._width), "<f4")
        buffer, bits = read_only(np.frombuffer(values.buffer, np.uint8)), x.view(np.uint32).ravel()
        infinite = _rows(buffer, values.start[records], values.length[records], x.view(np.uint8).ravel(), bits)
        parsed = Parsed(records, counts, x, rejects or ())
        return without_infinite(parsed, self._features) if infinite else parsed


@compiled
def _rows(buffer, start, length, out, bits):
    """Copy slices of `buffer` to `out`, end to end; return whether any float32 there is infinite.

    `bits` is the same memory as `out`. It is checked while it is in the cache.
    """
    offset, infinite = 0, np.uint32(0)
    source, to = np.int64(buffer.ctypes.data), np.int64(out.ctypes.data)
    for i in range(len(start)):
        move(to + offset, source + start[i], length[i])
        for value in bits[offset // 4 : (offset + length[i]) // 4]:
            infinite |= np.uint32((value & np.uint32(0x7FFFFFFF)) == np.uint32(0x7F800000))
        offset += length[i]
    return infinite != 0
