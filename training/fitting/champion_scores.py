"""The champion's scores and p-values of rows that it may not have seen."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from worker.models import Detector
from worker.native.arrays import Bools, Float32s, Float64s, Int64s


class ChampionScores(NamedTuple):
    """Scores [n] and p-values [n]; NaN where there is none."""

    score: Float64s
    p_value: Float64s

    @classmethod
    def of(
        cls, champion: Detector, x: Float32s, entity: Int64s | None = None, names: Sequence[str] = ()
    ) -> "ChampionScores":
        """Score rows x [n, D] of the entities `names[entity]` by the champion."""
        row = scaler_rows(champion, entity, names)
        entity_row = None if row is None else torch.from_numpy(row)
        score = champion.score(torch.from_numpy(np.ascontiguousarray(x)), entity_row).numpy().astype(np.float64)
        return cls(score, champion.calibration.p_value(score))

    def take(self, rows: Bools) -> "ChampionScores":
        """Return the scores of some rows (indices, or flags)."""
        return ChampionScores(self.score[rows], self.p_value[rows])


def scaler_rows(detector: Detector, entity: Int64s | None, names: Sequence[str]) -> Int64s | None:
    """Return the row [n] of the detector's entity scaler for each row; None if it has none."""
    if detector.entities is None or entity is None:
        return None
    return np.array([detector.entities.row(name) for name in names], np.int64)[entity]
