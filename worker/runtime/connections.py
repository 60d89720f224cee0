"""The connections of one session: the source, the logs of what other workers have committed, and the sink."""

from contextlib import ExitStack

from worker.blocks import TopicSet
from worker.kafka import Source, open_sink
from worker.runtime.birth_log import BirthLog
from worker.runtime.incident_log import IncidentLog
from worker.settings import Settings


class Connections:
    """Opens all of them, or none. `birth_log` is there for Sparkplug alone."""

    def __init__(self, settings: Settings, id: str):
        """Connect. `id` is what the sink's transactions are named by. Raises KafkaUnavailable."""
        with ExitStack() as stack:
            self.source = Source(settings.kafka, TopicSet.of(settings.topics.sensors))
            stack.callback(self.source.close)
            self.incident_log = IncidentLog(settings)
            stack.callback(self.incident_log.close)
            self.birth_log = BirthLog(settings) if settings.input.is_sparkplug else None
            if self.birth_log is not None:
                stack.callback(self.birth_log.close)
            self.sink = open_sink(settings, self.source, id)
            stack.callback(self.sink.close)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Close them, the last one first."""
        self._stack.close()
