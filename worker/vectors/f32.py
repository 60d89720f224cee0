"""Format `f32`: raw little-endian float32; n * d floats are n vectors. Decoded a block at a time."""

import numpy as np

from worker.compiled import read_only
from worker.vectors.block import BytesColumn, Float32s, Int64s, Reject, gather
from worker.vectors.formats import WRONG_LENGTH, Parsed


class F32:
    def __init__(self, width: int):
        self._width = width
        self._row_bytes = 4 * width

    def decode(self, values: BytesColumn, records: Int64s) -> list[Parsed]:
        length = values.length[records]
        if (length == self._row_bytes).all():  # as mostly: to divide would cost more than all else here
            return [Parsed(records, np.ones(len(records), np.int64), self._rows(values, records))]
        counts, rest = np.divmod(length, self._row_bytes)
        good = (rest == 0) & (counts > 0)
        rejects = [
            Reject(int(r), WRONG_LENGTH, f"{n} bytes are not a multiple of {self._row_bytes} ({self._width} float32)")
            for r, n in zip(records[~good], length[~good], strict=True)
        ]
        return [Parsed(records[good], counts[good], self._rows(values, records[good]), rejects)]

    def _rows(self, values: BytesColumn, records: Int64s) -> Float32s:
        length = values.length[records]
        x = np.empty((int(length.sum()) // self._row_bytes, self._width), "<f4")
        gather(
            read_only(np.frombuffer(values.buffer, np.uint8)), values.start[records], length, x.view(np.uint8).ravel()
        )
        return x
