"""Format `f32`: raw little-endian float32; n * d floats are n vectors. Decoded a block at a time."""

# mypy: disable-error-code="no-untyped-def"
from typing import Any

import numpy as np

from worker.addresses import move
from worker.compiled import compiled, read_only
from worker.vectors.block import BytesColumn, Int64s, Reject
from worker.vectors.formats import WRONG_LENGTH, Parsed, without_infinite


class F32:
    def __init__(self, width: int):
        self._width = width
        self._row_bytes = 4 * width

    def decode(self, values: BytesColumn, records: Int64s) -> list[Parsed]:
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
        return np.frombuffer(value, "<f4").tolist()

    def _parse(
        self, values: BytesColumn, records: Int64s, counts: Int64s, rejects: list[Reject] | None = None
    ) -> Parsed:
        x = np.empty((int(counts.sum()), self._width), "<f4")
        buffer, bits = read_only(np.frombuffer(values.buffer, np.uint8)), x.view(np.uint32).ravel()
        infinite = _rows(buffer, values.start[records], values.length[records], x.view(np.uint8).ravel(), bits)
        parsed = Parsed(records, counts, x, rejects or ())
        return without_infinite(parsed) if infinite else parsed


@compiled
def _rows(buffer, start, length, out, bits):
    """Copies slices of `buffer` to `out`, end to end. True if any of the float32 there, which are also `bits`, is
    infinite: looked for while they are in the cache.
    """
    at, infinite = 0, np.uint32(0)
    given, to = np.int64(buffer.ctypes.data), np.int64(out.ctypes.data)
    for i in range(len(start)):
        move(to + at, given + start[i], length[i])
        for value in bits[at // 4 : (at + length[i]) // 4]:
            infinite |= np.uint32((value & np.uint32(0x7FFFFFFF)) == np.uint32(0x7F800000))
        at += length[i]
    return infinite != 0
