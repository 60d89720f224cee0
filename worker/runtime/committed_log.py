"""Reads a compacted topic that workers write, for one that takes over a partition and has to know what is in it."""

import time

import structlog
from kafka import errors

from worker.errors import KafkaUnavailable
from worker.kafka import connection, waits
from worker.kafka.reader import Reader
from worker.settings import KafkaSettings

log = structlog.get_logger()


class CommittedLog:
    """The records of a topic as they were committed, one after another."""

    def __init__(self, settings: KafkaSettings, topic: str):
        self._reader = Reader(settings, topic)
        # For this consumer, the end offsets include what an open transaction holds back.
        self._ends = connection.consumer(settings, isolation_level="read_uncommitted")

    def catch_up(self, timeout: float) -> bool:
        """Read to the current end; return False if that takes longer than `timeout` seconds.

        A broker reports a transaction's offsets as committed a little before its last outputs can be read, so open
        transactions are waited for.
        """
        deadline = time.monotonic() + timeout
        try:
            ends = waits.end_offsets(self._ends, self._reader.places, timeout)
            by_number = {self._reader.topics.number(*place): end for place, end in ends.items()}
            while not self._reader.has_read(by_number, timeout):
                block = self._reader.poll(0.02)
                for value in block.values if block else ():
                    self.take(value)
                if block is None and time.monotonic() > deadline:
                    return False
        except (errors.KafkaError, KafkaUnavailable) as error:
            log.debug("committed_log_read_failed", topic=str(self._reader.topics), error=str(error))
            return False
        return True

    def take(self, value: bytes | None) -> None:
        """Take a record's value; malformed ones change nothing."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connections."""
        self._reader.close()
        self._ends.close(autocommit=False, timeout_ms=waits.CLOSE * 1000)
