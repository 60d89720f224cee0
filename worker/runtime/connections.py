"""The connections of one session: the source, the log of incidents, and the sink."""

from contextlib import ExitStack

from worker.blocks import TopicSet
from worker.kafka import Source, open_sink
from worker.runtime.incident_log import IncidentLog
from worker.settings import Settings


class Connections:
    """Opens all of them, or none."""

    def __init__(self, settings: Settings, id: str):
        """Connect. `id` is what the sink's transactions are named by. Raises KafkaUnavailable."""
        with ExitStack() as stack:
            source = Source(settings.kafka, TopicSet.of(settings.topics.sensors))
            stack.callback(source.close)
            incident_log = IncidentLog(settings)
            stack.callback(incident_log.close)
            sink = open_sink(settings, source, id)
            stack.callback(sink.close)
            self.all = source, incident_log, sink
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Close them, the last one first."""
        self._stack.close()
