"""The newest incidents of the fleet, as last published, with their labels. Bounded. Not thread-safe."""

from collections import OrderedDict
from typing import Any, Final

from worker.blocks import TopicSet
from worker.detection.incident import Incident
from worker.page.texts import cut
from worker.publishing.incident_event import read_incident
from worker.publishing.labels import read_label

MOST: Final = 500
_SPARE: Final = 100  # beyond these, the oldest go together: to look for them costs a pass over all
_MOST_LABELS: Final = 2000
SENSORS: Final = 5  # that are named
_MODELS: Final = 3


class IncidentBook:
    """The newest incidents by their ids, with labels."""

    def __init__(self, source: str, topics: TopicSet):
        self._source, self._topics = source, topics
        self._incidents: dict[str, Incident] = {}
        self._labels: OrderedDict[str, dict[str, str]] = OrderedDict()
        self._changed: set[str] = set()
        self._gone: set[str] = set()

    def __len__(self) -> int:
        return len(self._incidents)

    def get(self, id: str) -> Incident | None:
        """Return the incident of this id, or None."""
        return self._incidents.get(id)

    def take(self, value: bytes | None) -> None:
        """Take a record of the incidents topic. Malformed ones, and other groups' incidents, change nothing."""
        incident = read_incident(value, self._source)
        if incident is None or incident.topic not in self._topics:
            return
        incident.evidence = dict(incident.leading()[:SENSORS])
        incident.models = incident.models[-_MODELS:]
        self._incidents[incident.id] = incident
        self._changed.add(incident.id)
        self._gone.discard(incident.id)
        if len(self._incidents) > MOST + _SPARE:
            self._drop()

    def take_label(self, value: bytes | None) -> None:
        """Take a record of the labels topic. Malformed ones change nothing."""
        label = read_label(value, self._topics)
        if label is None:
            return
        id = label.id
        self._labels[id] = {"verdict": label.verdict, "who": cut(label.author), "time": cut(label.time)}
        self._labels.move_to_end(id)
        if len(self._labels) > _MOST_LABELS:
            self._labels.popitem(last=False)
        if id in self._incidents:
            self._changed.add(id)

    def shown(self) -> list[dict[str, Any]]:
        """Return all incidents, as the page shows them."""
        return [self._shown(incident) for incident in self._incidents.values()]

    def news(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Return what has changed since the last call, and which incidents are no longer held."""
        changed = [self._shown(self._incidents[id]) for id in self._changed]
        removed = sorted(self._gone)
        self._changed, self._gone = set(), set()
        return changed, removed

    def _drop(self) -> None:
        """Drop the oldest incidents, closed ones first."""
        order = sorted(self._incidents.values(), key=lambda entry: (not entry.closed, entry.latest))
        for incident in order[: len(order) - MOST]:
            del self._incidents[incident.id]
            self._changed.discard(incident.id)
            self._gone.add(incident.id)
        if len(self._gone) > MOST:  # nobody has been told of most of them
            self._gone = set(sorted(self._gone)[-MOST:])

    def _shown(self, incident: Incident) -> dict[str, Any]:
        return {
            "id": incident.id,
            "entity": None if incident.entity is None else cut(incident.entity),
            "open": not incident.closed,
            "severity": incident.severity,
            "started": incident.started,
            "latest": incident.latest,
            "vectors": incident.vectors,
            "p": incident.peak,
            "sensors": [{"name": cut(name), "share": round(share, 4)} for name, share in incident.evidence.items()],
            "models": [cut(version) for _, version in incident.models],
            "label": self._labels.get(incident.id),
        }
