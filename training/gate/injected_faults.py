"""Faults of known size, put into normal rows: what a challenger has to find as well as the champion does."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from worker.models.wavelet import blocks, spans
from worker.native.arrays import Float32s, Float64s

KINDS: Final = ("spike", "shift", "drift", "freeze", "noise", "correlation")
SIZES: Final = (2.0, 4.0, 8.0)  # standard deviations of a reading
_SHARE: Final = 0.1  # of the features are at fault, one at least


class Injected(NamedTuple):
    """Normal rows with a fault of one kind and size put in."""

    kind: str
    size: float  # 0 for those that have none
    x: Float32s  # [n, D]


def faults(x: Float32s, window: int, seed: int = 0) -> Iterator[Injected]:
    """Yield rows x [n, D] with faults, each row in features of its own.

    With windows the fault is in the vectors that the coefficients stand for: in the newest one (spike, noise,
    correlation, freeze), in the newer half (shift), or rising over the window (drift). Without windows the model sees
    single vectors, so spike, shift and drift are all an offset; for drift it ranges from a quarter of its size up to
    its full size.
    """
    rng = np.random.default_rng(seed)
    n, k = len(x), blocks(window)
    d = x.shape[1] // k
    scale = np.nanstd(x[:, :d].astype(np.float64), 0)
    guilty = np.argsort(rng.random((n, d)), 1)[:, : max(1, round(_SHARE * d))]
    sign = rng.choice([-1.0, 1.0], size=guilty.shape)
    for kind in KINDS:
        for size in (0.0,) if kind in ("freeze", "correlation") else SIZES:
            faulty = x.astype(np.float64).reshape(n, k, d)
            row_index = np.arange(n)[:, None]
            off = sign * size * scale[guilty]
            if kind == "noise":
                off = off * rng.normal(size=guilty.shape)
            if kind in ("spike", "noise"):
                faulty[row_index, :, guilty] += off[..., None] * _response(window, "spike")
            elif kind in ("shift", "drift"):
                reach = rng.uniform(0.25, 1.0, size=guilty.shape) if kind == "drift" and window == 1 else 1.0
                faulty[row_index, :, guilty] += (off * reach)[..., None] * _response(window, kind)
            else:
                # Take the reading of another time: permanently (freeze: nothing changes any more), or just now.
                shuffled = rng.permutation(n)[:, None]
                faulty[row_index, 0, guilty] = x.reshape(n, k, d)[shuffled, 0, guilty]
                if kind == "freeze":
                    faulty[row_index, 1:, guilty] = 0
                else:
                    faulty[row_index, 1:, guilty] = x.reshape(n, k, d)[shuffled, 1:, guilty]
            yield Injected(kind, size, faulty.reshape(n, -1).astype(np.float32))


def _response(window: int, kind: str) -> Float64s:
    """Return [K] what an offset of 1 in the vectors of a window does to its coefficients."""
    lags = np.arange(window)  # from the newest back
    half = max(window // 2, 1)
    offset = {"spike": lags == 0, "shift": lags < half, "drift": np.maximum(half - lags, 0) / half}[kind].astype(float)
    means = [offset.mean()]
    means += [offset[:m].mean() - offset[m:n].mean() for m, n in spans(window)]
    return np.array(means)
