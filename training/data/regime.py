"""Tells a new operating regime of the plant from a burst of anomalies, where rows are unusual to the champion.

A row is unusual if the champion's p-value is below UNUSUAL. Of normal rows one in twenty is unusual; where as many as
three in ten rows are anomalies, a good third of the rows is. A stretch is a new regime if it meets four conditions:

- Most of its rows are unusual, in nearly all of its parts. Anomalies among normal rows are fewer.
- It lasts up to the window's end. A state that the plant has left again is past.
- It covers at least the share OFFNORMAL_TRAINING__REGIME_SHARE of the window. An incident, even a long one, is shorter.
- It is consistent with itself: its earlier part explains its later part. A fault that keeps growing is not consistent.

A machine that is permanently and steadily broken cannot be distinguished from one that was rebuilt. After that share of
the window it is taken for rebuilt, unless a person has confirmed the incident. A person who dismisses the incident need
not wait.
"""

from typing import Final

import numpy as np
import structlog

from training.rows.thinning import spread_evenly
from worker.native.arrays import Bools, Float32s, Float64s

log = structlog.get_logger()
UNUSUAL: Final = 0.05
MOST: Final = 0.5  # of a part's rows
PARTS: Final = 50  # of the window
NEARLY_ALL: Final = 0.9  # of the parts
# The share of the later half's rows whose distances, within and outside the principal components, must not exceed the
# 99 % quantile of the earlier half's rows.
EXPLAINED: Final = 0.75
_VARIANCE: Final = 0.95
_LOOKED_AT: Final = 20_000


def begins(x: Float32s, p_values: Float64s, usable: Bools, share: float) -> int | None:
    """Return the first row of a new regime; None where there is none.

    Rows x [n, D] are in time order. The champion's `p_values` [n] are NaN where it has none. Rows that are not `usable`
    [n] (confirmed anomalies, faulty sensors) count as neither usual nor unusual.
    """
    n = len(x)
    counted = usable & ~np.isnan(p_values)
    unusual = counted & (p_values < UNUSUAL)
    parts = np.array_split(np.arange(n), min(PARTS, n))
    moved = np.array([unusual[part].sum() > MOST * max(counted[part].sum(), 1) for part in parts])
    first = _last_run(moved)
    if first is None:
        return None
    # The change may lie anywhere in the first part or the one before: where the balance of unusual rows is lowest.
    begin = int(parts[first][0])
    if first > 0:
        around = np.arange(int(parts[first - 1][0]), int(parts[first][-1]) + 1)
        balance = np.cumsum(np.where(counted[around], np.where(unusual[around], 1.0, -1.0), 0.0))
        begin = int(around[int(np.argmin(balance))]) + (1 if balance.min() < 0 else 0)
    long_enough = n - begin >= share * n
    consistent = _explains_itself(x[begin:][counted[begin:]])
    log.info(
        "regime_changed",
        share_of_window=round((n - begin) / n, 3),
        needed=share,
        consistent=consistent,
        learned=long_enough and consistent,
    )
    return begin if long_enough and consistent else None


def _last_run(moved: Bools) -> int | None:
    """Return the start of the longest run up to the last part in which nearly all parts, and both ends, have moved."""
    best = None
    for first in range(len(moved) - 1, -1, -1):
        if moved[first] and moved[-1] and moved[first:].mean() >= NEARLY_ALL:
            best = first
    return best


def _explains_itself(x: Float32s) -> bool:
    """Return whether the later half of rows x [n, D] is like the earlier one.

    It compares the distances within and outside the leading principal components of the earlier half.
    """
    if len(x) < 100:
        return False
    rows = x[spread_evenly(len(x), _LOOKED_AT)].astype(np.float64)
    half = len(rows) // 2
    middle = np.nanmedian(rows[:half], 0)
    spread = np.nanquantile(np.abs(rows[:half] - middle), 0.9, axis=0)
    z = np.clip(np.nan_to_num((rows - middle) / np.where(spread > 0, spread, np.inf)), -10, 10)
    _, power, axes = np.linalg.svd(z[:half] - z[:half].mean(0), full_matrices=False)
    kept = int(np.searchsorted(np.cumsum(power**2) / max(float((power**2).sum()), 1e-30), _VARIANCE)) + 1
    scores = (z - z[:half].mean(0)) @ axes[:kept].T
    within = np.square(scores / np.maximum(power[:kept] / np.sqrt(half), 1e-9)).mean(1)
    without = np.square(z - z[:half].mean(0) - scores @ axes[:kept]).mean(1)
    inside = (within <= np.quantile(within[:half], 0.99)) & (without <= np.quantile(without[:half], 0.99))
    return bool(inside[half:].mean() >= EXPLAINED)
