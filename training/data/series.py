"""Turns a series in an array into the rows that the worker would score."""

import numpy as np

from worker.blocks import BytesColumn, RecordBlock, TopicSet, VectorBlock
from worker.native.arrays import Float32s
from worker.settings import EntitySettings, InputSettings, Settings
from worker.windows import Windows


def windows(x: Float32s, settings: Settings, padded: bool) -> Float32s:
    """Return the coefficients [n, K d] of the windows of x [n, d], one machine's vectors in order.

    The worker's code computes them. The first w - 1 rows have no full window. They are left out, or, if `padded`, their
    windows are filled up with the first vector.
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
    index = np.arange(n)
    records = RecordBlock(
        topics=TopicSet.of("series"),
        partition=np.zeros(n, np.int64),
        offset=index,
        timestamp=index,
        keys=nothing,
        values=nothing,
        headers={},
    )
    return VectorBlock(
        records=records,
        x=np.ascontiguousarray(x),
        record=index,
        row=np.zeros(n, np.int64),
        time=index,
        entities={},
        rejects=[],
        nulls=0,
    )
