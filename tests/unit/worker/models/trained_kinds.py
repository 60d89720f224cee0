"""A small model of each kind, trained once, and the rows for it."""

from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from tests.models import normal_rows
from training.fitting.fit import Fitted, fit
from worker.models import Detector

Rows = npt.NDArray[np.float32]

WIDTH = 8


def rows(n: int, seed: int) -> Rows:
    """[n, 8]: two machines of 4 readings and two hidden causes each."""
    rng = np.random.default_rng(seed)
    return np.column_stack([normal_rows(n, rng), normal_rows(n, rng)])


def holey(x: Rows, share: float, seed: int) -> Rows:
    return np.where(np.random.default_rng(seed).random(x.shape) < share, np.float32(np.nan), x)


def odd_rows() -> Rows:
    """[300, 8]: ordinary rows, far ones, wild ones, partly missing ones, and one without any reading."""
    x = rows(300, seed=20)
    x[::7] *= 30
    x[::13, 2] = 1e30
    x[::17, 5] = -1e30
    x[::29] *= np.float32(1e6)
    x[::3] = holey(x[::3], 0.3, seed=21)
    x[5] = np.nan
    return x


def quick(kind: str, x: Rows, seed: int = 0, steps: int = 30) -> Fitted:
    cut = len(x) * 4 // 5
    return fit(x[:cut], x[cut:], tuple(f"x{i}" for i in range(x.shape[1])), kind, seed=seed, steps=steps)


@cache
def trained(kind: str) -> Fitted:
    """One for all tests: they leave it as it is."""
    return quick(kind, rows(2500, seed=0), steps=300)


def scores(detector: Detector, x: Rows) -> npt.NDArray[np.float64]:
    return detector.score(torch.from_numpy(np.ascontiguousarray(x))).numpy().astype(np.float64)


def tensor(x: Rows) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))
