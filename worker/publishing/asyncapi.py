"""All topics and messages as an AsyncAPI 3 document, made of the settings and of the schemas in schemas/."""

from typing import Any, Final, Literal, NamedTuple, assert_never

from worker import __version__
from worker.publishing.cloudevents import SchemaName, avro_schema, schema
from worker.settings import PerVectorOutput, Settings
from worker.settings.formats import FORMATS, FormatSpec

_DRAFT: Final = "application/schema+json;version=draft-07"
_JSON: Final = "application/json"
_EVENT: Final = "application/cloudevents+json"
_BYTES: Final = "application/octet-stream"
_AVRO: Final = "application/avro"
_ENTITY: Final = "the entity"
_NUMBER: Final = {"type": ["number", "null"]}

Document = dict[str, Any]


class _Topic(NamedTuple):
    """One topic: what the worker does with it, its records' key, and its messages."""

    does: Literal["receive", "send"]
    key: str
    messages: dict[str, Document]


def document(settings: Settings) -> Document:
    """Return the document of the topics that these settings read and write."""
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
        for message, body in topic.messages.items():
            key = {"type": "string", "description": topic.key}
            messages[message] = body | {"bindings": {"kafka": {"key": key, "bindingVersion": "0.5.0"}}}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Offnormal",
            "version": __version__,
            "description": "The topics as the worker sees them: it receives sensor vectors and sends anomaly events.",
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
    """Return the topics by the names of TopicSettings' fields."""
    topics = {
        "sensors": _Topic("receive", f"{_ENTITY}, unless a field names it", _vectors(settings)),
        "anomalies": _Topic("send", _ENTITY, {"anomaly": _anomaly(settings)}),
        "incidents": _Topic("send", f"{_ENTITY}, with its partition", {"incident": _event("incident")}),
        "dead_letters": _Topic("send", "the key of the record", {"deadLetter": _dead_letter()}),
        "drift": _Topic("send", f"{_ENTITY}, or the model", {"drift": _event("drift")}),
        "training_requests": _Topic("send", "the model", {"trainingRequest": _json(schema("training-request"))}),
        "labels": _Topic("receive", "the id that is labelled", {"label": _json(schema("label"))}),
        "models": _Topic("receive", "what the record is: artefact, alias or decision", {"registryRecord": _registry()}),
    }
    if settings.input.is_sparkplug:
        topics["births"] = _Topic("send", "the machine", {"birth": _birth()})
    if settings.model.shadow_share:
        topics["shadow"] = _Topic("send", f"{_ENTITY}, or the model", {"shadow": _event("shadow")})
    for output in settings.outputs:
        topics[output] = _Topic(
            "send", "the key of the record", {output.removesuffix("s"): _per_vector(output, settings)}
        )
    return topics


def _event(name: SchemaName) -> Document:
    event_schema = schema(name)
    return _message(_EVENT, event_schema["title"], event_schema.get("description", event_schema["title"]), event_schema)


def _anomaly(settings: Settings) -> Document:
    if settings.event_format == "json":
        return _event("anomaly")
    avro = avro_schema("anomaly")
    return {
        "contentType": _AVRO,
        "title": avro["name"],
        "summary": avro["doc"],
        "payload": {"schemaFormat": "application/vnd.apache.avro+json;version=1.9.0", "schema": avro},
        "headers": _headers(
            {f"ce_{name}": "of the CloudEvent" for name in ("id", "source", "type", "time", "subject")}
        ),
    }


def _json(json_schema: Document) -> Document:
    return _message(_JSON, json_schema["title"], json_schema["description"], json_schema)


def _vectors(settings: Settings) -> dict[str, Document]:
    has_registry = settings.schema_registry.url is not None
    return {
        f"vectorsAs{spec.label}": _vectors_as(name, spec, settings)
        for name, spec in FORMATS.items()
        if has_registry or not spec.needs_registry
    }


def _vectors_as(name: str, spec: FormatSpec, settings: Settings) -> Document:
    title = f"Sensor vectors as {spec.title}"
    if name == "json":
        fields = [("the entity", settings.input.entity_field), ("the event time", settings.input.time_field)]
        summary = "; ".join([spec.description, *(f"{meaning} in `{field}`" for meaning, field in fields if field)])
        return _message(spec.media_type, title, summary, _json_vectors())
    header = f"{spec.content_types[0]}, unless this is the default format"
    message = _message(spec.media_type, title, spec.description, {"description": spec.description})
    return message | {"headers": _headers({"content-type": header})}


def _json_vectors() -> Document:
    readings = {"type": "array", "items": _NUMBER, "description": "null is a missing reading"}
    named = {"type": "object", "additionalProperties": True, "description": "readings by name, whatever their order"}
    several = {"type": "array", "items": {"oneOf": [readings, named]}, "description": "several vectors"}
    return {"oneOf": [readings, named, several]}


def _dead_letter() -> Document:
    descriptions = {
        "offnormal-topic": "topic of the record",
        "offnormal-partition": "partition of the record",
        "offnormal-offset": "offset of the record",
        "offnormal-timestamp": "timestamp of the record, in milliseconds",
        "offnormal-reason": "code of the reason, as in the metric",
        "offnormal-error": "error message",
    }
    body = {"description": "the record's bytes, untouched, under its key; its own headers follow"}
    return _message(_BYTES, "A record that does not parse", body["description"], body) | {
        "headers": _headers(descriptions)
    }


def _per_vector(output: PerVectorOutput, settings: Settings) -> Document:
    match output:
        case "scores":
            values = "score and p-value"
        case "latents":
            values = "the autoencoder's code"
        case "reconstructions":
            values = "every feature, as the model reconstructs it"
        case _:
            assert_never(output)
    listed = {"type": "array", "items": {"type": "array", "items": _NUMBER}}
    as_json = {"type": "object", "required": ["rows"], "properties": {"rows": listed}}
    # Arrow's and Avro's columns are theirs to say, and float32 has no schema.
    rows = (
        as_json if settings.vector_format == "json" else {"description": f"{settings.vector_format}: docs/formats.md"}
    )
    description = f"For each vector of a record: {values}; null without a score. By default in the format of the input"
    headers = {
        "offnormal-source": "topic/partition/offset of the record; of single readings the vector's id",
        "offnormal-model": "name/version of the model",
        "content-type": FORMATS[settings.vector_format].content_types[0],
    }
    media_type = FORMATS[settings.vector_format].media_type
    return _message(media_type, f"Vectors' {output}", description, rows) | {"headers": _headers(headers)}


def _registry() -> Document:
    body = {"description": "safetensors, in parts; an alias's version; a decision as JSON"}
    return _message(
        _BYTES, "A record of the model registry", "Written by training, and by a worker that decides.", body
    )


def _birth() -> Document:
    integer, text = {"type": "integer", "minimum": 0}, {"type": "string"}
    metric = {"type": "array", "prefixItems": [{"type": ["integer", "null"]}, text, integer]}
    properties = {
        **dict.fromkeys(("topic", "node", "device"), text),
        **dict.fromkeys(("partition", "offset"), integer),
        "topic_id": {"type": ["string", "null"]},
        "metrics": {"type": "array", "items": metric},
    }
    body = {"type": "object", "properties": properties}
    return _message(_JSON, "A birth certificate", "What the aliases of an edge node or device stand for", body)


def _message(kind: str, title: str, summary: str, payload: Document) -> Document:
    plain = _inlined(payload, payload.get("$defs", {}))
    return {
        "contentType": kind,
        "title": title,
        "summary": summary,
        "payload": {"schemaFormat": _DRAFT, "schema": plain},
    }


def _headers(descriptions: dict[str, str]) -> Document:
    properties = {name: {"type": "string", "description": description} for name, description in descriptions.items()}
    return {"schemaFormat": _DRAFT, "schema": {"type": "object", "properties": properties}}


def _inlined(node: Any, definitions: Document) -> Any:
    """Return the schema without references: within this document they would mean another place."""
    if isinstance(node, list):
        return [_inlined(child, definitions) for child in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inlined(definitions[node["$ref"].removeprefix("#/$defs/")], definitions)
    return {k: _inlined(v, definitions) for k, v in node.items() if k not in ("$defs", "$schema", "$id")}
