"""Groups the vectors over budget of one entity into incidents, so that a person is notified once.

An incident opens when m of an entity's last n vectors are over budget, or one of them is extreme. Further vectors over
budget update it. It closes with the first vector that comes a quiet time after the last vector over budget. All times
are event times, and all counts are of the entity's own vectors in the order of their arrival. The same records
therefore give the same incidents, regardless of batches and crashes.

Opened incidents are restored from the published ones (`Incidents.restore`). Flags that have not opened an incident are
restored from the metadata of the committed offset (`Suspect`).
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np

from worker.blocks import TopicSet, VectorBlock
from worker.detection.incident import Flag, Incident, RowPlace, Suspect
from worker.detection.judge import Anomalies, Scorer
from worker.detection.watchlist import NEVER, Watch, Watched, place
from worker.native.arrays import Float32s, Int64s, UInt64s
from worker.native.jit import compiled, read_only
from worker.settings import IncidentSettings

_SENSORS: Final = 64  # maximum sensors whose evidence an incident adds up; later ones are ignored


@dataclass
class EntityState:
    """The state of one entity: its flags, its last incident, and when its last vector came."""

    partition: int
    flags: list[Flag] = field(default_factory=list)
    position: int = 0  # as of the last update; `Watch` counts further vectors
    incident: Incident | None = None
    seen: float = 0.0  # likewise; monotonic seconds

    @property
    def open(self) -> bool:
        """Return whether an incident of the entity is open."""
        return self.incident is not None and not self.incident.closed


class _Flagged:
    """One of a block's anomalies."""

    def __init__(self, anomalies: Anomalies, k: int):
        self._anomalies, self._k = anomalies, k
        self.index = int(anomalies.index[k])
        self.p_value = float(anomalies.p_value[k])
        self.alarm = bool(anomalies.alarm[k])

    @property
    def evidence(self) -> tuple[Int64s, Float32s]:
        return self._anomalies.top[self._k], self._anomalies.evidence(self._k)

    def belongs_to(self, incident: str | None) -> None:
        self._anomalies.incident[self._k] = incident


class Incidents:
    """The incidents of all entities of a worker. Has no connection: `changed` returns what is to be published."""

    def __init__(self, settings: IncidentSettings, topics: TopicSet):
        self._settings = settings
        self._topics = topics
        self._quiet, self._cooldown = int(settings.quiet * 1000), int(settings.cooldown * 1000)
        self._states: dict[int, EntityState] = {}
        self._watch = Watch()
        self._changed: dict[str, Incident] = {}

    def observe(self, block: VectorBlock, anomalies: Anomalies, scorer: Scorer) -> None:
        """Take a block's vectors in; assign an incident to each anomaly that belongs to one."""
        if not len(anomalies) and not len(self._watch):
            return
        over = np.full(len(block), -1)
        over[anomalies.index] = np.arange(len(anomalies))
        of_row, now = block.entity_hash[block.record], time.monotonic()
        with_flags = np.unique(of_row[anomalies.index])
        due = self._watch.advance(of_row, block.time, with_flags, now)
        looked_at: dict[int, EntityState] = {}
        for entity, rows in _rows_of(of_row, np.union1d(with_flags, due)):
            state = self._state(entity, int(block.records.partition[block.record[rows[0]]]))
            state.seen = now
            self._take(
                state=state, entity=entity, rows=rows, over=over, block=block, anomalies=anomalies, scorer=scorer
            )
            looked_at[entity] = state
        self._put(looked_at)

    def _take(
        self,
        state: EntityState,
        entity: int,
        rows: Int64s,
        over: Int64s,
        block: VectorBlock,
        anomalies: Anomalies,
        scorer: Scorer,
    ) -> None:
        """Process an entity's vectors of a block, flag by flag, until an incident covers all remaining ones."""
        tried, begin = None, 0
        for k in [*np.flatnonzero(over[rows] >= 0).tolist(), len(rows)]:
            if state.open and state.incident is not tried:
                tried = state.incident
                if self._go_on(
                    state=state, rows=rows[begin:], over=over, block=block, anomalies=anomalies, scorer=scorer
                ):
                    return
            self._pass(state, block.time[rows[begin:k]])
            if k < len(rows):
                self._flag(state, entity, block, _Flagged(anomalies, int(over[rows[k]])), scorer)
            begin = k + 1

    def _go_on(
        self,
        state: EntityState,
        rows: Int64s,
        over: Int64s,
        block: VectorBlock,
        anomalies: Anomalies,
        scorer: Scorer,
    ) -> bool:
        """Take the fast path: the incident is open and covers all rows. Return False if it does not."""
        incident = state.incident
        flags = rows[over[rows] >= 0]
        if incident is None or incident.closed or state.flags or not len(flags):
            return False
        record = block.record[flags]
        first = (int(block.records.offset[record[0]]), int(block.row[flags[0]]))
        times = block.time[flags]
        within = int(block.time[rows].max()) < incident.latest + self._quiet
        if first <= incident.last or not within or int(times.min()) <= incident.started - self._quiet:
            return False
        state.position += len(rows)
        continuing = over[flags]
        last = (int(block.records.offset[record[-1]]), int(block.row[flags[-1]]))
        incident.last = max(incident.last, last)
        incident.latest = max(incident.latest, int(times.max()))
        incident.vectors += len(flags)
        incident.peak = min(incident.peak, float(anomalies.p_value[continuing].min()))
        if anomalies.alarm[continuing].any():
            incident.severity = "alarm"
        self._add_evidence(incident, anomalies.top[continuing], anomalies.evidence(continuing), scorer)
        name = incident.id
        self._changed[name] = incident
        for k in continuing.tolist():
            anomalies.incident[k] = name
        return True

    def _state(self, entity: int, partition: int) -> EntityState:
        """Return the entity's state, with its count of vectors up to date."""
        state = self._states.get(entity)
        if state is None:
            state = self._states[entity] = EntityState(partition)
        index, is_watched = self._watch.find(np.array([entity], np.uint64))
        if is_watched[0]:
            state.position = int(self._watch.rows["position"][index[0]])
        return state

    def _put(self, states: Mapping[int, EntityState]) -> None:
        if not states:
            return
        watched = [self._watched(e, state) for e, state in states.items() if state.flags or state.open]
        self._watch.replace(np.fromiter(states, np.uint64, len(states)), watched)
        for entity, state in states.items():
            if not state.flags and state.incident is None:
                del self._states[entity]

    def _watched(self, entity: int, state: EntityState) -> Watched:
        expires = state.flags[0].position + self._settings.out_of if state.flags else NEVER
        closes = state.incident.latest + self._quiet if state.incident is not None and state.open else NEVER
        return Watched(entity, state.position, expires, closes, state.seen)

    def _pass(self, state: EntityState, times: Int64s) -> None:
        """Count vectors within budget: flags may run out, and the incident may close."""
        if not len(times):
            return
        state.position += len(times)
        self._prune(state)
        incident = state.incident
        if incident is not None and not incident.closed and int(times.max()) >= incident.latest + self._quiet:
            self._close(incident)

    def _flag(self, state: EntityState, entity: int, block: VectorBlock, anomaly: _Flagged, scorer: Scorer) -> None:
        record = int(block.record[anomaly.index])
        place = (int(block.records.offset[record]), int(block.row[anomaly.index]))
        when = int(block.time[anomaly.index])
        state.position += 1
        self._prune(state)
        incident = state.incident
        if incident is not None and place <= incident.last and when < incident.latest + self._quiet:
            # The publisher of the incident has already seen this vector, which is scored again. (With a later time, the
            # vector belongs to a topic that was created again.)
            anomaly.belongs_to(incident.id if place >= incident.opened else None)
            return
        if incident is not None and not incident.closed:
            if incident.started - self._quiet < when < incident.latest + self._quiet:
                self._add(incident, anomaly, place, when, scorer)
                self._changed[incident.id] = incident
                anomaly.belongs_to(incident.id)
                return
            self._close(incident)
        state.flags.append(Flag(state.position, when, *place, anomaly.p_value, anomaly.alarm))
        extreme = anomaly.p_value <= scorer.expected_rate * self._settings.extreme
        if extreme or len(state.flags) >= self._settings.open_after:
            self._open(state=state, entity=entity, block=block, anomaly=anomaly, place=place, when=when, scorer=scorer)

    def _open(
        self,
        state: EntityState,
        entity: int,
        block: VectorBlock,
        anomaly: _Flagged,
        place: RowPlace,
        when: int,
        scorer: Scorer,
    ) -> None:
        flags, before = state.flags, state.incident
        started = min(flag.time for flag in flags)
        notify = before is None or abs(started - before.notified) >= self._cooldown
        topic, partition = block.records.topics.place(state.partition)
        incident = Incident(
            topic=topic,
            partition=partition,
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
        state.incident, state.flags = incident, []
        self._changed[incident.id] = incident
        anomaly.belongs_to(incident.id)

    def _add(self, incident: Incident, anomaly: _Flagged, place: RowPlace, when: int, scorer: Scorer) -> None:
        incident.last = max(incident.last, place)
        incident.latest = max(incident.latest, when)
        incident.vectors += 1
        incident.peak = min(incident.peak, anomaly.p_value)
        if anomaly.alarm:
            incident.severity = "alarm"
        self._add_evidence(incident, *anomaly.evidence, scorer)

    @staticmethod
    def _add_evidence(incident: Incident, top: Int64s, of_top: Float32s, scorer: Scorer) -> None:
        """Add the evidence `of_top` [k, t] against features, one by one: the result does not depend on the batches."""
        evidence, features = incident.evidence, scorer.features
        for j, amount in zip(top.ravel().tolist(), of_top.ravel().tolist(), strict=True):
            name = features[j]
            if name in evidence:
                evidence[name] += amount
            elif len(evidence) < _SENSORS:
                evidence[name] = amount
        if (scorer.name, scorer.version) not in incident.models:
            incident.models.append((scorer.name, scorer.version))

    def _close(self, incident: Incident) -> None:
        incident.closed = True
        self._changed[incident.id] = incident

    def _prune(self, state: EntityState) -> None:
        state.flags = [f for f in state.flags if f.position > state.position - self._settings.out_of]

    # -- what goes out, and comes back

    def changed(self) -> list[Incident]:
        """Return the incidents that have changed since the last call, as they are now.

        An opening is marked for notification only once.
        """
        incidents = [incident.copy() for incident in self._changed.values()]
        for incident in self._changed.values():
            incident.notify = False
        self._changed.clear()
        return incidents

    @property
    def news(self) -> bool:
        """Return whether a changed incident needs a notification."""
        return any(incident.notify for incident in self._changed.values())

    def suspects(self, partition: int) -> list[Suspect]:
        """Return the entities of a partition with flags, the one flagged last first."""
        suspects = []
        for k in np.flatnonzero(self._watch.rows["expires"] != NEVER).tolist():
            entity = int(self._watch.rows["entity"][k])
            state = self._states[entity]
            if state.partition == partition:
                suspects.append(Suspect(entity, int(self._watch.rows["position"][k]), state.flags))
        return sorted(suspects, key=lambda s: s.flags[-1][2:4], reverse=True)

    def restore(self, partition: int, suspects: Iterable[Suspect], published: Mapping[int, Incident]) -> None:
        """Restore the committed state; `published` are the last incidents of the partition's entities."""
        now = time.monotonic()
        states = {
            entity: EntityState(partition, incident=incident.copy(), seen=now) for entity, incident in published.items()
        }
        for suspect in suspects:
            state = states.setdefault(suspect.entity, EntityState(partition, seen=now))
            state.position = suspect.position
            # A published incident may be ahead of the committed state, and already include some of these flags.
            last = state.incident.last if state.incident is not None else (-1, -1)
            state.flags = [flag for flag in suspect.flags if (flag.offset, flag.row) > last]
        self._states |= states
        self._put(states)

    def forget(self, partition: int) -> None:
        """Forget a partition that was revoked, or is read again."""
        revoked = {entity: EntityState(partition) for entity, c in self._states.items() if c.partition == partition}
        self._put(revoked)
        number = self._topics.number
        self._changed = {id: i for id, i in self._changed.items() if number(i.topic, i.partition) != partition}

    def sweep(self, idle: float) -> None:
        """Close the incidents of entities that have been silent for `idle` seconds, and forget what is over."""
        now, looked_at = time.monotonic(), {}
        for k in np.flatnonzero(now - self._watch.rows["seen"] >= idle).tolist():
            entity = int(self._watch.rows["entity"][k])
            state = looked_at[entity] = self._state(entity, 0)
            state.seen, state.flags = float(self._watch.rows["seen"][k]), []
            if state.incident is not None and state.open:
                self._close(state.incident)
        for entity, state in self._states.items():
            over = not state.flags and not state.open
            if over and entity not in looked_at and now - state.seen >= max(idle, self._settings.cooldown):
                looked_at[entity] = EntityState(state.partition)
        self._put(looked_at)

    @property
    def open(self) -> int:
        """Return the number of open incidents."""
        return int(np.count_nonzero(self._watch.rows["closes"] != NEVER))


def _rows_of(hashes: UInt64s, wanted: UInt64s) -> Iterator[tuple[int, Int64s]]:
    """Yield the rows of each of these entities, in ascending order of their hashes and in the order of arrival."""
    ends = np.zeros(len(wanted) + 1, np.int64)
    rows = _gather(read_only(hashes), wanted, ends)
    for entity, (begin, end) in zip(wanted.tolist(), pairwise(ends.tolist()), strict=True):
        if end > begin:
            yield entity, rows[begin:end]


@compiled
def _gather(hashes, wanted, ends):  # type: ignore[no-untyped-def]
    """Sort rows by entity (counting sort).

    `ends` [k + 1] says where the rows of each of the `wanted` [k] begin and end in the result.
    """
    of_row = np.empty(len(hashes), np.int64)
    k = -1
    for i in range(len(hashes)):
        if k < 0 or wanted[k] != hashes[i]:  # mostly it is the one of the row before
            k = place(wanted, hashes[i])
        of_row[i] = k
        if k >= 0:
            ends[k + 1] += 1
    for k in range(len(wanted)):
        ends[k + 1] += ends[k]
    position, rows = ends[:-1].copy(), np.empty(ends[-1], np.int64)
    for i in range(len(hashes)):
        k = of_row[i]
        if k >= 0:
            rows[position[k]] = i
            position[k] += 1
    return rows
