"""Labels: what a person says of an event or an incident, by the command line or the page.

Training keeps to it: what was dismissed is normal, what was confirmed never is (docs/closed-loop.md).
"""

import re
import time
from typing import Any, Literal, NamedTuple

import orjson

from worker.events import iso
from worker.kafka import connection
from worker.settings import Settings

Verdict = Literal["confirmed", "dismissed"]

_ID = re.compile(r"([a-zA-Z0-9._-]{1,249})/(\d{1,10})/(\d{1,19})/(\d{1,19})", re.ASCII)


class VectorPlace(NamedTuple):
    partition: int
    offset: int
    row: int


def place_of(id: str, topic: str) -> VectorPlace | None:
    """Where the vector lies whose event has this id; None for what is no id of an event or incident of the topic."""
    found = _ID.fullmatch(id)
    if found is None or found[1] != topic:
        return None
    place = VectorPlace(int(found[2]), int(found[3]), int(found[4]))
    return place if place.partition < 2**31 and max(place) < 2**63 else None


def write(
    settings: Settings, id: str, verdict: Verdict, who: str, note: str | None = None, timeout: float | None = None
) -> dict[str, Any]:
    """Writes the label, connected within `timeout` seconds; it as it was written. Raises KafkaError."""
    label = {"id": id, "verdict": verdict, "who": who, "note": note, "time": iso(int(time.time() * 1000))}
    # Keyed by what it is about: what was said last counts.
    record = (id, orjson.dumps(label), [("content-type", b"application/json")])
    connection.write(settings.kafka, settings.topics.labels, [record], timeout=timeout)
    return label
