"""What is known of the window's vectors besides their readings: published as anomalies, in incidents, labelled by
people, from a sensor at fault.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntFlag
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from worker.event_reader import EventReader
from worker.events import ANOMALY_TYPE, DRIFT_TYPE
from worker.kafka.reader import Reader
from worker.schema_registry import SchemaRegistry
from worker.settings import Settings
from worker.vectors import VectorBlock
from worker.vectors.identity import identities

Place = tuple[int, int, int]  # partition, offset, row
Entity = tuple[int, str | None]  # partition, name
Flags = npt.NDArray[np.uint8]

# An event is written after its vector was; clocks of producers may be ahead of the broker's.
_EVENT_SLACK_MS: Final = 3_600_000
# A fault that lasts is told every ten summaries, and first after about three.
_UNTOLD: Final = 4


class Known(IntFlag):
    """What is known of a vector."""

    NAMED = 1  # published as an anomaly: over the budget of the model that scored it
    INCIDENT = 2  # between the first and the last such vector of an incident
    DISMISSED = 4  # of these, what a person has called no anomaly
    CONFIRMED = 8  # or one
    FAULTY = 16  # a sensor of its entity was at fault


@dataclass(frozen=True)
class Stretch:
    """Of one entity, in ms of event time."""

    begin: int
    end: int
    known: int


@dataclass
class Evidence:
    """From the topics of anomalies, labels and drift; `flags` then says what is known of a block's vectors."""

    places: dict[Place, int] = field(default_factory=dict)
    stretches: dict[Entity, list[Stretch]] = field(default_factory=lambda: defaultdict(list))
    drift: int | None = None  # when the last drift of the model began, as far as it is known
    _offsets: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def read(cls, settings: Settings, since: int) -> "Evidence":
        """Of vectors from time `since` (ms) on. Raises KafkaError."""
        topics = settings.topics
        labels: dict[str, str] = {}
        for label in _documents(settings, topics.labels, None):
            if isinstance(label.get("id"), str) and label.get("verdict") in ("confirmed", "dismissed"):
                labels[label["id"]] = label["verdict"]
        made = cls()
        made._take_events(_documents(settings, topics.anomalies, since - _EVENT_SLACK_MS), labels, topics.sensors)
        made._take_drift(
            _documents(settings, topics.drift, since - _EVENT_SLACK_MS), topics.sensors, settings.model.name
        )
        made._offsets = np.unique(np.fromiter((o for _, o, _ in made.places), np.int64, len(made.places)))
        return made

    def _take_events(self, events: Iterator[dict[str, Any]], labels: dict[str, str], topic: str) -> None:
        extents: dict[str, list[Any]] = {}  # incident -> entity, first and last time
        for event in events:
            place = _place(event, topic)
            if place is None or event.get("type") != ANOMALY_TYPE:
                continue
            incident, entity = event["data"].get("incident"), _name(event["data"].get("entity"))
            known = Known.NAMED | _said(labels.get(event["id"]) or labels.get(str(incident)))
            self.places[place] = int(known)
            if isinstance(incident, str):
                time = milliseconds(event["data"].get("time"))
                if time is not None:
                    extent = extents.setdefault(incident, [(place[0], entity), time, time])
                    extent[1:] = min(extent[1], time), max(extent[2], time)
        for incident, (entity, begin, end) in extents.items():
            known = Known.INCIDENT | _said(labels.get(incident))
            self.stretches[entity].append(Stretch(begin, end, int(known)))

    def _take_drift(self, events: Iterator[dict[str, Any]], topic: str, model: str) -> None:
        latest: dict[tuple[Any, ...], tuple[int, int]] = {}
        for event in events:
            data = event.get("data")
            if event.get("type") != DRIFT_TYPE or not isinstance(data, dict):
                continue
            if (
                data.get("kind") == "shift"
                and isinstance(data.get("model"), dict)
                and data["model"].get("name") == model
            ):
                self.drift = milliseconds(data.get("since")) or self.drift
            if data.get("kind") != "sensor":
                continue
            begin, seen = milliseconds(data.get("since")), milliseconds(data.get("latest"))
            if data.get("topic") != topic or begin is None or seen is None or type(data.get("partition")) is not int:
                continue
            end = milliseconds(data.get("until")) or seen + _UNTOLD * max(seen - begin, 0)
            latest[(data["partition"], _name(data.get("entity")), str(data.get("feature")), begin)] = begin, end
        for (partition, entity, *_), (begin, end) in latest.items():
            self.stretches[partition, entity].append(Stretch(begin, end, int(Known.FAULTY)))

    def flags(self, block: VectorBlock) -> Flags:
        """[n] Most vectors are told apart by their offsets and entities alone, without a Python object each."""
        found = np.zeros(len(block), np.uint8)
        partition, offset = block.records.partition, block.records.offset
        for i in np.flatnonzero(np.isin(offset, self._offsets)[block.record]).tolist():
            record = block.record[i]
            found[i] |= self.places.get((int(partition[record]), int(offset[record]), int(block.row[i])), 0)
        if self.stretches and len(block):
            of_record, first, inverse = np.unique(identities(block), return_index=True, return_inverse=True)
            of_row = inverse[block.record]
            for k, record in enumerate(first[: len(of_record)].tolist()):
                stretches = self.stretches.get((int(partition[record]), block.entity_of_record(record)), ())
                if stretches:
                    rows = np.flatnonzero(of_row == k)
                    for stretch in stretches:
                        inside = (block.time[rows] >= stretch.begin) & (block.time[rows] <= stretch.end)
                        found[rows[inside]] |= stretch.known
        return found


def _said(verdict: str | None) -> Known:
    return {"confirmed": Known.CONFIRMED, "dismissed": Known.DISMISSED}.get(verdict or "", Known(0))


def _documents(settings: Settings, topic: str, since: int | None) -> Iterator[dict[str, Any]]:
    """Events and other objects; whatever is none is somebody else's record, and no concern of training."""
    with Reader(settings.kafka, topic) as reader:
        if since is not None:
            reader.seek(reader.offsets_at(since))
        events = EventReader(SchemaRegistry.of(settings, patience=settings.kafka.startup_timeout))
        for block in reader.to_end():
            for value in block.values:
                try:
                    doc = events.event(value)
                except ValueError:
                    continue
                if isinstance(doc, dict):
                    yield doc


def _place(event: dict[str, Any], topic: str) -> Place | None:
    try:
        of, partition, offset, row = event["id"].rsplit("/", 3)
        place = int(partition), int(offset), int(row)
        sound = of == topic and isinstance(event["data"], dict) and all(0 <= number < 2**63 for number in place)
        return place if sound else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _name(entity: object) -> str | None:
    return entity if isinstance(entity, str) else None


def milliseconds(told: object) -> int | None:
    """Of a time as RFC 3339, since the epoch; None where it is none."""
    try:
        return round(datetime.fromisoformat(str(told)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
