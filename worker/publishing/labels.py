"""Labels: what a person says of an event, an incident or a sensor's fault, by the command line or the page.

Training respects labels: dismissed vectors are normal, confirmed ones never are (docs/closed-loop.md).
"""

import time
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import orjson

from worker.blocks import TopicSet
from worker.blocks.timestamps import iso
from worker.blocks.vector_id import VectorId
from worker.drift.findings import is_sensor_id
from worker.kafka import connection
from worker.settings import Settings

LabelVerdict = Literal["confirmed", "dismissed"]
_VERDICTS: Final = get_args(LabelVerdict)


@dataclass(frozen=True)
class Label:
    """What `author` said at `time` of the event, incident or fault `id`. All texts are as the record has them."""

    id: str
    verdict: LabelVerdict
    author: str
    time: str


def read_label(value: bytes | None, topics: TopicSet) -> Label | None:
    """Return the label of a record, or None if it is malformed or about a vector of none of the topics."""
    try:
        document = orjson.loads(value or b"")
        id, verdict = document["id"], document["verdict"]
        if (VectorId.parse(id, topics) is None and not is_sensor_id(id)) or verdict not in _VERDICTS:
            return None
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return Label(id, verdict, str(document.get("who") or ""), str(document.get("time") or ""))


def write(
    settings: Settings,
    id: str,
    verdict: LabelVerdict,
    author: str,
    note: str | None = None,
    timeout: float | None = None,
) -> dict[str, Any]:
    """Write the label and return it. Raises KafkaUnavailable.

    Connecting takes at most `timeout` seconds.
    """
    label = {"id": id, "verdict": verdict, "who": author, "note": note, "time": iso(int(time.time() * 1000))}
    # Keyed by event or incident, so that the latest label counts.
    record = (id, orjson.dumps(label), [("content-type", b"application/json")])
    connection.write(settings.kafka, settings.topics.labels, [record], timeout=timeout)
    return label
