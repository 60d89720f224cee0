"""Follows the models topic, for all models that a worker serves."""

from worker.kafka.reader import Reader
from worker.registry.view import RegistryView
from worker.settings import Settings


class RegistryFollower:
    """Follows the models topic: all models that a worker serves. Used by one thread."""

    def __init__(self, settings: Settings):
        self.views = {name: RegistryView(name, settings.model.signing_key) for name in settings.model.names}
        self._reader = Reader(settings.kafka, settings.topics.models, patience=0.5)  # for ever: it is idle mostly

    def poll(self, timeout: float) -> bool:
        """Fold in new records; return True if there were any, and the first reading is over.

        Raises KafkaUnavailable.
        """
        block = self._reader.poll(timeout)
        if block is not None:
            for view in self.views.values():
                view.apply(block)
        return block is not None and self._reader.caught_up()

    def caught_up(self) -> bool:
        """Return whether all decisions that were there at the start are known. Raises KafkaUnavailable."""
        return self._reader.caught_up()

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()
