"""The judge: which vectors are anomalies, how severe, and which sensors are guilty."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from worker.compiled import compiled, read_only
from worker.models import Calibration
from worker.vectors import VectorBlock

Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
Severity = Literal["alarm", "warning"]

ALARM_SHARE: Final = 0.1  # an alarm is ten times rarer than the budget allows for events


# expected readings [k, d], contributions [k, d] of the features, and of the lags [k, w]: see worker/engine.py
Explanation = tuple[Float32s, Float32s, Float32s | None]


class Scorer(Protocol):
    """What the judge needs of a resident model."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def features(self) -> Sequence[str]: ...
    @property
    def budget(self) -> float: ...
    @property
    def threshold(self) -> float: ...
    @property
    def calibration(self) -> Calibration: ...
    def explain(self, x: Float32s, entity: Int64s | None = None) -> Explanation: ...


@dataclass(frozen=True, eq=False)
class Anomalies:
    """The k vectors of a block that are over the threshold, in columns: an alarm storm makes no object of each.

    `index` [k] points into the block. `top` [k, t] are the guiltiest features, with what was read (`actual` [k, t], NaN
    where missing), what was `expected`, and their `contribution`, a share of the score. `missing` [k, d] is true for
    readings that were imputed. `lags` [k, w] are the shares of the window's vectors in the evidence, from the newest
    back; None without windows. `incident` [k] is the id of the one each belongs to, once that has opened.
    """

    index: Int64s
    score: Float32s
    p_value: Float64s
    alarm: npt.NDArray[np.bool_]
    top: Int64s
    actual: Float32s
    expected: Float32s
    contribution: Float32s
    missing: npt.NDArray[np.bool_]
    lags: Float32s | None
    incident: list[str | None]

    @classmethod
    def none(cls, d: int) -> "Anomalies":
        nothing, few = np.empty(0), np.empty((0, 0), np.float32)
        return cls(
            index=nothing.astype(np.int64),
            score=nothing.astype(np.float32),
            p_value=nothing,
            alarm=nothing.astype(bool),
            top=few.astype(np.int64),
            actual=few,
            expected=few,
            contribution=few,
            missing=np.empty((0, d), bool),
            lags=None,
            incident=[],
        )

    def __len__(self) -> int:
        return len(self.index)

    def severities(self) -> Iterator[Severity]:
        return ("alarm" if alarm else "warning" for alarm in self.alarm.tolist())


class Judge:
    """Judges blocks under the false-alarm budget that the model keeps to; has no state."""

    def __init__(self, top_features: int):
        self._top = top_features

    def anomalies(
        self,
        block: VectorBlock,
        scores: Float32s,
        scorer: Scorer,
        rows: Float32s | None = None,
        entity: Int64s | None = None,
    ) -> Anomalies:
        """The vectors whose score reaches the threshold; one too incomplete to score (NaN) never does. What was scored
        are the `rows` [n, D] of the model's entities `entity` [n]: the vectors themselves, unless there are windows.
        """
        over = np.flatnonzero(scores >= scorer.threshold)
        if not len(over):
            return Anomalies.none(block.x.shape[1])
        x = block.x[over]
        p_values = scorer.calibration.p_value(scores[over])
        expected, contributions, lags = scorer.explain(
            x if rows is None else rows[over], None if entity is None else entity[over]
        )
        top = np.empty((len(over), min(self._top, x.shape[1])), np.int64)
        _leading(read_only(contributions), top)
        return Anomalies(
            index=over,
            score=scores[over],
            p_value=p_values,
            alarm=p_values <= scorer.budget * ALARM_SHARE,
            top=top,
            actual=np.take_along_axis(x, top, 1),
            expected=np.take_along_axis(expected, top, 1),
            contribution=np.take_along_axis(contributions, top, 1),
            missing=np.isnan(x),
            lags=lags,
            incident=[None] * len(over),
        )


@compiled
def _leading(shares, top):  # type: ignore[no-untyped-def]
    """top [k, t]: where the t largest of each row of `shares` [k, d] are, from the largest on; of equals the first."""
    t = top.shape[1]
    for i in range(len(top)):
        row, best = shares[i], top[i]
        for j in range(len(row)):
            at = min(j, t)
            while at > 0 and row[best[at - 1]] < row[j]:
                if at < t:
                    best[at] = best[at - 1]
                at -= 1
            if at < t:
                best[at] = j
