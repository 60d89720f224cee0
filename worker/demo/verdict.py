"""The demo's summary: what was put out, held against what was put in and against the labels."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from worker.demo.outputs import Outputs, Place


@dataclass(frozen=True)
class Verdict:
    """`lost` vectors have no score, `repeated` scores and events came more than once; `incidents` are what the events
    belong to, `notifications` how often a person would have been told.
    """

    vectors: int
    scored: int
    lost: int
    repeated: int
    events: int
    incidents: int
    notifications: int
    precision: float
    recall: float
    roc_auc: float
    false_alarm_rate: dict[str, float]
    versions: dict[str, int]
    swaps: int
    seconds: float
    swap: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(
    sent: dict[Place, int],
    anomalous: npt.NDArray[np.bool_],
    outputs: Outputs,
    promised: float,
    swaps: int,
    swap: dict[str, Any],
    seconds: float,
) -> Verdict:
    """`sent` maps each acknowledged row's place to its index in `anomalous`."""
    places = list(sent)
    truth = anomalous[[sent[place] for place in places]]
    alarmed = np.array([place in outputs.events for place in places])
    there = np.array([place in outputs.p_values for place in places])
    surprise = np.array([-np.log(outputs.p_values.get(place, 1.0)) for place in places])
    hits = int((alarmed & truth).sum())
    excess = sum(n - 1 for n in [*outputs.scored.values(), *outputs.events.values()])
    strangers = sum(place not in sent for place in [*outputs.scored, *outputs.events])
    return Verdict(
        vectors=len(sent),
        scored=sum(outputs.scored.values()),
        lost=int((~there).sum()),
        repeated=excess + strangers,
        events=sum(outputs.events.values()),
        incidents=len(outputs.incidents),
        notifications=outputs.notifications,
        precision=round(hits / max(int(alarmed.sum()), 1), 4),
        recall=round(hits / max(int(truth.sum()), 1), 4),
        roc_auc=round(roc_auc(truth, surprise), 4),
        false_alarm_rate={"promised": promised, "observed": round(float(alarmed[~truth].mean()), 6)},
        versions=dict(outputs.versions),
        swaps=swaps,
        seconds=round(seconds, 1),
        swap=swap,
    )


def roc_auc(truth: npt.NDArray[np.bool_], score: npt.NDArray[np.float64]) -> float:
    """By ranks (Mann-Whitney), ties counted half."""
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(score)
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))
