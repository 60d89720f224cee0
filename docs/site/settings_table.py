"""The settings tree as tables, one for each section: what worker/settings/settings.py says, and who reads it."""

import types
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import annotated_types as limits
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from worker.settings import CONFIG_FILE, PREFIX, Duration, Settings

TITLES: Final = {
    "kafka": "The brokers, and how to reach them.",
    "topics": "Names of the topics: [events and topics](events.md) says what is in them.",
    "input": "What a record holds: [time and windows](time.md).",
    "schema_registry": "Where the schemas of Avro records are.",
    "model": "Which model is served and trained: [models](models.md), [the closed loop](closed-loop.md).",
    "entities": "What is kept of each entity: [windows](time.md#windows).",
    "detection": "The budget: [from a score to a promise](models.md#from-a-score-to-a-promise).",
    "incidents": "When an [incident](time.md#incidents) opens and closes.",
    "drift": "[Drift](closed-loop.md#notice), and sensors at fault.",
    "batch": "Throughput against delay: [performance](performance.md#what-bounds-it).",
    "training": "What a training reads and does: [the closed loop](closed-loop.md#retrain).",
    "http": "Probes, metrics and the [live page](page.md).",
    "log": "Logs, on standard error.",
}
# Who reads a section, and of it the settings that others read. "both": worker and training.
READERS: Final = {
    "kafka": "both",
    "kafka.instance_id": "worker",
    "kafka.start": "worker",
    "kafka.fetch_bytes": "worker",
    "topics": "both",
    "topics.dead_letters": "worker",
    "topics.incidents": "both",
    "topics.shadow": "worker",
    "topics.scores": "worker",
    "topics.latents": "worker",
    "topics.reconstructions": "worker",
    "input": "both",
    "input.features": "training",
    "schema_registry": "both",
    "model": "both",
    "model.kind": "training",
    "model.scaler": "training",
    "model.keep": "training",
    "model.probation": "worker",
    "entities": "worker",
    "detection": "both",
    "detection.top_features": "worker",
    "incidents": "worker",
    "incidents.related": "`alerts`",
    "drift": "worker",
    "batch": "worker",
    "training": "training",
    "training.cooldown": "both",
    "http": "worker",
    "log": "both",
    "delivery": "worker",
    "outputs": "worker",
    "event_format": "worker",
    "output_format": "worker",
    "device": "both",
    "threads": "both",
    "traces": "worker",
}


def of(_: str = "") -> str:
    sections = {name: field for name, field in Settings.model_fields.items() if _is_section(field)}
    lone = [(name, field) for name, field in Settings.model_fields.items() if not _is_section(field)]
    parts = ["## The whole worker", _table("", lone)]
    for name, field in sections.items():
        assert isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        parts += [f"## {name}", TITLES.get(name, ""), _table(name, field.annotation.model_fields.items())]
    file = f"`{CONFIG_FILE}` is no setting of the tree: it names the YAML file."
    return "\n\n".join([*parts, file])


def _table(section: str, fields: Iterable[tuple[str, FieldInfo]]) -> str:
    lines = ["| environment, YAML | what it is | default | may be | read by |", "|---|---|---|---|---|"]
    for name, field in fields:
        path = f"{section}.{name}" if section else name
        variable = PREFIX + path.upper().replace(".", "__")
        cells = [
            f"`{variable}`<br>`{path}`",
            _escaped(field.description or ""),
            _default(field),
            _may_be(field),
            READERS.get(path, READERS.get(section, "")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None:
        return "none"
    if _is_duration(field):
        return f"`{_duration(value)}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return "`[]`" if not value else f"`{list(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _is_duration(field: FieldInfo) -> bool:
    """A Duration, or one in all but name: it is read by the same function."""
    reads = get_args(Duration)[1]
    return reads in field.metadata or any(reads in get_args(part) for part in get_args(field.annotation))


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds > size and seconds % size == 0 or seconds == size:
            return f"{seconds / size:g}{unit}" if unit != "d" or seconds > size else "24h"
    return f"{seconds * 1000:g}ms" if 0 < seconds < 1 else f"{seconds:g}s"


def _may_be(field: FieldInfo) -> str:
    kind = "a duration" if _is_duration(field) else _kind(field.annotation)
    return _escaped(", ".join([kind, *_bounds(field.annotation, field.metadata)]))


def _kind(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(each) for each in arguments if each is not type(None))
    if origin is tuple:
        return f"a JSON list of {_kind(arguments[0])}"
    if origin is dict:
        return "a JSON object"
    names = {bool: "`true`, `false`", int: "a whole number", float: "a number", str: "text", SecretStr: "text, secret"}
    return names[annotation]


def _bounds(annotation: Any, metadata: list[Any]) -> list[str]:
    found = list(metadata)
    for part in (annotation, *get_args(annotation)):
        if get_origin(part) is Annotated:
            for each in get_args(part)[1:]:
                found += each.metadata if isinstance(each, FieldInfo) else [each]
    words = {limits.Ge: ("ge", "{} or more"), limits.Gt: ("gt", "more than {}"), limits.Le: ("le", "at most {}")}
    words[limits.Lt] = ("lt", "less than {}")
    told = []
    for each in found:
        if type(each) in words:
            attribute, text = words[type(each)]
            told.append(text.format(f"{getattr(each, attribute):,}"))
        elif isinstance(each, limits.MinLen):
            told.append(f"{each.min_length} characters or more" if each.min_length > 1 else "not empty")
        elif getattr(each, "pattern", None):
            told.append(f"as <code>{each.pattern}</code>")
    return told


def _escaped(text: str) -> str:
    """For a table's cell; in code between backticks a backslash would be shown."""
    return text.replace("|", "&#124;")
