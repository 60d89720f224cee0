"""What is published as Avro is what is published as JSON; and rows in every format."""

import io
import json
from typing import Any

import fastavro
import numpy as np
import pytest

from tests.registry import SmallRegistry
from tests.stage import decode
from worker.blocks import BytesColumn
from worker.publishing.avro import AvroIn, AvroOut, write_vectors
from worker.publishing.cloudevents import avro_schema
from worker.publishing.event_reader import EventReader
from worker.publishing.vector_values import VectorRows
from worker.schema_registry import SchemaRegistry
from worker.settings import SchemaRegistrySettings, Settings

ENTITY: dict[str, Any] = {"subject": "prëss"}
EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "offnormal.sensors/2/11577/0",
    "source": "urn:offnormal:offnormal",
    "type": "offnormal.anomaly.v1",
    "time": "2026-11-24T21:31:11.735Z",
    "datacontenttype": "application/json",
    "data": {
        "entity": None,
        "time": "2026-11-24T21:31:11.735Z",
        "score": 72.22,
        "p_value": 4.1e-05,
        "severity": "alarm",
        "threshold": 14.58,
        "model": {"name": "default", "version": "v"},
        "features": [
            {"name": "f1", "actual": None, "expected": 34.99, "contribution": 0.49, "missing": True},
            {"name": "f7", "actual": 4.0, "expected": 39.04, "contribution": 0.32, "missing": False},
        ],
        "imputed": ["f1"],
        "incident": None,
    },
}


@pytest.fixture
def registry():  # type: ignore[no-untyped-def]
    made = SmallRegistry()
    yield made
    made.close()


def settings(registry: SmallRegistry, **more: Any) -> Settings:
    return Settings(schema_registry=SchemaRegistrySettings(url=registry.url), **more)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"entity": "prëss", "incident": "offnormal.sensors/2/11570/0"},
        {"lags": [0.75, 0.25]},
    ],
)
def test_an_event_comes_back_as_it_was(registry: SmallRegistry, more: dict[str, Any]) -> None:
    event = EVENT | {"data": EVENT["data"] | more} | ({"subject": more["entity"]} if "entity" in more else {})
    out = AvroOut(settings(registry, event_format="avro"))
    out.register()
    assert list(registry.subjects) == ["offnormal.anomalies-value"]
    values, headers = out.anomalies(BytesColumn.of([json.dumps(event).encode()] * 2), [(), [("traceparent", b"x")]])
    assert b"ce_id" in (headers[0] or b"") and EVENT["id"].encode() in (headers[0] or b"")
    assert b"traceparent" in (headers[1] or b"") and b"traceparent" not in (headers[0] or b"")
    client = SchemaRegistry.of(settings(registry))
    assert client is not None
    assert [AvroIn(client).event(value or b"") for value in values] == [event] * 2
    reader = EventReader(client)
    assert reader.event(values[0]) == event and reader.event(json.dumps(event).encode()) == event
    with pytest.raises(ValueError):
        EventReader(None).event(values[0])
    late = io.BytesIO()
    data = event["data"] | {"id": "i", "source": "s", "time": 2**62}
    fastavro.schemaless_writer(late, fastavro.parse_schema(avro_schema("anomaly")), data)
    hostile = registry.add({"type": "array", "items": "null"})
    for each in (
        (values[0] or b"")[:5] + late.getvalue(),
        b"\0" + hostile.to_bytes(4, "big") + b"\xfe\xff\xff\xff\x0f",
    ):
        with pytest.raises(ValueError):
            reader.event(each)
    for bad in (b"\0", b"\0\0\0\0\x63rest", (values[0] or b"")[:-3], b"", None):
        with pytest.raises(ValueError):
            reader.event(bad)


def test_an_event_of_an_older_schema_is_read(registry: SmallRegistry) -> None:
    old = avro_schema("anomaly")
    old["fields"] = [field for field in old["fields"] if field["name"] != "lags"]
    id = registry.add(old)
    data = EVENT["data"] | {"id": EVENT["id"], "source": EVENT["source"], "time": 1}
    written = io.BytesIO()
    fastavro.schemaless_writer(written, fastavro.parse_schema(old), data)
    client = SchemaRegistry.of(settings(registry))
    assert client is not None
    event = AvroIn(client).event(b"\0" + id.to_bytes(4, "big") + written.getvalue())
    assert event["id"] == EVENT["id"] and event["data"]["score"] == 72.22


def test_rows_as_avro(registry: SmallRegistry) -> None:
    out = AvroOut(settings(registry, outputs=("latents",), output_format="avro"))
    out.register()
    rows = np.random.default_rng(0).normal(size=(300, 70)).astype(np.float32)
    rows[7] = np.nan
    first, ends = np.array([0, 1, 2]), np.array([1, 2, 300])
    told = write_vectors(VectorRows(rows, first, ends, [], out.head("offnormal.latents")))
    found = [decode(value or b"", b"application/avro") for value in told]
    for k in range(3):
        np.testing.assert_array_equal(np.array(found[k], np.float32), rows[first[k] : ends[k]])
