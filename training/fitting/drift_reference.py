"""The variation of the training window's summaries: the reference of drift detection (worker/models/reference.py)."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from worker.models.reference import MOST_ENTITIES, Reference
from worker.native.arrays import Float32s, Float64s, Int64s

LEAST_ROWS: Final = 500  # of a summary
MINUTES_A_DAY: Final = 1440  # a summary covers at least a minute's vectors, too
FEWEST: Final = 20  # minimum number of summaries in the window
# Summaries are long enough if the autocorrelation of neighbouring ones is at most this. The first value is for the mean
# p-values, which the detectors assume to be independent, the second for the mean readings, whose spread is corrected.
INDEPENDENT, _MAKES_UP_FOR = 0.3, 0.85
_MOST_DEPENDENT: Final = 0.95
_LEAST_OF_ENTITY: Final = 50
_GARBAGE: Final = 0.001  # share of the readings that is clipped at either end


def reference(
    x: Float32s,
    entity: Int64s,
    names: Sequence[str],
    p_values: Sequence[Float64s],
    thinned: float,
    vectors_per_day: float,
) -> Reference:
    """Return the drift reference of vectors x [n, d], in time order, NaN where missing.

    Each vector stands for `thinned` received vectors and belongs to the entity `names[entity]`. `p_values` are those of
    held-out stretches, in time order.

    Summaries get longer until a summary's mean hardly depends on the one before, as far as the window allows. The
    remaining dependence widens the spread: the variance of a mean over many summaries is (1 + r) / (1 - r) times that
    of independent ones, where r is the autocorrelation of a first-order process.
    """
    # A row without any reading has no p-value.
    scored_parts = [scored for stretch in p_values if len(scored := stretch[~np.isnan(stretch)])]
    wide = x.astype(np.float64)
    low, high = np.nanquantile(wide, (_GARBAGE, 1 - _GARBAGE), axis=0)
    wide = np.clip(wide, low, high)
    names, rows = _largest(names, entity)
    location = np.stack(
        [np.nanmean(wide, 0), *(_mean(wide[rows == k], np.nanmean(wide, 0)) for k in range(1, len(names) + 1))]
    )
    of_entity = rows >= (1 if names else 0)
    off = (wide - location[rows])[of_entity]
    size = max(int(np.ceil(max(LEAST_ROWS, vectors_per_day / MINUTES_A_DAY) / thinned)), 1)
    size = min(size, max(len(off) // FEWEST, 1))
    means = _means(off, size)
    while (
        _autocorrelation([means]).mean() > _MAKES_UP_FOR
        or _autocorrelation([_means(stretch[:, None], size) for stretch in scored_parts])[0] > INDEPENDENT
    ) and len(off) // (2 * size) >= FEWEST:
        size *= 2
        means = _means(off, size)
    r = np.clip(_autocorrelation([means]), 0, _MOST_DEPENDENT)
    few = 1 + 1 / np.sqrt(2 * max(len(means) - 1, 1))  # a spread estimated from few is not to be too small
    spread = np.nanstd(means, 0, ddof=1 if len(means) > 1 else 0) * np.sqrt((1 + r) / (1 - r)) * few
    deviation = np.nanstd(off, 0)
    return Reference(
        rows=max(round(size * thinned), 1),
        entities=tuple(names),
        location=np.nan_to_num(location),
        deviation=np.nan_to_num(deviation),
        spread=np.maximum(np.nan_to_num(spread), np.nan_to_num(deviation) / np.sqrt(size)),
        present=(~np.isnan(x)).mean(0),
        still=_still(x, entity, size),
        p_values=np.array(
            [float(part.mean()) for stretch in scored_parts for part in _parts(stretch, size) if len(part)]
        ),
    )


def _largest(names: Sequence[str], entity: Int64s) -> tuple[list[str], Int64s]:
    """Return the entities with the most rows, and each row's index among them, from 1; 0 for other entities.

    With a single entity there are none, since that entity is the fleet.
    """
    if len(names) < 2:
        return [], np.zeros(len(entity), np.int64)
    counts = np.bincount(entity, minlength=len(names))
    kept = [
        int(k) for k in np.argsort(-counts, kind="stable")[:MOST_ENTITIES] if counts[k] >= _LEAST_OF_ENTITY and names[k]
    ]
    number = np.zeros(len(names), np.int64)
    number[kept] = np.arange(1, len(kept) + 1)
    return [names[k] for k in kept], number[entity]


def _mean(x: Float64s, otherwise: Float64s) -> Float64s:
    read = ~np.isnan(x).all(0)
    return np.where(read, np.nanmean(np.where(read, x, 0.0), 0), otherwise)


def _parts(x: Float64s, size: int) -> list[Float64s]:
    return np.array_split(x, max(len(x) // size, 1))


def _means(x: Float64s, size: int) -> Float64s:
    """Return the means [blocks, d]; NaN where a block has no reading."""
    filled, is_present = np.nan_to_num(x), ~np.isnan(x)
    starts = np.arange(max(len(x) // size, 1)) * size
    sums = np.add.reduceat(filled, starts, 0)
    return np.where(
        (counts := np.add.reduceat(is_present.astype(float), starts, 0)) > 0, sums / np.maximum(counts, 1), np.nan
    )


def _autocorrelation(stretches: Sequence[Float64s]) -> Float64s:
    """Return the correlation [d] of neighbouring rows within stretches [n, d]."""
    if not stretches:
        return np.zeros(1, np.float64)
    mean = np.nanmean(np.concatenate(stretches), 0)
    off = [np.nan_to_num(stretch - mean) for stretch in stretches]
    pairs = sum(len(part) - 1 for part in off)
    power = np.mean(np.square(np.concatenate(off)), 0)
    together = sum((part[1:] * part[:-1]).sum(0) for part in off) / max(pairs, 1)
    correlation: Float64s = np.where(power > 0, together / np.maximum(power, 1e-300), 0.0)
    return correlation


def _still(x: Float32s, entity: Int64s, size: int) -> Float64s:
    """Return [d] the longest run of summaries within which an entity's reading did not change."""
    max_run = np.zeros(x.shape[1])
    for code in np.unique(entity)[:MOST_ENTITIES]:
        rows = x[entity == code]
        if len(rows) < 2:
            continue
        # A row that equals the one before it continues a run without a change. Runs are counted in rows.
        is_still = (rows[1:] == rows[:-1]) | np.isnan(rows[1:])
        position = np.arange(1, len(rows))[:, None]
        last_change = np.maximum.accumulate(np.where(is_still, 0, position), axis=0)
        max_run = np.maximum(max_run, (position - last_change).max(0) / size)
    return max_run
