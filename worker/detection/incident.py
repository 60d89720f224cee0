"""What an incident is, and what may become one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from worker.detection.judge import Severity

RowPlace = tuple[int, int]  # offset and row within a partition


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
        """Return the suspect as compact JSON, since it is stored in an offset's metadata."""
        # Positions are stored as distances, since the next owner starts counting again.
        return [f"{self.entity:x}", [[self.position - f.position, *f[1:]] for f in self.flags]]

    @classmethod
    def of_json(cls, doc: Any) -> "Suspect":
        """Parse a suspect. Raises ValueError, TypeError, KeyError."""
        entity, flags_doc = doc
        flags = [
            Flag(position=-int(ago), time=int(t), offset=int(o), row=int(r), p_value=float(p), alarm=bool(a))
            for ago, t, o, r, p, a in flags_doc
        ]
        return cls(int(entity, 16), 0, flags)


@dataclass
class Incident:
    """An entity's incident.

    `identity` is the entity's hash. `first` and `last` are the places of its first and last vector over budget,
    `opened` that of the vector that opened it. `started` and `latest` are event times in ms. `notify` says whether this
    opening calls for a notification. `notified` is the start of the last incident for which somebody was notified.
    """

    topic: str
    partition: int
    entity: str | None
    identity: int
    first: RowPlace
    opened: RowPlace
    last: RowPlace
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

    def copy(self) -> "Incident":
        """Return a copy that later changes of this incident do not touch."""
        return replace(self, evidence=dict(self.evidence), models=list(self.models))

    def leading(self) -> list[tuple[str, float]]:
        """Return the sensors by their shares of the evidence over its course, the guiltiest first."""
        total = sum(self.evidence.values()) or 1.0
        return sorted(((name, e / total) for name, e in self.evidence.items()), key=lambda share: (-share[1], share[0]))
