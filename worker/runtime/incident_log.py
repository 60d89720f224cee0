"""Reads the incidents topic for a worker that takes over a partition and has to know its entities' incidents."""

import time
from collections.abc import Mapping

import structlog
from kafka import errors

from worker.blocks import TopicSet
from worker.detection.incident import Incident
from worker.errors import KafkaUnavailable
from worker.kafka import connection, waits
from worker.kafka.reader import Reader
from worker.publishing.incident_event import read_incident
from worker.settings import Settings

log = structlog.get_logger()


class IncidentLog:
    """The last incident of each entity, as this consumer group has published it."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._source = settings.source
        self._topics = TopicSet.of(settings.topics.sensors)
        self._last: dict[int, dict[int, Incident]] = {}  # partition of the sensors -> entity -> incident
        self._reader = Reader(settings.kafka, settings.topics.incidents)
        # For this consumer, the end offsets include what an open transaction holds back.
        self._ends = connection.consumer(settings.kafka, isolation_level="read_uncommitted")

    def catch_up(self, timeout: float) -> bool:
        """Read to the current end; return False if that takes longer than `timeout` seconds.

        A broker reports a transaction's offsets as committed a little before its last outputs can be read, so open
        transactions are waited for.
        """
        deadline = time.monotonic() + timeout
        try:
            ends = {p.partition: end for p, end in waits.end_offsets(self._ends, self._reader.places, timeout).items()}
            while not self._reader.has_read(ends, timeout):
                block = self._reader.poll(0.02)
                for value in block.values if block else ():
                    self._take(value)
                if block is None and time.monotonic() > deadline:
                    return False
        except (errors.KafkaError, KafkaUnavailable) as error:
            log.debug("incidents_read_failed", error=str(error))
            return False
        return True

    def of(self, partition: int) -> Mapping[int, Incident]:
        """Return the partition's entities, by hash, with their last incidents."""
        return self._last.get(partition, {})

    def close(self) -> None:
        """Close the connections."""
        self._reader.close()
        self._ends.close(autocommit=False, timeout_ms=waits.CLOSE * 1000)

    def _take(self, value: bytes | None) -> None:
        incident = read_incident(value, self._source)
        if incident is not None and incident.topic in self._topics:
            partition = self._topics.number(incident.topic, incident.partition)
            self._last.setdefault(partition, {})[incident.identity] = incident
