"""The demo's summary: the outputs, compared with the inputs and with the labels."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from worker.demo.outputs import OutputReader, RecordPlace
from worker.detection.roc import roc_auc
from worker.native.arrays import Bools


@dataclass(frozen=True)
class DemoVerdict:
    """The outcome of a demo, against the labels.

    `lost` vectors have no score. `repeated` scores and events came more than once. `incidents` are what the events
    belong to, `notifications` how often a person would have been notified.
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
        """Return the verdict for `--json`."""
        return asdict(self)


def judge(
    sent: dict[RecordPlace, int],
    anomalous: Bools,
    outputs: OutputReader,
    asked: float,
    swaps: int,
    swap: dict[str, Any],
    seconds: float,
) -> DemoVerdict:
    """Compare the outputs with the labels; `sent` maps each acknowledged row's place to its index in `anomalous`."""
    places = list(sent)
    truth = anomalous[[sent[place] for place in places]]
    alarmed = np.array([place in outputs.events for place in places])
    is_scored = np.array([place in outputs.p_values for place in places])
    surprise = np.array([-np.log(outputs.p_values.get(place, 1.0)) for place in places])
    hits = int((alarmed & truth).sum())
    excess = sum(n - 1 for n in [*outputs.scored.values(), *outputs.events.values()])
    strangers = sum(place not in sent for place in [*outputs.scored, *outputs.events])
    return DemoVerdict(
        vectors=len(sent),
        scored=sum(outputs.scored.values()),
        lost=int((~is_scored).sum()),
        repeated=excess + strangers,
        events=sum(outputs.events.values()),
        incidents=len(outputs.incidents),
        notifications=outputs.notifications,
        precision=round(hits / max(int(alarmed.sum()), 1), 4),
        recall=round(hits / max(int(truth.sum()), 1), 4),
        roc_auc=round(roc_auc(truth, surprise), 4),
        false_alarm_rate={"asked": asked, "observed": round(float(alarmed[~truth].mean()), 6)},
        versions=dict(outputs.versions),
        swaps=swaps,
        seconds=round(seconds, 1),
        swap=swap,
    )
