"""Thins rows out evenly, so that what is left still covers the whole time."""

import numpy as np

from worker.native.arrays import Int64s


def spread_evenly(n: int, most: int) -> Int64s:
    """Return indices of at most `most` of n rows, evenly spread from the first row to the last one."""
    return np.linspace(0, n - 1, min(n, most)).astype(np.int64)
