"""Messages of Sparkplug B, written by the schema of its specification as protoc compiles it: nothing of ours."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from worker.decoding.protobuf.descriptors import MessageTypes
from worker.schema_registry import SchemaText

# Eclipse Sparkplug 3.0, "Google Protocol Buffer Schema", but for data sets, templates, properties and metadata.
SCHEMA = """syntax = "proto2"; message Payload {
message Metric { optional string name = 1; optional uint64 alias = 2; optional uint64 timestamp = 3;
optional uint32 datatype = 4; optional bool is_historical = 5; optional bool is_transient = 6;
optional bool is_null = 7; oneof value { uint32 int_value = 10; uint64 long_value = 11; float float_value = 12;
double double_value = 13; bool boolean_value = 14; string string_value = 15; bytes bytes_value = 16; } }
optional uint64 timestamp = 1; repeated Metric metrics = 2; optional uint64 seq = 3; optional string uuid = 4;
optional bytes body = 5; }"""
DOUBLE = 10


@cache
def message_class() -> Any:
    return MessageTypes(SchemaText(SCHEMA, {})).at((0,))


def payload(metrics: Sequence[Mapping[str, Any]], timestamp: int | None = None) -> bytes:
    message = message_class()(metrics=[dict(metric) for metric in metrics], seq=1)
    if timestamp is not None:
        message.timestamp = timestamp
    return bytes(message.SerializeToString())


def birth(names: Sequence[str], timestamp: int, first_alias: int = 0, values: Sequence[float] | None = None) -> bytes:
    """A birth certificate that gives each metric an alias, with its value."""
    numbers = values or [0.0] * len(names)
    metrics = [
        {"name": name, "alias": first_alias + j, "datatype": DOUBLE, "double_value": value}
        for j, (name, value) in enumerate(zip(names, numbers, strict=True))
    ]
    return payload(metrics, timestamp)


def data(values: Mapping[int, float], timestamp: int) -> bytes:
    """What has changed, by aliases alone."""
    return payload([{"alias": alias, "double_value": value} for alias, value in values.items()], timestamp)
