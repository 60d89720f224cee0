"""`python -m worker label ID confirmed|dismissed`: what a person says of an event or an incident."""

import json
from argparse import Namespace
from typing import Any

import orjson

from worker.blocks.vector_id import VectorId
from worker.errors import SettingsError
from worker.kafka.reader import Reader
from worker.kafka.topics import require
from worker.observability.terminal_text import printable
from worker.publishing import labels
from worker.registry.operator import who
from worker.settings import Settings


def run(settings: Settings, arguments: Namespace) -> None:
    """Write the label of an event or incident."""
    topics = settings.topics
    if VectorId.parse(arguments.id, topics.sensors) is None:
        raise SettingsError(
            f"{arguments.id} is no id of an event or incident of {topics.sensors}: write topic/partition/offset/row, as"
            " `python -m worker alerts` shows it"
        )
    require(settings, reads=[topics.incidents], writes=[topics.labels])
    incident = _incident(settings, arguments.id)
    label = labels.write(settings, arguments.id, arguments.verdict, arguments.who or who(), arguments.note)
    subject = "event" if incident is None else f"incident of {incident['vectors']:,} vectors"
    entity = f" of {incident['entity']}" if incident is not None and incident["entity"] else ""
    text = f"{arguments.verdict}: {subject} {arguments.id}{entity}"
    print(json.dumps(label) if arguments.json else printable(text))


def _incident(settings: Settings, id: str) -> dict[str, Any] | None:
    """Return the incident of this id, if it is its entity's last one."""
    latest = None
    with Reader(settings.kafka, settings.topics.incidents) as reader:
        for block in reader.to_end():
            for value in block.values:
                try:
                    data = orjson.loads(value or b"")["data"]
                    if data["incident"] == id:
                        latest = {"vectors": int(data["vectors"]), "entity": data["entity"]}
                except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
                    continue
    return latest
