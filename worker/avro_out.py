"""What is published as Avro, in Confluent's wire format, and read back: events, and what is said of each vector."""

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

from worker.events import ANOMALY_TYPE, avro_schema, iso
from worker.kafka.outputs import encode_headers
from worker.schema_registry import SchemaRegistry, UnknownSchema
from worker.settings import Settings
from worker.vectors import BytesColumn, Headers
from worker.vectors.avro import HEADER, Shape
from worker.vectors.block import Float32s, Int64s

_ERRORS: Final = (
    *(UnknownSchema, SchemaResolutionError, SchemaParseException, UnknownType),
    *(EOFError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError),
)
_ATTRIBUTES: Final = ("specversion", "id", "source", "type", "subject", "time")


class AvroOut:
    """Encodes by schemas that it has given to the registry, each as the subject `<topic>-value`, as serializers do."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._heads: dict[str, bytes] = {}  # topic -> how each of its records begins
        self._anomaly = fastavro.parse_schema(avro_schema("anomaly"))

    def register(self) -> None:
        """Raises SchemaRegistryError."""
        registry = SchemaRegistry.of(self._settings, patience=self._settings.kafka.startup_timeout)
        assert registry is not None
        for topic, name in self._settings.avro_topics.items():
            self._heads[topic] = b"\0" + struct.pack(">I", registry.register(f"{topic}-value", avro_schema(name)))

    def anomalies(self, events: BytesColumn, contexts: Sequence[Headers]) -> tuple[BytesColumn, BytesColumn]:
        """CloudEvents as JSON -> the same in binary content mode: the data as the value, the attributes as headers,
        and after them each one's trace context.
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

    def rows(self, topic: str, rows: Float32s, first: Int64s, ends: Int64s) -> BytesColumn:
        """Of each record its rows, `rows` [n, k] from `first` to `ends`."""
        n, k = rows.shape
        before = _long(k)
        packed = np.zeros((n, len(before) + 4 * k + 1), np.uint8)  # a row is an array of one block: count, items, 0
        packed[:, : len(before)] = np.frombuffer(before, np.uint8)
        packed[:, len(before) : -1] = rows.astype("<f4").view(np.uint8).reshape(n, 4 * k)
        size, told, head = packed.shape[1], packed.tobytes(), self._heads[topic]
        heads = {count: head + _long(count) for count in np.unique(ends - first).tolist()}
        pairs = zip(first.tolist(), ends.tolist(), strict=True)
        return BytesColumn.of([heads[b - a] + told[a * size : b * size] + b"\0" for a, b in pairs])


class AvroIn:
    """Reads anomaly events back, by whichever version of their schema they were written."""

    def __init__(self, registry: SchemaRegistry):
        self._registry = registry
        self._parsed: dict[int, Any] = {}
        self._anomaly = fastavro.parse_schema(avro_schema("anomaly"))

    def event(self, value: bytes) -> dict[str, Any]:
        """The CloudEvent as JSON has it. Raises ValueError where it is none, SchemaRegistryError where the registry is
        away.
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
    told = {name: value for name, value in data.items() if name not in ("id", "source")} | {"time": time}
    if told["lags"] is None:
        del told["lags"]
    event = {
        "specversion": "1.0",
        "id": data["id"],
        "source": data["source"],
        "type": ANOMALY_TYPE,
        "time": time,
        "datacontenttype": "application/json",
        "data": told,
    }
    if data["entity"]:
        event["subject"] = data["entity"]
    return event


def _long(value: int) -> bytes:
    """As Avro has it: a zigzag varint, as Kafka's is."""
    out = bytearray()
    encode_varint(value, out.append)
    return bytes(out)
