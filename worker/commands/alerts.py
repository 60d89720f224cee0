"""`python -m worker alerts`: follows incidents or single events, as readable lines, or as JSON for pipes."""

import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import orjson
from rich.console import Console

from worker.commands.related import Related
from worker.errors import SettingsError
from worker.kafka.reader import Reader
from worker.kafka.topics import require
from worker.observability.terminal_text import printable
from worker.publishing import event_lines
from worker.publishing.event_reader import EventReader
from worker.schema_registry import SchemaRegistry
from worker.settings import Settings, start_time

Line = Callable[[dict[str, Any]], str | None]  # of an event; None where it tells nothing new


def run(settings: Settings, arguments: Namespace) -> None:
    """Follow incidents, or single events, and print each as a line."""
    topics = settings.topics
    topic, line = (
        (topics.anomalies, event_lines.anomaly) if arguments.events else (topics.incidents, IncidentLines(settings))
    )
    require(settings, reads=[topic])
    console = Console(highlight=False, soft_wrap=True)
    events = EventReader(SchemaRegistry.of(settings, patience=settings.kafka.startup_timeout))
    with Reader(settings.kafka, topic) as reader:
        _seek(reader, arguments.since)
        while True:
            block = reader.poll(0.5)
            for value in block.values if block else ():
                _show(console, value, events, line, arguments)
            if block is None and arguments.until_end and reader.caught_up():
                return


class IncidentLines:
    """A line when an incident opens, when it rises to an alarm, and when it closes: not at each update."""

    def __init__(self, settings: Settings):
        self._related = Related(settings.incidents.related)
        self._shown: dict[str, tuple[str, str]] = {}  # open incidents -> state and severity that were shown last

    def __call__(self, event: dict[str, Any]) -> str | None:
        """Return the line of an incident; None if nothing worth a line has changed."""
        data = event["data"]
        related = self._related.take(data)
        now = (data["state"], data["severity"])
        if self._shown.get(data["incident"]) == now:
            return None
        line = event_lines.incident(event, related)
        self._shown[data["incident"]] = now
        if data["state"] == "closed":
            del self._shown[data["incident"]]
        return line


def _seek(reader: Reader, since: str) -> None:
    if since == "latest":
        reader.seek_to_end()
    elif since != "earliest":
        try:
            # The command line would take "-1h" for an option: here an hour ago is "1h".
            ago = since if since.startswith("-") or not since[-1:].isalpha() else f"-{since}"
            moment = start_time(since if since.endswith("Z") else ago, time.time())
        except ValueError as error:
            raise SettingsError(f"--since: {error}") from None
        reader.seek(reader.offsets_at(int(moment * 1000)))


def _show(console: Console, value: bytes | None, events: EventReader, line: Line, arguments: Namespace) -> None:
    try:
        event = events.event(value)
        text, entity = line(event), event["data"]["entity"]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        console.print(f"[dim]a record that is not an {'anomaly event' if arguments.events else 'incident'}[/dim]")
        return
    if arguments.entity is not None and entity != arguments.entity:
        return
    if arguments.json:
        whole = orjson.dumps(event).decode()  # JSON does not escape all control characters that a terminal interprets
        print(printable(whole) if console.is_terminal else whole, flush=True)
    elif text is not None:
        console.print(text)
