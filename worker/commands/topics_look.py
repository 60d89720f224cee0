"""`python -m worker topics --look`: shows what the last records are, and the settings that read them."""

import json
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Final

from worker.decoding.event_time import moment
from worker.errors import SettingsError
from worker.inference.columns import HINTS
from worker.inference.suggestion import Suggestion, suggest
from worker.observability.terminal_text import printable
from worker.settings import Settings
from worker.settings.fields import PREFIX

_SHOWN: Final = 10  # names in a line


def run(settings: Settings, arguments: Namespace) -> int:
    """Show what the last records are, and the settings that read them; return 0, or 2 if they cannot be read."""
    suggestion = suggest(settings)
    topic = settings.topics.sensors
    if not suggestion.records:
        print(f"{topic} has no records yet")
        return 0
    for name, value in _lines(suggestion):
        print(printable(f"{name:<12} {value}".rstrip()))
    if suggestion.settings:
        print("\nSettings to copy:\n")
        for name, value in suggestion.settings.items():
            print(printable(f"    {PREFIX}INPUT__{name.upper()}={value}"))
    elif suggestion.names("reading"):
        print("\nThe settings fit.")
    if arguments.json:
        print(json.dumps(_document(suggestion)))
    return 0 if suggestion.names("reading") or suggestion.inputs.features else 2


def _lines(suggestion: Suggestion) -> Iterator[tuple[str, str]]:
    inputs = suggestion.inputs
    yield "records", f"the last {suggestion.records}"
    yield "shape", inputs.shape
    yield "entity", f"{inputs.entity_field or 'the key of the record'}: {_some(suggestion.entities)}"
    if suggestion.time is None:
        yield "time", f"{inputs.time_field or inputs.time_header or 'the timestamp of the record'}"
    else:
        first, last = (moment(time).isoformat(timespec="seconds") for time in suggestion.time)
        yield "time", f"{inputs.time_field or inputs.time_header}: {first} to {last}"
    yield "readings", _some(suggestion.names("reading"))
    for kind in HINTS:
        if names := suggestion.names(kind):
            yield "no reading", f"{_some(names)} ({kind})"
    if suggestion.error:
        yield "problem", suggestion.error
    if suggestion.seen.wrong:
        try:
            yield "problem", suggestion.seen.summary()
        except SettingsError as error:
            yield "problem", str(error)
    yield "a record", suggestion.sample


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "none") + more


def _document(suggestion: Suggestion) -> dict[str, object]:
    return {
        "records": suggestion.records,
        "shape": suggestion.inputs.shape,
        "settings": {f"{PREFIX}INPUT__{name.upper()}": value for name, value in suggestion.settings.items()},
        "entities": suggestion.entities,
        "readings": suggestion.names("reading"),
        "others": {column.name: column.kind for column in suggestion.columns if column.kind != "reading"},
    }
