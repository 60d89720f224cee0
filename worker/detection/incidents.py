"""Incidents: the vectors over budget of one entity that belong together, so that a person is told once.

An incident opens when m of an entity's last n vectors are over budget, or one is extreme. It is updated while more of
them come, and closes with the first vector that comes a quiet time after the last of them. All times are event times
and all counts are of the entity's own vectors in the order of their arrival: the same records give the same incidents,
whatever the batches and crashes in between.

What has opened is restored from what was published (`Incidents.restore`); what has not, from what is stored beside the
committed offset (`Suspect`).
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from worker.detection.judge import Anomaly, Scorer, Severity
from worker.settings import IncidentSettings
from worker.vectors import VectorBlock
from worker.vectors.identity import UInt64s, identities

Place = tuple[int, int]  # offset and row within a partition

_SENSORS: Final = 64  # whose evidence an incident adds up; later ones are not taken in


class Flag(NamedTuple):
    """A vector over budget that has opened nothing yet. `position` counts the entity's vectors, `time` is in ms."""

    position: int
    time: int
    offset: int
    row: int
    p_value: float
    alarm: bool


@dataclass
class Suspect:
    """An entity with flags, by its hash; it has had `position` vectors since the count began."""

    entity: int
    position: int
    flags: Sequence[Flag]

    def as_json(self) -> list[Any]:
        # Positions as distances: the count begins anew with the next owner.
        return [f"{self.entity:x}", [[self.position - f.position, *f[1:]] for f in self.flags]]

    @classmethod
    def of_json(cls, doc: Any) -> "Suspect":
        """Raises ValueError, TypeError, KeyError."""
        entity, told = doc
        flags = [Flag(-int(ago), int(t), int(o), int(r), float(p), bool(a)) for ago, t, o, r, p, a in told]
        return cls(int(entity, 16), 0, flags)


@dataclass
class Incident:
    """`identity` is the entity's hash. `first` and `last` are the places of its first and last vector over budget,
    `opened` of the one that opened it; `started` and `latest` the event times, in ms. `notify` says whether this
    opening is to be notified of, `notified` when the last one that was had started.
    """

    topic: str
    partition: int
    entity: str | None
    identity: int
    first: Place
    opened: Place
    last: Place
    started: int
    latest: int
    vectors: int
    peak: float
    severity: Severity
    evidence: dict[str, float]
    models: list[tuple[str, str]]
    notify: bool
    notified: int
    closed: bool = False

    @property
    def id(self) -> str:
        """The id of the event of its first vector."""
        return f"{self.topic}/{self.partition}/{self.first[0]}/{self.first[1]}"

    def leading(self) -> list[tuple[str, float]]:
        """The sensors by their shares of the evidence over its course, the guiltiest first."""
        total = sum(self.evidence.values()) or 1.0
        return sorted(((name, e / total) for name, e in self.evidence.items()), key=lambda told: (-told[1], told[0]))


@dataclass
class Course:
    """What is known of one entity: flags, or an incident, or when it was last notified of."""

    flags: list[Flag] = field(default_factory=list)
    position: int = 0
    incident: Incident | None = None
    seen: float = 0.0  # monotonic seconds

    @property
    def active(self) -> bool:
        return bool(self.flags) or (self.incident is not None and not self.incident.closed)


class Incidents:
    """Of all entities of a worker. Has no connection: `changed` hands over what is to be published."""

    def __init__(self, settings: IncidentSettings, topic: str):
        self._settings = settings
        self._topic = topic
        self._quiet, self._cooldown = int(settings.quiet * 1000), int(settings.cooldown * 1000)
        self._courses: dict[int, dict[int, Course]] = {}  # partition -> entity -> course
        self._active: set[int] = set()
        self._changed: dict[str, Incident] = {}

    def observe(self, block: VectorBlock, anomalies: Sequence[Anomaly], scorer: Scorer) -> None:
        """Takes a block's vectors, and names in each anomaly its incident."""
        if not anomalies and not self._active:
            return
        flagged = {anomaly.index: anomaly for anomaly in anomalies}
        over = np.zeros(len(block), bool)
        over[list(flagged)] = True
        of_row = identities(block)[block.record]
        watched = self._active.union(of_row[over].tolist())
        now = time.monotonic()
        for entity, rows in _rows_of(of_row, watched):
            partition = int(block.records.partition[block.record[rows[0]]])
            course = self._courses.setdefault(partition, {}).setdefault(entity, Course())
            course.seen = now
            begin = 0
            for k in np.flatnonzero(over[rows]).tolist():
                self._pass(course, block.time[rows[begin:k]])
                self._flag(course, entity, block, flagged[int(rows[k])], scorer)
                begin = k + 1
            self._pass(course, block.time[rows[begin:]])
            if course.active:
                self._active.add(entity)
            else:
                self._active.discard(entity)
                if course.incident is None:
                    del self._courses[partition][entity]

    def _pass(self, course: Course, times: npt.NDArray[np.int64]) -> None:
        """Vectors that are not over budget."""
        if not len(times):
            return
        course.position += len(times)
        self._prune(course)
        incident = course.incident
        if incident is not None and not incident.closed and int(times.max()) >= incident.latest + self._quiet:
            self._close(incident)

    def _flag(self, course: Course, entity: int, block: VectorBlock, anomaly: Anomaly, scorer: Scorer) -> None:
        record = int(block.record[anomaly.index])
        place = (int(block.records.offset[record]), int(block.row[anomaly.index]))
        when = int(block.time[anomaly.index])
        course.position += 1
        self._prune(course)
        incident = course.incident
        if incident is not None and place <= incident.last and when <= incident.latest:
            # It was taken in by who published the incident, and is scored again.
            anomaly.incident = incident.id if place >= incident.opened else None
            return
        if incident is not None and not incident.closed:
            if incident.started - self._quiet < when < incident.latest + self._quiet:
                self._add(incident, anomaly, place, when, scorer)
                self._changed[incident.id] = incident
                anomaly.incident = incident.id
                return
            self._close(incident)
        course.flags.append(Flag(course.position, when, *place, anomaly.p_value, anomaly.severity == "alarm"))
        extreme = anomaly.p_value <= scorer.budget * self._settings.extreme
        if extreme or len(course.flags) >= self._settings.open_after:
            self._open(course, entity, block, anomaly, place, when, scorer)

    def _open(
        self, course: Course, entity: int, block: VectorBlock, anomaly: Anomaly, place: Place, when: int, scorer: Scorer
    ) -> None:
        flags, before = course.flags, course.incident
        started = min(flag.time for flag in flags)
        notify = before is None or abs(started - before.notified) >= self._cooldown
        record = int(block.record[anomaly.index])
        incident = Incident(
            topic=self._topic,
            partition=int(block.records.partition[record]),
            entity=block.entity(anomaly.index),
            identity=entity,
            first=(flags[0].offset, flags[0].row),
            opened=place,
            last=place,
            started=started,
            latest=max(flag.time for flag in flags),
            vectors=len(flags) - 1,
            peak=min(flag.p_value for flag in flags),
            severity="alarm" if any(flag.alarm for flag in flags) else "warning",
            evidence={},
            models=[],
            notify=notify,
            notified=started if notify or before is None else before.notified,
        )
        self._add(incident, anomaly, place, when, scorer)
        course.incident, course.flags = incident, []
        self._changed[incident.id] = incident
        anomaly.incident = incident.id

    @staticmethod
    def _add(incident: Incident, anomaly: Anomaly, place: Place, when: int, scorer: Scorer) -> None:
        incident.last = max(incident.last, place)
        incident.latest = max(incident.latest, when)
        incident.vectors += 1
        incident.peak = min(incident.peak, anomaly.p_value)
        if anomaly.severity == "alarm":
            incident.severity = "alarm"
        for feature in anomaly.features:
            if feature.name in incident.evidence or len(incident.evidence) < _SENSORS:
                incident.evidence[feature.name] = incident.evidence.get(feature.name, 0.0) + feature.contribution
        if (scorer.name, scorer.version) not in incident.models:
            incident.models.append((scorer.name, scorer.version))

    def _close(self, incident: Incident) -> None:
        incident.closed = True
        self._changed[incident.id] = incident

    def _prune(self, course: Course) -> None:
        course.flags = [f for f in course.flags if f.position > course.position - self._settings.out_of]

    # -- what goes out, and comes back

    def changed(self) -> list[Incident]:
        """Those that have changed since the last call, as they are now. An opening is to be notified of only once."""
        found = [replace(incident) for incident in self._changed.values()]
        for incident in self._changed.values():
            incident.notify = False
        self._changed.clear()
        return found

    def suspects(self, partition: int) -> list[Suspect]:
        """Entities with flags, those flagged last first."""
        found = [
            Suspect(entity, course.position, course.flags)
            for entity, course in self._courses.get(partition, {}).items()
            if course.flags
        ]
        return sorted(found, key=lambda s: s.position - s.flags[-1].position)

    def restore(self, partition: int, suspects: Iterable[Suspect], published: Mapping[int, Incident]) -> None:
        """Goes on from what was committed: `published` are the last incidents of the partition's entities."""
        now = time.monotonic()
        courses = {
            entity: Course(incident=replace(incident, evidence=dict(incident.evidence)), seen=now)
            for entity, incident in published.items()
        }
        for suspect in suspects:
            course = courses.setdefault(suspect.entity, Course(seen=now))
            course.flags, course.position = list(suspect.flags), suspect.position
        self._courses[partition] = courses
        self._active.update(entity for entity, course in courses.items() if course.active)

    def forget(self, partition: int) -> None:
        """Of a partition that went away, or is read again."""
        self._active.difference_update(self._courses.pop(partition, {}))
        self._changed = {id: incident for id, incident in self._changed.items() if incident.partition != partition}

    def sweep(self, idle: float) -> None:
        """Closes the incidents of entities that have been silent for `idle` seconds, and forgets what is over."""
        now = time.monotonic()
        for courses in self._courses.values():
            for entity, course in list(courses.items()):
                if now - course.seen < idle:
                    continue
                if course.incident is not None and not course.incident.closed:
                    self._close(course.incident)
                elif now - course.seen >= max(idle, self._settings.cooldown):
                    del courses[entity]
                    self._active.discard(entity)

    @property
    def open(self) -> int:
        """How many are."""
        courses = (c for courses in self._courses.values() for c in courses.values())
        return sum(c.incident is not None and not c.incident.closed for c in courses)


def _rows_of(hashes: UInt64s, watched: set[int]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """The rows of each of these entities, in the order of their arrival."""
    rows = np.flatnonzero(np.isin(hashes, np.fromiter(watched, np.uint64, len(watched))))
    rows = rows[np.argsort(hashes[rows], kind="stable")]
    if not len(rows):
        return
    bounds = [0, *(np.flatnonzero(hashes[rows][1:] != hashes[rows][:-1]) + 1).tolist(), len(rows)]
    for begin, end in pairwise(bounds):
        yield int(hashes[rows[begin]]), rows[begin:end]
