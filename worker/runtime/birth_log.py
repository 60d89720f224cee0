"""Reads the births topic for a worker that takes over a partition: its aliases were told long ago."""

from worker.blocks import TopicSet
from worker.decoding.sparkplug.births import Birth, Births
from worker.runtime.committed_log import CommittedLog
from worker.settings import Settings


class BirthLog(CommittedLog):
    """Brings `births` up to date with what all workers have written."""

    def __init__(self, settings: Settings, births: Births):
        super().__init__(settings.kafka, settings.topics.births)
        self._topics, self._births = TopicSet.of(settings.topics.sensors), births

    def take(self, value: bytes | None) -> None:
        """Take a record's value; malformed ones change nothing."""
        birth = Birth.read(value, self._topics)
        if birth is not None:
            self._births.take(birth)
