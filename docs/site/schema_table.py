"""A JSON schema of worker/ as a table: each field of what is published, its type, and what it says."""

from collections.abc import Iterator
from typing import Any

from worker.publishing.cloudevents import schema


def of(name: str) -> str:
    """`anomaly`, `incident`, ...: as in worker/publishing/schemas/anomaly.schema.json."""
    found = schema(name)  # type: ignore[arg-type]
    rows = list(_rows(found, found.get("$defs", {}), ""))
    return "\n".join(["| field | type | what it is |", "|---|---|---|", *rows])


def _rows(told: dict[str, Any], definitions: dict[str, Any], within: str) -> Iterator[str]:
    required = told.get("required", [])
    for name, field in told.get("properties", {}).items():
        field = _resolved(field, definitions)
        path = within + name
        optional = "" if name in required else ", optional"
        yield f"| `{path}` | {_kind(field)}{optional} | {field.get('description', '').replace('|', '&#124;')} |"
        for inner, prefix in _inner(field, definitions, path):
            yield from _rows(inner, definitions, prefix)


def _inner(field: dict[str, Any], definitions: dict[str, Any], path: str) -> Iterator[tuple[dict[str, Any], str]]:
    if "properties" in field:
        yield field, f"{path}."
    if "properties" in field.get("items", {}):
        yield field["items"], f"{path}[]."
    for one in field.get("oneOf", []):
        one = _resolved(one, definitions)
        yield one, f"{path} ({one['properties']['kind']['const']})."


def _resolved(field: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    return definitions[field["$ref"].removeprefix("#/$defs/")] if "$ref" in field else field


def _kind(field: dict[str, Any]) -> str:
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{choice}`" for choice in field["enum"])
    if "oneOf" in field:
        return "object, one of these"
    kinds = field.get("type", "anything")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    shown = " or ".join("time" if kind == "string" and field.get("format") == "date-time" else kind for kind in kinds)
    low, high = field.get("exclusiveMinimum", field.get("minimum")), field.get("maximum")
    if low is not None and high is not None:
        return f"{shown}, {low} to {high}"
    return f"{shown}, {low} or more" if low is not None else shown
