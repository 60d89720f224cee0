"""All topics and messages as an AsyncAPI 3 document, made of the settings and of the schemas beside this file."""

from typing import Any, Final, Literal, NamedTuple

from worker import __version__
from worker.events import SchemaName, avro_schema, schema
from worker.settings import Settings

_DRAFT: Final = "application/schema+json;version=draft-07"
_JSON: Final = "application/json"
_EVENT: Final = "application/cloudevents+json"
_BYTES: Final = "application/octet-stream"
_ARROW: Final = "application/vnd.apache.arrow.stream"
_AVRO: Final = "application/avro"
_ENTITY: Final = "the entity"
_NUMBER: Final = {"type": ["number", "null"]}

Document = dict[str, Any]


class _Topic(NamedTuple):
    """Of one field of TopicSettings: what the worker does there, its records' key, and the messages."""

    does: Literal["receive", "send"]
    key: str
    messages: dict[str, Document]


def document(settings: Settings) -> Document:
    """As these settings name topics, brokers and groups; of the topics that they have written or read."""
    channels: Document = {}
    operations: Document = {}
    messages: Document = {}
    for name, topic in _topics(settings).items():
        field = type(settings.topics).model_fields[name]
        address = getattr(settings.topics, name)
        channels[name] = {
            "address": address,
            "description": field.description,
            "servers": [{"$ref": "#/servers/kafka"}],
            "messages": {m: {"$ref": f"#/components/messages/{m}"} for m in topic.messages},
            "bindings": {"kafka": {"topic": address, "bindingVersion": "0.5.0"}},
        }
        operations[f"{topic.does}_{name}"] = {
            "action": topic.does,
            "channel": {"$ref": f"#/channels/{name}"},
            "messages": [{"$ref": f"#/channels/{name}/messages/{m}"} for m in topic.messages],
        }
        for message, told in topic.messages.items():
            key = {"type": "string", "description": topic.key}
            messages[message] = told | {"bindings": {"kafka": {"key": key, "bindingVersion": "0.5.0"}}}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Offnormal",
            "version": __version__,
            "description": "Sensor vectors in, anomaly events out, as the worker sees its topics: receives, sends.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": _JSON,
        "servers": {
            "kafka": {
                "host": settings.kafka.bootstrap,
                "protocol": "kafka-secure" if "SSL" in settings.kafka.security_protocol else "kafka",
                "description": f"read by the consumer group {settings.kafka.group}, and the trainings'",
            }
        },
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages},
    }


def _topics(settings: Settings) -> dict[str, _Topic]:
    """By the names of TopicSettings' fields."""
    found = {
        "sensors": _Topic("receive", f"{_ENTITY}, unless a field names it", _vectors(settings)),
        "anomalies": _Topic("send", _ENTITY, {"anomaly": _anomaly(settings)}),
        "incidents": _Topic("send", f"{_ENTITY}, with its partition", {"incident": _event("incident")}),
        "dead_letters": _Topic("send", "that of the record", {"deadLetter": _dead_letter()}),
        "drift": _Topic("send", f"{_ENTITY}, or the model", {"drift": _event("drift")}),
        "training_requests": _Topic("send", "the model", {"trainingRequest": _json(schema("training-request"))}),
        "labels": _Topic("receive", "the id that is labelled", {"label": _json(schema("label"))}),
        "models": _Topic("receive", "what the record is: artefact, alias or decision", {"registryRecord": _registry()}),
    }
    if settings.model.shadow_share:
        found["shadow"] = _Topic("send", f"{_ENTITY}, or the model", {"shadow": _event("shadow")})
    for output in settings.outputs:
        found[output] = _Topic("send", "that of the record", {output.removesuffix("s"): _per_vector(output, settings)})
    return found


def _event(name: SchemaName) -> Document:
    found = schema(name)
    return _message(_EVENT, found["title"], found.get("description", found["title"]), found)


def _anomaly(settings: Settings) -> Document:
    if settings.event_format == "json":
        return _event("anomaly")
    told = avro_schema("anomaly")
    return {
        "contentType": _AVRO,
        "title": told["name"],
        "summary": told["doc"],
        "payload": {"schemaFormat": "application/vnd.apache.avro+json;version=1.9.0", "schema": told},
        "headers": _headers(
            {f"ce_{name}": "of the CloudEvent" for name in ("id", "source", "type", "time", "subject")}
        ),
    }


def _json(told: Document) -> Document:
    return _message(_JSON, told["title"], told["description"], told)


def _vectors(settings: Settings) -> dict[str, Document]:
    readings = {"type": "array", "items": _NUMBER, "description": "null is a missing reading"}
    named = {"type": "object", "additionalProperties": True, "description": "readings by name, whatever their order"}
    several = {"type": "array", "items": {"oneOf": [readings, named]}, "description": "several vectors"}
    input = settings.input
    places = [f"the entity in `{input.entity_field}`"] if input.entity_field else []
    places += [f"the event time in `{input.time_field}`"] if input.time_field else []
    told = "An array of readings, an object of named readings, or an array of these" + "".join(f"; {p}" for p in places)
    raw = {"description": "float32, little endian, in the order of the model's features; several one after the other"}
    columns = {"description": "an Arrow IPC stream: a column for each feature, or one, `values`, of lists; many rows"}
    fields = {"description": "Avro in Confluent's wire format: a field for each feature, or an array `values`"}
    found = {
        "vectorsAsJson": _message(_JSON, "Sensor vectors as JSON", told, {"oneOf": [readings, named, several]}),
        "vectorsAsFloats": _message(_BYTES, "Sensor vectors as raw float32", raw["description"], raw)
        | {"headers": _headers({"content-type": "f32, where the format is not by default"})},
        "vectorsAsArrow": _message(_ARROW, "Sensor vectors as Arrow", columns["description"], columns)
        | {"headers": _headers({"content-type": f"{_ARROW}, where the format is not by default"})},
    }
    if settings.schema_registry.url is not None:
        found["vectorsAsAvro"] = _message(_AVRO, "Sensor vectors as Avro", fields["description"], fields) | {
            "headers": _headers({"content-type": f"{_AVRO}, where the format is not by default"})
        }
    return found


def _dead_letter() -> Document:
    told = {
        "offnormal-topic": "where the record was",
        "offnormal-partition": "a number",
        "offnormal-offset": "a number",
        "offnormal-timestamp": "of the record, in milliseconds",
        "offnormal-reason": "a word for it, as the metric has it",
        "offnormal-error": "what is wrong, in words",
    }
    body = {"description": "the record's bytes, untouched, under its key; its own headers follow"}
    return _message(_BYTES, "A record that does not parse", body["description"], body) | {"headers": _headers(told)}


def _per_vector(output: str, settings: Settings) -> Document:
    told = {
        "scores": "score and p-value",
        "latents": "the autoencoder's code",
        "reconstructions": "every feature, as the others made one expect it",
    }[output]
    listed = {"type": "array", "items": {"type": "array", "items": _NUMBER}}
    as_json = {"type": "object", "required": ["rows"], "properties": {"rows": listed}}
    # Arrow's and Avro's columns are theirs to say, and float32 has no schema.
    rows = (
        as_json if settings.vector_format == "json" else {"description": f"{settings.vector_format}: docs/formats.md"}
    )
    description = f"Of each vector of a record {told}; null without a score. By default in the format of the input"
    headers = {
        "offnormal-source": "topic/partition/offset of the record",
        "offnormal-model": "name/version of the model",
        "content-type": "application/json, f32, application/avro or Arrow's",
    }
    kind = {"json": _JSON, "f32": _BYTES, "arrow": _ARROW, "avro": _AVRO}[settings.vector_format]
    return _message(kind, f"Vectors' {output}", description, rows) | {"headers": _headers(headers)}


def _registry() -> Document:
    body = {"description": "safetensors, in parts; an alias's version; a decision as JSON"}
    return _message(
        _BYTES, "A record of the model registry", "Written by training, and by a worker that decides.", body
    )


def _message(kind: str, title: str, summary: str, payload: Document) -> Document:
    plain = _inlined(payload, payload.get("$defs", {}))
    return {
        "contentType": kind,
        "title": title,
        "summary": summary,
        "payload": {"schemaFormat": _DRAFT, "schema": plain},
    }


def _headers(told: dict[str, str]) -> Document:
    properties = {name: {"type": "string", "description": what} for name, what in told.items()}
    return {"schemaFormat": _DRAFT, "schema": {"type": "object", "properties": properties}}


def _inlined(told: Any, definitions: Document) -> Any:
    """A schema without references: within this document they would mean another place."""
    if isinstance(told, list):
        return [_inlined(each, definitions) for each in told]
    if not isinstance(told, dict):
        return told
    if "$ref" in told:
        return _inlined(definitions[told["$ref"].removeprefix("#/$defs/")], definitions)
    return {k: _inlined(v, definitions) for k, v in told.items() if k not in ("$defs", "$schema", "$id")}
