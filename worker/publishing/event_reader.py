"""Anomaly events read back, whichever way they were written."""

from typing import Any

import orjson

from worker.schema_registry import SchemaRegistry
from worker.settings import lacks_package


class EventReader:
    """Reads anomaly events in JSON, and, with a schema registry, in Avro."""

    def __init__(self, registry: SchemaRegistry | None):
        self._avro = None
        if registry is not None and lacks_package("avro") is None:
            from worker.publishing.avro import AvroIn

            self._avro = AvroIn(registry)

    def event(self, value: bytes | None) -> Any:
        """Return the event as JSON has it. Raises ValueError, or SchemaRegistryError if the registry is away."""
        if self._avro is not None and value is not None and value[:1] == b"\0":
            return self._avro.event(value)
        return orjson.loads(value or b"")
