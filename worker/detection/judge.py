"""The judge: which vectors are anomalies, how severe, and which sensors are guilty."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np

from worker.blocks import VectorBlock
from worker.models import Calibration
from worker.models.entities import ANY_ENTITY, EntityRows
from worker.native.arrays import Bools, Float32s, Float64s, Int64s
from worker.native.jit import compiled, read_only

Severity = Literal["alarm", "warning"]

ALARM_SHARE: Final = 0.1  # an alarm is ten times rarer than an event


# expected readings [k, d], contributions [k, d] of the features, strengths [k], and contributions of the lags [k, w]:
# see worker/serving/loaded_model.py
Explained = tuple[Float32s, Float32s, Float32s, Float32s | None]


class Scorer(Protocol):
    """What the judge needs of a resident model."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def version(self) -> str:
        """The model's version."""
        ...

    @property
    def scored_by(self) -> str:
        """The version, and the number of its trim, by which a score can be made again."""
        ...

    @property
    def features(self) -> Sequence[str]:
        """The names of the features, in the order of the columns."""
        ...

    @property
    def expected_rate(self) -> float:
        """The share of normal vectors that is expected to be flagged."""
        ...

    @property
    def threshold(self) -> float:
        """The score from which on a vector is flagged."""
        ...

    @property
    def calibration(self) -> Calibration:
        """The calibration that turns scores into p-values."""
        ...

    def ignored(self, entity: EntityRows) -> Bools | None:
        """Return [n, d] which readings of n vectors are ignored; None where none is."""
        ...

    def explain(self, x: Float32s, entity: EntityRows = ANY_ENTITY) -> Explained:
        """Return what was expected of rows x [n, D], and which features are to blame."""
        ...


@dataclass(frozen=True, eq=False)
class Anomalies:
    """The k vectors of a block that reach the threshold, in columns: even an alarm storm needs no object for each.

    `index` [k] points into the block. `top` [k, t] are the features with the largest contributions. `actual` [k, t] are
    their readings, NaN where missing, `expected` the readings that were expected, and `contribution` their shares of
    the evidence. `strength` [k] is by how much a vector counts where the shares of several are added up. `missing`
    [k, d] is true for readings that were imputed. `lags` [k, w] are the shares of the window's
    vectors in the evidence, from the newest back; None without windows. `incident` [k] is the id of the incident that
    each belongs to, once it has opened.
    """

    index: Int64s
    score: Float32s
    p_value: Float64s
    alarm: Bools
    top: Int64s
    actual: Float32s
    expected: Float32s
    contribution: Float32s
    strength: Float32s
    missing: Bools
    lags: Float32s | None
    incident: list[str | None]

    @classmethod
    def none(cls, d: int) -> "Anomalies":
        """Return no anomalies, of vectors with d features."""
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
            strength=nothing.astype(np.float32),
            missing=np.empty((0, d), bool),
            lags=None,
            incident=[],
        )

    def __len__(self) -> int:
        return len(self.index)

    def evidence(self, k: int | Int64s) -> Float32s:
        """Return the evidence [..., t] of anomalies k against their `top` features: shares, times the strength."""
        evidence: Float32s = self.contribution[k] * self.strength[k, ..., None]
        return evidence

    def severities(self) -> Iterator[Severity]:
        """Yield the severity of each anomaly."""
        return ("alarm" if alarm else "warning" for alarm in self.alarm.tolist())


class Judge:
    """Judges blocks by the model's false-alarm budget. Has no state."""

    def __init__(self, top_features: int):
        self._top = top_features

    def anomalies(
        self,
        block: VectorBlock,
        scores: Float32s,
        scorer: Scorer,
        rows: Float32s | None = None,
        entity: EntityRows = ANY_ENTITY,
    ) -> Anomalies:
        """Return the vectors whose score reaches the threshold; one too incomplete to score (NaN) never does.

        With windows, `rows` [n, D] were scored instead of the vectors themselves.
        """
        over = np.flatnonzero(scores >= scorer.threshold)
        if not len(over):
            return Anomalies.none(block.x.shape[1])
        x, hidden = block.x[over], scorer.ignored(entity.take(over))
        p_values = scorer.calibration.p_value(scores[over])
        expected, contributions, strength, lags = scorer.explain(x if rows is None else rows[over], entity.take(over))
        top = np.empty((len(over), min(self._top, x.shape[1])), np.int64)
        _leading(read_only(contributions), top)
        return Anomalies(
            index=over,
            score=scores[over],
            p_value=p_values,
            alarm=p_values <= scorer.expected_rate * ALARM_SHARE,
            top=top,
            actual=np.take_along_axis(x, top, 1),
            expected=np.take_along_axis(expected, top, 1),
            contribution=np.take_along_axis(contributions, top, 1),
            strength=strength,
            missing=np.isnan(x) if hidden is None else np.isnan(x) | hidden,
            lags=lags,
            incident=[None] * len(over),
        )


@compiled
def _leading(shares, top):  # type: ignore[no-untyped-def]
    """Return the indices [k, t] of the t largest shares [k, d] of each row, largest first; of equals the first."""
    t = top.shape[1]
    for i in range(len(top)):
        row, best = shares[i], top[i]
        for j in range(len(row)):
            slot = min(j, t)
            while slot > 0 and row[best[slot - 1]] < row[j]:
                if slot < t:
                    best[slot] = best[slot - 1]
                slot -= 1
            if slot < t:
                best[slot] = j
