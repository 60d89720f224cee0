"""Events and values of vectors as Avro in Confluent's wire format, and events read back."""

import struct
from collections.abc import Sequence
from datetime import datetime
from io import BytesIO
from typing import Any, Final

import fastavro
import numpy as np
import orjson
from fastavro.read import SchemaResolutionError
from fastavro.schema import SchemaParseException, UnknownType
from kafka.record.util import encode_varint

from worker.blocks import BytesColumn, Headers
from worker.blocks.timestamps import iso
from worker.decoding.avro.format import Shape
from worker.decoding.by_schema import HEADER
from worker.kafka.outputs import encode_headers
from worker.publishing.cloudevents import ANOMALY_TYPE, avro_schema, envelope
from worker.publishing.vector_values import VectorRows
from worker.schema_registry import SchemaRegistry, UnknownSchema
from worker.settings import Settings

_ERRORS: Final = (
    *(UnknownSchema, SchemaResolutionError, SchemaParseException, UnknownType),
    *(EOFError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError),
)
_ATTRIBUTES: Final = ("specversion", "id", "source", "type", "subject", "time")


class AvroOut:
    """Encodes by schemas that it registers, each as the subject `<topic>-value`, as serializers do."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._heads: dict[str, bytes] = {}  # topic -> how each of its records begins
        self._anomaly = fastavro.parse_schema(avro_schema("anomaly"))

    def register(self) -> None:
        """Register the schemas. Raises SchemaRegistryError."""
        registry = SchemaRegistry.of(self._settings, patience=self._settings.kafka.startup_timeout)
        assert registry is not None
        for topic, name in self._settings.avro_topics.items():
            self._heads[topic] = b"\0" + struct.pack(">I", registry.register(f"{topic}-value", avro_schema(name)))

    def anomalies(self, events: BytesColumn, contexts: Sequence[Headers]) -> tuple[BytesColumn, BytesColumn]:
        """Turn CloudEvents in JSON into binary content mode: the data as the value, the attributes as headers.

        After the attributes comes each event's trace context.
        """
        values, headers = [], []
        for text, context in zip(events, contexts, strict=True):
            event = orjson.loads(text or b"")
            out = BytesIO()
            out.write(self._heads[self._settings.topics.anomalies])
            fastavro.schemaless_writer(out, self._anomaly, _flat(event))
            values.append(out.getvalue())
            attributes = [(f"ce_{name}", event[name].encode()) for name in _ATTRIBUTES if name in event]
            headers.append(encode_headers([("content-type", b"application/avro"), *attributes, *context]))
        return BytesColumn.of(values), BytesColumn.of(headers)

    def head(self, topic: str) -> bytes | None:
        """Return how each record of the topic begins: a zero byte, and the number of its schema.

        Returns None if the topic is not written as Avro.
        """
        return self._heads.get(topic)


def write_vectors(rows: VectorRows) -> BytesColumn:
    """Return the rows of each record as Avro, by the schema that AvroOut has registered for the topic."""
    assert rows.avro_head is not None
    first, ends = rows.first, rows.ends
    n, k = rows.values.shape
    before = _long(k)
    packed = np.zeros((n, len(before) + 4 * k + 1), np.uint8)  # a row is an array of one block: count, items, 0
    packed[:, : len(before)] = np.frombuffer(before, np.uint8)
    packed[:, len(before) : -1] = rows.values.astype("<f4").view(np.uint8).reshape(n, 4 * k)
    size, data, head = packed.shape[1], packed.tobytes(), rows.avro_head
    heads = {count: head + _long(count) for count in np.unique(ends - first).tolist()}
    pairs = zip(first.tolist(), ends.tolist(), strict=True)
    return BytesColumn.of([heads[b - a] + data[a * size : b * size] + b"\0" for a, b in pairs])


class AvroIn:
    """Reads anomaly events back, by whichever version of their schema they were written."""

    def __init__(self, registry: SchemaRegistry):
        self._registry = registry
        self._parsed: dict[int, Any] = {}
        self._anomaly = fastavro.parse_schema(avro_schema("anomaly"))

    def event(self, value: bytes) -> dict[str, Any]:
        """Return the CloudEvent as JSON would have it.

        Raises ValueError where it is none, SchemaRegistryError where the registry is away.
        """
        try:
            number = int.from_bytes(value[1:HEADER], "big")
            if number not in self._parsed:
                named: dict[str, Any] = {}
                parsed = fastavro.parse_schema(self._registry.schema(number)[0], named_schemas=named)
                Shape(named).look(parsed)  # and what is a time in it is a number from now on
                self._parsed[number] = fastavro.parse_schema(self._registry.schema(number)[0])
            data: Any = fastavro.schemaless_reader(BytesIO(value[HEADER:]), self._parsed[number], self._anomaly)
            return _cloudevent(data)
        except _ERRORS as error:
            raise ValueError(f"no event: {error!r}") from None


def _flat(event: dict[str, Any]) -> dict[str, Any]:
    time = datetime.fromisoformat(event["time"])
    return {"id": event["id"], "source": event["source"], **event["data"], "time": time}


def _cloudevent(data: dict[str, Any]) -> dict[str, Any]:
    time = iso(round(data["time"].timestamp() * 1000))
    json_data = {name: value for name, value in data.items() if name not in ("id", "source")} | {"time": time}
    if json_data["lags"] is None:
        del json_data["lags"]
    return envelope(ANOMALY_TYPE, data["id"], data["source"], time, json_data)


def _long(value: int) -> bytes:
    """Return a number as Avro has it: a zigzag varint, as Kafka's."""
    out = bytearray()
    encode_varint(value, out.append)
    return bytes(out)
