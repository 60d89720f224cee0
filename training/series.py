"""A series in an array -> what the worker would score of it."""

import numpy as np
import numpy.typing as npt

from worker.settings import EntitySettings, InputSettings, Settings
from worker.vectors import BytesColumn, RecordBlock, VectorBlock
from worker.windows import Windows

Float32s = npt.NDArray[np.float32]


def windows(x: Float32s, settings: Settings, padded: bool) -> Float32s:
    """x [n, d], one machine's vectors in order -> the coefficients of their windows [n, K d], by the worker's code.

    The first w - 1 have no full window: they are left out, or, `padded`, their windows filled up with the first vector.
    """
    window = settings.model.window
    if window == 1:
        return x
    if padded:
        x = np.concatenate((np.repeat(x[:1], window - 1, axis=0), x))
    rows = Windows(
        window,
        x.shape[1],
        settings.detection.max_missing,
        InputSettings(),  # an array has no times: its rows follow each other
        EntitySettings(max=1),
    ).push(_block(x))
    return rows.x[window - 1 :]


def _block(x: Float32s) -> VectorBlock:
    n = len(x)
    nothing = BytesColumn(memoryview(b""), np.zeros(n, np.int64), np.full(n, -1))
    at = np.arange(n)
    records = RecordBlock("series", np.zeros(n, np.int64), at, at, nothing, nothing, {})
    return VectorBlock(records, np.ascontiguousarray(x), at, np.zeros(n, np.int64), at, {}, [], 0)
