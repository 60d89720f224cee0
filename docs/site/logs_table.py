"""All log events as a table, made of the code: what is logged, how loud, with which fields, and by which file."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LEVELS = ("debug", "info", "warning", "error", "exception")


class LogCall(NamedTuple):
    """A call of a logger. `event` is None where it is no constant; `fields` ends with `...` where not all are named."""

    event: str | None
    level: str
    fields: tuple[str, ...]
    file: str
    line: int


def calls() -> Iterator[LogCall]:
    """Return all calls of `log` in worker/ and training/, in the order of the files."""
    for folder in ("worker", "training"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_logger(node.func):
                    yield _call(node, node.func.attr, str(file.relative_to(ROOT)))


def of(_: str) -> str:
    lines = ["| event | level | fields | logged by |", "|---|---|---|---|"]
    merged: dict[str, list[LogCall]] = {}
    for call in calls():
        merged.setdefault(str(call.event), []).append(call)
    for event, same in sorted(merged.items()):
        fields = dict.fromkeys(field for call in same for field in call.fields)
        levels = dict.fromkeys(call.level for call in same)
        files = dict.fromkeys(call.file for call in same)
        cells = (f"`{event}`", ", ".join(levels), ", ".join(f"`{field}`" for field in fields), ", ".join(files))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _is_logger(function: ast.Attribute) -> bool:
    return function.attr in LEVELS and isinstance(function.value, ast.Name) and function.value.id == "log"


def _call(node: ast.Call, level: str, file: str) -> LogCall:
    first = node.args[0] if node.args else None
    event = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None
    names = [keyword.arg or "..." for keyword in node.keywords]
    # The reason is logged with an exception: no field of that name.
    fields = tuple(name for name in names if name != "exc_info")
    return LogCall(event, "error" if level == "exception" else level, fields, file, node.lineno)
