"""What a champion thinks of rows that it may not have seen."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from worker.models import Detector

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]


class Opinion(NamedTuple):
    """Scores [n] and p-values [n]; NaN where there is none."""

    score: Float64s
    p_value: Float64s

    @classmethod
    def of(
        cls, champion: Detector, x: npt.NDArray[np.float32], entity: Int64s | None = None, names: Sequence[str] = ()
    ) -> "Opinion":
        """Of rows x [n, D] of the entities `names[entity]`."""
        row = scaler_rows(champion, entity, names)
        at = None if row is None else torch.from_numpy(row)
        score = champion.score(torch.from_numpy(np.ascontiguousarray(x)), at).numpy().astype(np.float64)
        return cls(score, champion.calibration.p_value(score))

    def take(self, rows: npt.NDArray[np.bool_]) -> "Opinion":
        return Opinion(self.score[rows], self.p_value[rows])


def scaler_rows(detector: Detector, entity: Int64s | None, names: Sequence[str]) -> Int64s | None:
    """[n] The rows of the detector's entity scaler; None where it has none."""
    if detector.entities is None or entity is None:
        return None
    return np.array([detector.entities.row(name) for name in names], np.int64)[entity]
