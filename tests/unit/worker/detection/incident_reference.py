"""The incidents that are right: those of one plain loop over each entity's vectors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tests.unit.worker.detection.incident_streams import ALARM, BUDGET, QUIET, SENSORS, Sent, block_of, evidence
from worker.settings import IncidentSettings

Data = dict[str, Any]


class Vector(NamedTuple):
    place: str
    time: int
    p: float | None
    evidence: list[tuple[str, float]]


@dataclass
class Right:
    """An incident by its vectors over budget, of which `early` were there before the one that opened it."""

    vectors: list[Vector]
    early: int
    notify: bool
    notified: int
    closed: bool = False

    @property
    def id(self) -> str:
        return self.vectors[0].place

    @property
    def started(self) -> int:
        return min(v.time for v in self.vectors[: self.early + 1])

    @property
    def latest(self) -> int:
        return max(v.time for v in self.vectors)


def loop(vectors: Iterable[Vector], s: IncidentSettings) -> tuple[list[Right], dict[str, str | None]]:
    """The incidents of one entity; and of each of its vectors over budget, the incident."""
    made: list[Right] = []
    named: dict[str, str | None] = {}
    now: Right | None = None
    free: list[Vector] = []  # since the last incident
    for v in vectors:
        if now is not None:
            set_back = v.p is not None and v.time <= now.started - QUIET
            if v.time >= now.latest + QUIET or set_back:
                now.closed = True
                now, free = None, []
        if now is None:
            free.append(v)
            over = [f for f in free[-s.out_of :] if f.p is not None]
            if v.p is not None and (len(over) >= s.open_after or v.p <= BUDGET * s.extreme):
                started = min(f.time for f in over)
                notify = not made or abs(started - made[-1].notified) >= s.cooldown * 1000
                now = Right(over, len(over) - 1, notify, started if notify else made[-1].notified)
                made.append(now)
        elif v.p is not None:
            now.vectors.append(v)
        if v.p is not None:
            named[v.place] = now.id if now else None
    return made, named


def as_data(right: Right, key: bytes | None, identity: int) -> Data:
    counted = right.vectors[right.early :]
    values = [v.p for v in right.vectors if v.p is not None]
    return {
        "incident": right.id,
        "entity": None if key is None else key.decode("utf-8", "replace"),
        "identity": f"{identity:016x}",
        "state": "closed" if right.closed else "open",
        "severity": "alarm" if min(values) <= ALARM else "warning",
        "started": clock(right.started),
        "ended": clock(right.latest) if right.closed else None,
        "latest": clock(right.latest),
        "vectors": len(right.vectors),
        "peak_p_value": min(values),
        "evidence": {
            name: total
            for name in SENSORS
            if (total := sum(share for v in counted for n, share in v.evidence if n == name))
        },
        "models": [{"name": "default", "version": "v1"}],
        "notified": clock(right.notified),
        "opened_by": counted[0].place,
        "last_vector": right.vectors[-1].place,
    }


def clock(ms: int) -> str:
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ms % 1000:03}Z"


class Outcome(NamedTuple):
    """What is to be seen from outside: the last record of each incident, the incident of each anomaly, and the
    incidents that were notified of, in any order.
    """

    incidents: dict[str, Data]
    named: dict[str, str | None]
    pages: list[str]


def right_of(stream: Sequence[Sent], s: IncidentSettings) -> Outcome:
    found = Outcome({}, {}, [])
    hashes = dict(zip([s[0:3:2] for s in stream], block_of(stream).entity_hash.tolist(), strict=True)) if stream else {}
    for partition, key in hashes:
        mine = [sent for sent in stream if (sent.partition, sent.key) == (partition, key)]
        vectors = [
            Vector(sent.place(row), sent.time, p, evidence(sent, row))
            for sent in mine
            for row, p in enumerate(sent.rows)
        ]
        made, named = loop(vectors, s)
        found.named.update(named)
        for right in made:
            found.incidents[right.id] = as_data(right, key, hashes[partition, key])
            found.pages.extend([right.id] if right.notify else [])
    return found._replace(pages=sorted(found.pages))
