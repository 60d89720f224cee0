"""Reads the incidents topic for a worker that takes over a partition and has to know its entities' incidents."""

from collections.abc import Mapping

from worker.blocks import TopicSet
from worker.detection.incident import Incident
from worker.publishing.incident_event import read_incident
from worker.runtime.committed_log import CommittedLog
from worker.settings import Settings


class IncidentLog(CommittedLog):
    """The last incident of each entity, as this consumer group has published it."""

    def __init__(self, settings: Settings):
        super().__init__(settings.kafka, settings.topics.incidents)
        self._source = settings.source
        self._topics = TopicSet.of(settings.topics.sensors)
        self._last: dict[int, dict[int, Incident]] = {}  # partition of the sensors -> entity -> incident

    def of(self, partition: int) -> Mapping[int, Incident]:
        """Return the partition's entities, by hash, with their last incidents."""
        return self._last.get(partition, {})

    def take(self, value: bytes | None) -> None:
        """Take a record's value; other groups' incidents change nothing."""
        incident = read_incident(value, self._source)
        if incident is not None and incident.topic in self._topics:
            partition = self._topics.number(incident.topic, incident.partition)
            self._last.setdefault(partition, {})[incident.identity] = incident
