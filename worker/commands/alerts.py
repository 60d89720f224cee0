"""`python -m worker alerts`: follows the anomalies topic in the terminal, as readable lines or as JSON for pipes."""

import time
from argparse import Namespace
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape

from worker.errors import SettingsError
from worker.kafka.reader import Reader
from worker.kafka.topics import require
from worker.settings import Settings, start_time


def run(settings: Settings, arguments: Namespace) -> None:
    topic = settings.topics.anomalies
    require(settings, [topic])
    console = Console(highlight=False, soft_wrap=True)
    with Reader(settings.kafka, topic) as reader:
        _seek(reader, arguments.since)
        while True:
            block = reader.poll(0.5)
            for value in block.values if block else ():
                _show(console, value, arguments)
            if block is None and arguments.until_end and reader.caught_up():
                return


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


def _show(console: Console, value: bytes | None, arguments: Namespace) -> None:
    try:
        event = orjson.loads(value or b"")
        line = describe(event)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        console.print("[dim]a record that is no anomaly event[/dim]")
        return
    if arguments.entity is not None and event["data"]["entity"] != arguments.entity:
        return
    if arguments.json:
        print((value or b"").decode(), flush=True)
    else:
        console.print(line)


def describe(event: dict[str, Any]) -> str:
    """An anomaly event as one line of rich markup: when, what, how sure, and the guiltiest sensors."""
    data = event["data"]
    colour = "red" if data["severity"] == "alarm" else "yellow"
    sensors = ", ".join(_sensor(feature) for feature in data["features"][:3])
    return (
        f"[dim]{escape(data['time'])}[/dim] [{colour}]{escape(data['severity']):<7}[/{colour}]"
        f" [bold]{escape(str(data['entity'] or '-'))}[/bold]  score {data['score']:.2f} (over {data['threshold']:.2f})"
        f"  p {data['p_value']:.1e}  {sensors}  [dim]{escape(event['id'])}[/dim]"
    )


def _sensor(feature: dict[str, Any]) -> str:
    actual = "missing" if feature["missing"] else f"{feature['actual']:.4g}"
    return f"{escape(feature['name'])} {feature['contribution']:.0%} ({actual}, expected {feature['expected']:.4g})"
