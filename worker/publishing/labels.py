"""Labels: what a person says of an event or an incident, by the command line or the page.

Training keeps to it: what was dismissed is normal, what was confirmed never is (docs/closed-loop.md).
"""

import time
from typing import Any, Literal

import orjson

from worker.blocks.timestamps import iso
from worker.kafka import connection
from worker.settings import Settings

LabelVerdict = Literal["confirmed", "dismissed"]


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
    # Keyed by what it is about: what was said last counts.
    record = (id, orjson.dumps(label), [("content-type", b"application/json")])
    connection.write(settings.kafka, settings.topics.labels, [record], timeout=timeout)
    return label
