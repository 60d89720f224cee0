"""Chooses the rows that are held out from the fit: the latest part of each of several stretches of the time.

A threshold that is set by these rows holds for everything that the plant does in the window (nights, products, shifts),
not only for what it did last.
"""

from typing import Final

import numpy as np

from worker.native.arrays import Bools, Int64s

STRETCHES: Final = 10


def is_held_out(n: int, holdout: float) -> Bools:
    """Return [n] which of n rows in time order are held out: about the share `holdout`."""
    held = np.zeros(n, bool)
    for stretch in stretches(np.arange(n), holdout):
        held[latest(stretch, holdout)] = True
    return held


def stretches(indices: Int64s, share: float) -> list[Int64s]:
    """Split the indices into STRETCHES stretches; into fewer, if `share` of a stretch would be less than one row."""
    return np.array_split(indices, max(1, min(STRETCHES, int(len(indices) * share))))


def latest(stretch: Int64s, share: float) -> Int64s:
    """Return the latest part of a stretch: the share of its indices, at least one; none of an empty stretch."""
    count = max(1, round(len(stretch) * share))
    return stretch[max(len(stretch) - count, 0) :]
