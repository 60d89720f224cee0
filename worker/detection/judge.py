"""The judge: which vectors are anomalies, how severe, and which sensors are guilty."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from worker.models import Calibration
from worker.vectors import VectorBlock

Float32s = npt.NDArray[np.float32]
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


# Not frozen: made by the thousand in an alarm storm, and a frozen one takes four times as long (timeit).
@dataclass(slots=True)
class Feature:
    """`actual` is None where the reading is missing; `contribution` is its share of the score."""

    name: str
    actual: float | None
    expected: float
    contribution: float
    missing: bool


@dataclass(slots=True)
class Anomaly:
    """One vector over the threshold. `index` points into the block; `imputed` names what was missing. `lags` are the
    shares of the window's vectors in the evidence, from this one back; none without windows. `incident` is the id of
    the one it belongs to, once that has opened.
    """

    index: int
    score: float
    p_value: float
    severity: Severity
    features: Sequence[Feature]
    imputed: Sequence[str]
    lags: Sequence[float] = ()
    incident: str | None = None


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
    ) -> list[Anomaly]:
        """The vectors whose score reaches the threshold; one too incomplete to score (NaN) never does. What was scored
        are the `rows` [n, D] of the model's entities `entity` [n]: the vectors themselves, unless there are windows.
        """
        over = np.flatnonzero(scores >= scorer.threshold)
        if not len(over):
            return []
        x = block.x[over]
        p_values = scorer.calibration.p_value(scores[over])
        expected, contributions, lags = scorer.explain(
            x if rows is None else rows[over], None if entity is None else entity[over]
        )
        top = np.argsort(-contributions, axis=1, kind="stable")[:, : self._top]
        names, alarm = scorer.features, scorer.budget * ALARM_SHARE
        imputed: list[list[str]] = [[] for _ in over]
        for k, j in np.argwhere(np.isnan(x)).tolist():
            imputed[k].append(names[j])
        return [
            Anomaly(
                index=int(index),
                score=float(scores[index]),
                p_value=float(p),
                severity="alarm" if p <= alarm else "warning",
                features=[
                    _feature(names[j], float(x[k, j]), float(expected[k, j]), float(contributions[k, j]))
                    for j in top[k].tolist()
                ],
                imputed=imputed[k],
                lags=() if lags is None else [round(share, 4) for share in lags[k].tolist()],
            )
            for k, (index, p) in enumerate(zip(over.tolist(), p_values.tolist(), strict=True))
        ]


def _feature(name: str, actual: float, expected: float, contribution: float) -> Feature:
    missing = actual != actual
    return Feature(name, None if missing else actual, expected, contribution, missing)
