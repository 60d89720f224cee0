"""What an incident is, and what may become one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from worker.detection.judge import Severity

Place = tuple[int, int]  # offset and row within a partition


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

    def copy(self) -> "Incident":
        """As it is now, whatever becomes of this one."""
        return replace(self, evidence=dict(self.evidence), models=list(self.models))

    def leading(self) -> list[tuple[str, float]]:
        """The sensors by their shares of the evidence over its course, the guiltiest first."""
        total = sum(self.evidence.values()) or 1.0
        return sorted(((name, e / total) for name, e in self.evidence.items()), key=lambda told: (-told[1], told[0]))
