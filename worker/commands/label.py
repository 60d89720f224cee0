"""`python -m worker label ID confirmed|dismissed`: what a person says of an event or an incident."""

import json
from argparse import Namespace
from typing import Any

import orjson

from worker import labels
from worker.errors import SettingsError
from worker.kafka.reader import Reader
from worker.kafka.topics import require
from worker.settings import Settings
from worker.who import who


def run(settings: Settings, arguments: Namespace) -> None:
    topics = settings.topics
    if labels.place_of(arguments.id, topics.sensors) is None:
        raise SettingsError(
            f"{arguments.id}: no id of an event or incident of {topics.sensors}: topic/partition/offset/row, as"
            " `python -m worker alerts` shows"
        )
    require(settings, reads=[topics.incidents], writes=[topics.labels])
    incident = _incident(settings, arguments.id)
    label = labels.write(settings, arguments.id, arguments.verdict, arguments.who or who(), arguments.note)
    what = "event" if incident is None else f"incident of {incident['vectors']:,} vectors"
    entity = f" of {incident['entity']}" if incident is not None and incident["entity"] else ""
    print(json.dumps(label) if arguments.json else f"{arguments.verdict}: {what} {arguments.id}{entity}")


def _incident(settings: Settings, id: str) -> dict[str, Any] | None:
    """The incident of this id, if it is its entity's last one."""
    found = None
    with Reader(settings.kafka, settings.topics.incidents) as reader:
        for block in reader.to_end():
            for value in block.values:
                try:
                    data = orjson.loads(value or b"")["data"]
                    if data["incident"] == id:
                        found = {"vectors": int(data["vectors"]), "entity": data["entity"]}
                except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
                    continue
    return found
