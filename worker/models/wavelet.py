"""How a window of w vectors becomes one row: the Haar wavelet's coefficients along the path to the present.

The columns of a feature are: the mean of the whole window; the newest reading minus the one before; the mean of the
newest 2 minus that of the 2 before; of the newest 4 minus the 4 before; and so on. These are 1 + log2(w) columns
instead of w. They are fine for recent readings and coarse for old ones, and a slow drift is one number instead of many
small ones. Everything that is fitted to rows [n, d] can thus be fitted to windows [n, K d]. Block k has the columns k d
to (k + 1) d.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from worker.native.arrays import Float32s


def spans(window: int) -> list[tuple[int, int]]:
    """Return (m, n) of each difference: the newest m readings are compared with those before, up to the n-th.

    w need not be a power of 2; then the last difference compares with fewer readings.
    """
    result, newest = [], 1
    while newest < window:
        result.append((newest, min(2 * newest, window)))
        newest *= 2
    return result


def blocks(window: int) -> int:
    """Return K, the number of coefficients of a feature; 1 without a window."""
    return 1 + len(spans(window))


def columns(features: Sequence[str], window: int) -> tuple[str, ...]:
    """Return the names of the K d columns."""
    if window == 1:
        return tuple(features)
    of_block = [f"mean of {window}", *(f"newest {m} - {n - m} before" for m, n in spans(window))]
    return tuple(f"{name} ({block})" for block in of_block for name in features)


def newest(x: Tensor, window: int) -> Tensor:
    """Return the newest reading [n, d] that coefficients [n, K d] stand for.

    It is missing, NaN, where it or the one before is. An older difference that is missing counts as none.
    """
    if window == 1:
        return x
    mean, *differences = x.chunk(blocks(window), 1)
    for k, (difference, (m, n)) in enumerate(zip(differences, spans(window), strict=True)):
        mean = mean + (difference if k == 0 else difference.nan_to_num()) * ((n - m) / n)
    return mean


def by_feature(shares: Float32s, window: int) -> Float32s:
    """Sum [n, K d] over the window, to [n, d]."""
    total: Float32s = shares.reshape(len(shares), blocks(window), -1).sum(1)
    return total


def by_lag(shares: Float32s, window: int) -> Float32s:
    """Sum shares [n, K d] over the features, to [n, w] from the newest vector back.

    A difference's share goes to both of its sides alike, the mean's to all lags.
    """
    of_block = shares.reshape(len(shares), blocks(window), -1).sum(2)
    weights = np.zeros((blocks(window), window), np.float32)
    weights[0] = 1 / window
    for k, (m, n) in enumerate(spans(window), 1):
        weights[k, :m] = 0.5 / m
        weights[k, m:n] = 0.5 / (n - m)
    spread: Float32s = of_block @ weights
    return spread
