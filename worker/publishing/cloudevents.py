"""The envelope of events (CloudEvents 1.0), the types of events, and their schemas."""

import json
from importlib.resources import files
from typing import Any, Final, Literal

import orjson

from worker.kafka import Output
from worker.kafka.outputs import encode_headers

ANOMALY_TYPE: Final = "offnormal.anomaly.v1"
INCIDENT_TYPE: Final = "offnormal.incident.v1"
DRIFT_TYPE: Final = "offnormal.drift.v1"
SHADOW_TYPE: Final = "offnormal.shadow.v1"

STRUCTURED: Final = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
STRUCTURED_HEADERS: Final = encode_headers(STRUCTURED)

SchemaName = Literal["anomaly", "drift", "incident", "label", "shadow", "training-request"]


def schema(name: SchemaName) -> dict[str, Any]:
    """Return the JSON Schema of this kind of event."""
    return _read(f"{name}.schema.json")


def avro_schema(name: Literal["anomaly", "rows"]) -> dict[str, Any]:
    """Return the Avro schema of an anomaly event, or of the values of each vector."""
    return _read(f"{name}.avsc")


def _read(file: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(files("worker.publishing").joinpath("schemas", file).read_text())
    return document


def envelope(event_type: str, id: str, source: str, time: str, data: dict[str, Any]) -> dict[str, Any]:
    """Return the CloudEvent of `data`. Its subject is the data's entity; CloudEvents allows no empty subject."""
    event = {
        "specversion": "1.0",
        "id": id,
        "source": source,
        "type": event_type,
        "time": time,
        "datacontenttype": "application/json",
        "data": data,
    }
    if data.get("entity"):
        event["subject"] = data["entity"]
    return event


def event_record(topic: str, key: str, event: dict[str, Any]) -> Output:
    """Return the record of an event, in structured content mode."""
    return Output(topic, orjson.dumps(event), key.encode(), STRUCTURED)
