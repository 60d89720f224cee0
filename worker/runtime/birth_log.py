"""Reads the births topic for a worker that takes over a partition: its aliases were told long ago."""

from typing import Final

import structlog

from worker.blocks import TopicSet
from worker.decoding.sparkplug.births import Birth, Births
from worker.runtime.committed_log import CommittedLog
from worker.settings import Settings

log = structlog.get_logger()

TOLD_EVERY: Final = 10_000  # births that were left out


class BirthLog(CommittedLog):
    """What all workers have written of birth certificates."""

    def __init__(self, settings: Settings):
        super().__init__(settings.kafka, settings.topics.births)
        self._topics = TopicSet.of(settings.topics.sensors)
        self._births, self._left_out = Births(), 0

    def of(self, partition: int, end: int | None, topic_id: str | None) -> list[Birth]:
        """Return the last births of a partition of the topic of this id, before the offset `end` or all."""
        births = (birth for birth in self._births.of(partition) if birth.is_of(topic_id))
        return [birth for birth in births if end is None or birth.offset < end]

    def take(self, value: bytes | None) -> None:
        """Take a record's value; malformed ones change nothing."""
        birth = Birth.read(value, self._topics)
        if birth is not None and not self._births.take(birth):
            self._left_out += 1
            if self._left_out % TOLD_EVERY == 1:
                log.error("births_dropped", count=self._left_out, consequence="too many machines: aliases are unknown")
