"""The incidents topic read back: what a worker that takes over a partition has to know of its entities."""

import time
from collections.abc import Mapping

import structlog
from kafka import TopicPartition, errors

from worker.detection.incident import Incident
from worker.errors import KafkaError
from worker.events import read_incident
from worker.kafka import connection
from worker.kafka.reader import Reader
from worker.settings import Settings

log = structlog.get_logger()


class IncidentLog:
    """Each entity's last incident, as this consumer group has published it. Reads on where it stood."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._source = settings.source
        self._topic = settings.topics.sensors
        self._last: dict[int, dict[int, Incident]] = {}  # partition of the sensors -> entity -> incident
        self._reader = Reader(settings.kafka, settings.topics.incidents)
        # What an open transaction holds back is there for this one.
        self._ends = connection.consumer(settings.kafka, isolation_level="read_uncommitted")

    def catch_up(self, timeout: float) -> bool:
        """Up to all that is there now; False where that takes longer than `timeout` seconds.

        The broker tells a transaction's offsets as committed a little before the last of its outputs is: so whatever is
        in doubt is waited for.
        """
        deadline = time.monotonic() + timeout
        try:
            places = [TopicPartition(self._reader.topic, p) for p in self._reader.partitions()]
            ends = {p.partition: end for p, end in self._ends.end_offsets(places).items()}
            while not self._reader.has_read(ends):
                block = self._reader.poll(0.02)
                for value in block.values if block else ():
                    self._take(value)
                if block is None and time.monotonic() > deadline:
                    return False
        except (errors.KafkaError, KafkaError) as error:
            log.debug("incidents_not_read", error=str(error))
            return False
        return True

    def of(self, partition: int) -> Mapping[int, Incident]:
        """Entity, by its hash -> its last incident."""
        return self._last.get(partition, {})

    def close(self) -> None:
        self._reader.close()
        self._ends.close(autocommit=False, timeout_ms=1000)

    def _take(self, value: bytes | None) -> None:
        incident = read_incident(value, self._source)
        if incident is not None and incident.topic == self._topic:
            self._last.setdefault(incident.partition, {})[incident.identity] = incident
