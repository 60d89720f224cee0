"""`python -m worker label ID confirmed|dismissed`: what a person says of an event, an incident or a sensor's fault."""

import json
from argparse import Namespace
from typing import Any

import orjson

from worker.blocks import TopicSet
from worker.blocks.vector_id import VectorId
from worker.drift.findings import is_sensor_id
from worker.errors import SettingsError
from worker.kafka.reader import Reader
from worker.kafka.topics import require
from worker.observability.terminal_text import printable
from worker.publishing import labels
from worker.registry.operator import who
from worker.settings import Settings


def run(settings: Settings, arguments: Namespace) -> None:
    """Write the label of an event, an incident or a sensor's fault."""
    topics = settings.topics
    id = arguments.id.partition("#")[0] if is_sensor_id(arguments.id) else arguments.id
    if not is_sensor_id(id) and VectorId.parse(id, TopicSet.of(topics.sensors)) is None:
        raise SettingsError(
            f"{id} is no id of an event or incident of {topics.sensors}: write topic/partition/offset/row, as `python"
            " -m worker alerts` shows it; or the id of a sensor's fault, as the log line sensor_fault_detected shows it"
        )
    require(settings, reads=[topics.incidents], writes=[topics.labels])
    incident = None if is_sensor_id(id) else _incident(settings, id)
    label = labels.write(settings, id, arguments.verdict, arguments.who or who(), arguments.note)
    if is_sensor_id(id):
        subject = "sensor's fault"
    else:
        subject = "event" if incident is None else f"incident of {incident['vectors']:,} vectors"
    entity = f" of {incident['entity']}" if incident is not None and incident["entity"] else ""
    text = f"{arguments.verdict}: {subject} {id}{entity}"
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
