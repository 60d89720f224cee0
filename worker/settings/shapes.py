"""The shapes of records that have a name: each is only a set of fields, as a user may write them.

A field is a path: `tags.host` is the field `host` of the object `tags`, and `[]` stands after an array whose elements
are rows. A new shape is an entry here, and its name in `ShapeName`.
"""

from collections.abc import Mapping
from typing import Final, Literal

ShapeName = Literal[
    "vector",
    "telegraf",
    "telegraf-batch",
    "debezium",
    "cloudevents",
    "opcua-pubsub",
    "opc-publisher",
    "sparkplug",
    "sparkplug-json",
    "kepware",
    "sitewise",
    "readings",
]

SHAPES: Final[Mapping[ShapeName, Mapping[str, str | bool]]] = {
    "vector": {},
    # docs.influxdata.com, "JSON output data format", without and with use_batch_format
    "telegraf": {"values_field": "fields", "entity_field": "tags.host", "time_field": "timestamp"},
    "telegraf-batch": {
        "values_field": "metrics[].fields",
        "entity_field": "metrics[].tags.host",
        "time_field": "metrics[].timestamp",
    },
    # debezium.io, "Change events": the row after the change, and the time of the change in the database
    "debezium": {"values_field": "after", "time_field": "source.ts_ms"},
    # CloudEvents 1.0, "JSON Event Format", structured mode
    "cloudevents": {"values_field": "data", "entity_field": "source", "time_field": "time"},
    # OPC 10000-14, "JSON message mapping"
    "opcua-pubsub": {
        "values_field": "Messages[].Payload",
        "entity_field": "PublisherId",
        "time_field": "Messages[].Timestamp",
    },
    # Azure/Industrial-IoT, "Telemetry message formats", samples mode
    "opc-publisher": {
        "tag_field": "[].NodeId",
        "value_field": "[].Value.Value",
        "entity_field": "[].ApplicationUri",
        "time_field": "[].Value.SourceTimestamp",
    },
    # Sparkplug 3.0 in its protobuf, after worker/decoding/sparkplug has made JSON of it
    "sparkplug": {
        "tag_field": "metrics[].name",
        "value_field": "metrics[].value",
        "time_field": "metrics[].timestamp",
        "align": True,
    },
    # Sparkplug 3.0 payloads as JSON, as MQTT bridges write them
    "sparkplug-json": {"tag_field": "metrics[].name", "value_field": "metrics[].value", "time_field": "timestamp"},
    # Kepware IoT Gateway, the standard template
    "kepware": {"tag_field": "values[].id", "value_field": "values[].v", "time_field": "timestamp"},
    # AWS IoT SiteWise, "Understand MQTT topics and payloads": the values of one property
    "sitewise": {
        "tag_field": "payload.propertyId",
        "value_field": "payload.values[].value",
        "quality_field": "payload.values[].quality",
        "entity_field": "payload.assetId",
        "time_field": "payload.values[].timestamp",
        "align": True,
    },
    # One reading a record, as historians, gateways and MQTT bridges send them
    "readings": {
        "tag_field": "tag",
        "value_field": "value",
        "time_field": "time",
        "quality_field": "quality",
        "align": True,
    },
}
