"""Is what the champion does not know a burst of anomalies, or the plant's new way of running?

A row is unusual where the champion's p-value is below UNUSUAL: of normal rows one in twenty is, and where as many as
three in ten are anomalies, a good third. A stretch is a new regime where

- most of its rows are unusual, in nearly all of its parts: anomalies among normal rows are fewer;
- it lasts up to the window's end: what the plant has come back from is past;
- it is OFFNORMAL_TRAINING__REGIME_SHARE of the window at least: an incident, even a long one, is shorter;
- it is consistent with itself: what its earlier part has shown explains its later part. A fault that goes on growing is
  not.

Nothing tells a machine that is broken for good, steadily, from one that was rebuilt; after that share of the window it
is taken for the latter, unless a person has confirmed the incident. A person who dismisses it need not wait.
"""

from typing import Final

import numpy as np
import structlog

from worker.native.arrays import Bools, Float32s, Float64s

log = structlog.get_logger()
UNUSUAL: Final = 0.05
MOST: Final = 0.5  # of a part's rows
PARTS: Final = 50  # of the window
NEARLY_ALL: Final = 0.9  # of the parts
# Of the later half's rows so many have to lie where all but one in a hundred of the earlier half's do, in the principal
# components' terms.
EXPLAINED: Final = 0.75
_VARIANCE: Final = 0.95
_LOOKED_AT: Final = 20_000


def begins(x: Float32s, p_values: Float64s, usable: Bools, share: float) -> int | None:
    """Return the first row of a new regime; None where there is none.

    Rows x [n, D] are in the order of time, with the champion's p-values [n], NaN where there is none. Rows that are not
    `usable` [n], of confirmed anomalies and faulty sensors, count for neither side.
    """
    n = len(x)
    counted = usable & ~np.isnan(p_values)
    unusual = counted & (p_values < UNUSUAL)
    parts = np.array_split(np.arange(n), min(PARTS, n))
    moved = np.array([unusual[part].sum() > MOST * max(counted[part].sum(), 1) for part in parts])
    first = _last_run(moved)
    if first is None:
        return None
    # Within the first part the change may lie anywhere: where the balance of unusual rows turns.
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
    """Return the first of the parts up to the last one of which nearly all have moved, both ends included."""
    best = None
    for first in range(len(moved) - 1, -1, -1):
        if moved[first] and moved[-1] and moved[first:].mean() >= NEARLY_ALL:
            best = first
    return best


def _explains_itself(x: Float32s) -> bool:
    """Return whether the later half of rows x [n, D] is like the earlier one.

    That is judged by the distance within and without the leading principal components of the earlier half.
    """
    if len(x) < 100:
        return False
    rows = x[np.linspace(0, len(x) - 1, min(len(x), _LOOKED_AT)).astype(int)].astype(np.float64)
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
