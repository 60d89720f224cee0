"""Evidence about the window's vectors besides their readings.

A vector may have been published as an anomaly, belong to an incident, be labelled, or come from a faulty sensor.
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Any, Final, NamedTuple

import numpy as np

from training.data.sensor_faults import Labels, faults
from worker.blocks import TopicSet, VectorBlock
from worker.blocks.timestamps import milliseconds
from worker.blocks.vector_id import VectorId
from worker.kafka.reader import Reader
from worker.native.arrays import Bytes, Int64s
from worker.publishing.cloudevents import ANOMALY_TYPE, DRIFT_TYPE
from worker.publishing.event_reader import EventReader
from worker.publishing.labels import Label, read_label
from worker.schema_registry import SchemaRegistry
from worker.settings import Settings

VectorPlace = tuple[int, int, int]  # number of the partition, offset, row
PartitionEntity = tuple[int, str | None]  # number of the partition, name
Flags = Bytes

# An event is written later than its vector, and a producer's clock may be ahead of the broker's.
_EVENT_SLACK_MS: Final = 3_600_000


class VectorFlags(IntFlag):
    """What is known of a vector."""

    NAMED = 1  # published as an anomaly: over the budget of the model that scored it
    INCIDENT = 2  # between the times of the first and the last anomaly of an incident
    DISMISSED = 4  # a person has dismissed the anomaly or its incident
    CONFIRMED = 8  # a person has confirmed the anomaly or its incident
    FAULTY = 16  # a sensor of its entity was at fault


@dataclass(frozen=True)
class TimeRange:
    """A range of event time of one entity, in ms."""

    begin: int
    end: int
    known: int


class AcceptedFault(NamedTuple):
    """A sensor's fault that counts as a change of the plant: it has lasted for long, or a person has dismissed it."""

    entity: str | None
    feature: str
    since: int


@dataclass
class Evidence:
    """Evidence from the anomalies, labels and drift topics; `flags` looks up the vectors of a block."""

    places: dict[VectorPlace, int] = field(default_factory=dict)
    stretches: dict[PartitionEntity, list[TimeRange]] = field(default_factory=lambda: defaultdict(list))
    drift: int | None = None  # when the last drift of the model began, as far as it is known
    accepted: list[AcceptedFault] = field(default_factory=list)
    _offsets: Int64s = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def read(cls, settings: Settings, since: int, features: Container[str]) -> "Evidence":
        """Read what is known of vectors from time `since` (ms) on. Raises KafkaUnavailable.

        Faults of sensors that are none of the `features` do not count.
        """
        topics, sensors = settings.topics, TopicSet.of(settings.topics.sensors)
        labels = _labels(settings)
        accepted_after = int(settings.training.accept_fault_after * 1000)
        evidence = cls()
        evidence._take_events(_events(settings, topics.anomalies, since - _EVENT_SLACK_MS), labels, sensors)
        drift_events = list(_events(settings, topics.drift, since - _EVENT_SLACK_MS))
        evidence.drift = _last_drift(drift_events, settings.model.name)
        for fault in faults(drift_events, sensors):
            if fault.feature not in features:
                continue
            if fault.is_dismissed(labels) or fault.told_until - fault.begin >= accepted_after:
                evidence.accepted.append(AcceptedFault(fault.entity, fault.feature, fault.begin))
            else:
                stretch = TimeRange(*fault.extent, int(VectorFlags.FAULTY))
                evidence.stretches[fault.partition, fault.entity].append(stretch)
        evidence._offsets = np.unique(np.fromiter((o for _, o, _ in evidence.places), np.int64, len(evidence.places)))
        return evidence

    def _take_events(self, events: Iterator[dict[str, Any]], labels: Labels, topics: TopicSet) -> None:
        extents: dict[str, list[Any]] = {}  # incident -> entity, first and last time
        for event in events:
            vector = VectorId.parse(event.get("id"), topics)
            if vector is None or event.get("type") != ANOMALY_TYPE or not isinstance(event.get("data"), dict):
                continue
            incident, entity = event["data"].get("incident"), _name(event["data"].get("entity"))
            flags = VectorFlags.NAMED | _said(labels.get(event["id"]) or labels.get(str(incident)))
            partition = topics.number(vector.topic, vector.partition)
            self.places[partition, vector.offset, vector.row] = int(flags)
            if isinstance(incident, str):
                time = milliseconds(event["data"].get("time"))
                if time is not None:
                    extent = extents.setdefault(incident, [(partition, entity), time, time])
                    extent[1:] = min(extent[1], time), max(extent[2], time)
        for incident, (entity, begin, end) in extents.items():
            flags = VectorFlags.INCIDENT | _said(labels.get(incident))
            self.stretches[entity].append(TimeRange(begin, end, int(flags)))

    def flags(self, block: VectorBlock) -> Flags:
        """Return the flags [n] of a block's vectors.

        Offsets and entities are compared as arrays, so that most vectors need no Python object.
        """
        flags = np.zeros(len(block), np.uint8)
        partition, offset = block.records.partition, block.records.offset
        for i in np.flatnonzero(np.isin(offset, self._offsets)[block.record]).tolist():
            record = block.record[i]
            flags[i] |= self.places.get((int(partition[record]), int(offset[record]), int(block.row[i])), 0)
        if self.stretches and len(block):
            of_record, first, inverse = np.unique(block.entity_hash, return_index=True, return_inverse=True)
            of_row = inverse[block.record]
            for k, record in enumerate(first[: len(of_record)].tolist()):
                stretches = self.stretches.get((int(partition[record]), block.entity_of_record(record)), ())
                if stretches:
                    rows = np.flatnonzero(of_row == k)
                    for stretch in stretches:
                        inside = (block.time[rows] >= stretch.begin) & (block.time[rows] <= stretch.end)
                        flags[rows[inside]] |= stretch.known
        return flags


def _last_drift(events: Iterable[dict[str, Any]], model: str) -> int | None:
    """Return when the last drift of the model began, in ms, as far as it is known."""
    drift = None
    for event in events:
        data = event.get("data")
        if event.get("type") != DRIFT_TYPE or not isinstance(data, dict) or data.get("kind") != "shift":
            continue
        if isinstance(data.get("model"), dict) and data["model"].get("name") == model:
            drift = milliseconds(data.get("since")) or drift
    return drift


def _said(label: Label | None) -> VectorFlags:
    verdict = None if label is None else label.verdict
    return {"confirmed": VectorFlags.CONFIRMED, "dismissed": VectorFlags.DISMISSED}.get(verdict or "", VectorFlags(0))


def _labels(settings: Settings) -> Labels:
    """Return the latest label of each vector, incident and sensor's fault, by id."""
    topics = TopicSet.of(settings.topics.sensors)
    labels = (read_label(value, topics) for value in _values(settings, settings.topics.labels, None))
    return {label.id: label for label in labels if label is not None}


def _events(settings: Settings, topic: str, since: int) -> Iterator[dict[str, Any]]:
    """Yield the topic's events from time `since` (ms) on. Other records, which are somebody else's, are skipped."""
    reader = EventReader(SchemaRegistry.of(settings, patience=settings.kafka.startup_timeout))
    for value in _values(settings, topic, since):
        try:
            event = reader.event(value)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


def _values(settings: Settings, topic: str, since: int | None) -> Iterator[bytes | None]:
    """Yield the values of the topic's records from time `since` (ms) on, or of all. Raises KafkaUnavailable."""
    with Reader(settings.kafka, topic) as reader:
        if since is not None:
            reader.seek(reader.offsets_at(since))
        for block in reader.to_end():
            yield from block.values


def _name(entity: object) -> str | None:
    return entity if isinstance(entity, str) else None
