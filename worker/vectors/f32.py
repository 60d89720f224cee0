"""Format `f32`: raw little-endian float32; n * d floats are n vectors. Decoded a block at a time."""

import numpy as np

from worker.vectors.block import BytesColumn, Float32s, Int64s, Reject
from worker.vectors.formats import WRONG_LENGTH, Parsed


class F32:
    def __init__(self, width: int):
        self._width = width
        self._row_bytes = 4 * width

    def decode(self, values: BytesColumn, records: Int64s) -> Parsed:
        length = values.length[records]
        counts, rest = np.divmod(length, self._row_bytes)
        good = (rest == 0) & (counts > 0)
        rejects = [
            Reject(int(r), WRONG_LENGTH, f"{n} bytes are not a multiple of {self._row_bytes} ({self._width} float32)")
            for r, n in zip(records[~good], length[~good], strict=True)
        ]
        return Parsed(records[good], counts[good], self._rows(values, records[good]), rejects)

    def _rows(self, values: BytesColumn, records: Int64s) -> Float32s:
        if not len(records):
            return np.empty((0, self._width), np.float32)
        start, length = values.start[records], values.length[records]
        first, end = int(start[0]), int(start[-1] + length[-1])
        if end - first == int(length.sum()) and (start[1:] == start[:-1] + length[:-1]).all():
            data = values.buffer[first:end]  # end to end in the buffer: no copy
        else:
            data = memoryview(b"".join(values.view(int(r)) for r in records))
        return np.frombuffer(data, "<f4").reshape(-1, self._width)
