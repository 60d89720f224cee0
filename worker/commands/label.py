"""`python -m worker label ID confirmed|dismissed`: what a person says of an event or an incident.

Training keeps to it: what was dismissed is normal, what was confirmed never is (docs/closed-loop.md).
"""

import json
import re
import time
from argparse import Namespace
from typing import Any

import orjson

from worker.errors import SettingsError
from worker.events import iso
from worker.kafka import connection
from worker.kafka.reader import Reader
from worker.kafka.topics import require
from worker.settings import Settings
from worker.who import who

_PLACE = re.compile(r"([a-zA-Z0-9._-]{1,249})/(\d{1,10})/(\d{1,19})/(\d{1,19})")


def run(settings: Settings, arguments: Namespace) -> None:
    topics = settings.topics
    place = _PLACE.fullmatch(arguments.id)
    if place is None or place[1] != topics.sensors:
        raise SettingsError(
            f"{arguments.id}: no id of an event or incident of {topics.sensors}: topic/partition/offset/row, as"
            " `python -m worker alerts` shows"
        )
    require(settings, reads=[topics.incidents], writes=[topics.labels])
    incident = _incident(settings, arguments.id)
    label = {
        "id": arguments.id,
        "verdict": arguments.verdict,
        "who": arguments.who or who(),
        "note": arguments.note,
        "time": iso(int(time.time() * 1000)),
    }
    # Keyed by what it is about: what was said last counts.
    record = (arguments.id, orjson.dumps(label), [("content-type", b"application/json")])
    connection.write(settings.kafka, topics.labels, [record])
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
