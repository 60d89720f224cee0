"""Faults of sensors, as the drift topic tells them to a training."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from worker.blocks import TopicSet
from worker.blocks.timestamps import milliseconds
from worker.blocks.topic_set import MOST_PARTITIONS
from worker.drift.findings import sensor_id
from worker.publishing.cloudevents import DRIFT_TYPE
from worker.publishing.labels import Label

Labels = Mapping[str, Label]  # by id

# A fault is reported after about three summaries, and again every ten summaries while it lasts.
_UNTOLD: Final = 4


class ReportedFault(NamedTuple):
    """What the drift topic says of a sensor's fault. Times in ms; `until` is None while it lasts."""

    model: str
    partition: int  # its number among those of all sensor topics
    entity: str | None
    feature: str
    begin: int
    latest: int
    until: int | None
    sensor: str  # its id, with which labels name it

    @property
    def told_until(self) -> int:
        """Return up to when the fault was seen."""
        return self.latest if self.until is None else self.until

    @property
    def extent(self) -> tuple[int, int]:
        """Return the begin and the end of the time in which the sensor is taken to be at fault."""
        untold = _UNTOLD * max(self.latest - self.begin, 0)
        return self.begin, self.latest + untold if self.until is None else self.until

    def is_dismissed(self, labels: Labels) -> bool:
        """Return whether a person has dismissed a fault of this sensor since this one began."""
        own = [label for label in labels.values() if label.id.startswith(self.sensor)]
        return any(label.verdict == "dismissed" and (milliseconds(label.time) or 0) >= self.begin for label in own)


def faults(events: Iterable[dict[str, Any]], topics: TopicSet) -> list[ReportedFault]:
    """Return the faults of sensors, each as it was told last.

    A worker that starts during a fault tells it anew, with a later begin. It is the same fault if the former one may
    still last then.
    """
    latest: dict[tuple[Any, ...], dict[int, ReportedFault]] = defaultdict(dict)
    for event in events:
        fault = _fault(event, topics)
        if fault is not None:
            latest[fault[:4]][fault.begin] = fault
    reported: list[ReportedFault] = []
    for by_begin in latest.values():
        before: ReportedFault | None = None
        for _, fault in sorted(by_begin.items()):
            if before is not None and before.until is None and fault.begin <= before.extent[1]:
                fault = fault._replace(begin=before.begin, latest=max(before.latest, fault.latest))
                reported.pop()
            reported.append(fault)
            before = fault
    return reported


def _fault(event: dict[str, Any], topics: TopicSet) -> ReportedFault | None:
    """Return the fault that an event tells; None if it is malformed, or of something else."""
    data = event.get("data")
    if event.get("type") != DRIFT_TYPE or not isinstance(data, dict) or data.get("kind") != "sensor":
        return None
    begin, latest = milliseconds(data.get("since")), milliseconds(data.get("latest"))
    topic, partition = data.get("topic"), data.get("partition")
    if not isinstance(topic, str) or topic not in topics or begin is None or latest is None:
        return None
    if type(partition) is not int or not 0 <= partition < MOST_PARTITIONS:
        return None
    model = str(data["model"].get("name") if isinstance(data.get("model"), dict) else None)
    entity, feature = data["entity"] if isinstance(data.get("entity"), str) else None, str(data.get("feature"))
    number = topics.number(topic, partition)
    return ReportedFault(
        model=model,
        partition=number,
        entity=entity,
        feature=feature,
        begin=begin,
        latest=latest,
        until=milliseconds(data.get("until")),
        sensor=sensor_id(model, topics.shown(number), entity, feature),
    )
