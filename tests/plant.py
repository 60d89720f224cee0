"""A plant for tests of the closed loop: its vectors, and what has come of them."""

import json
import time
from typing import Any

import jsonschema
import numpy as np

from tests.models import FEATURES
from tests.stage import Stage
from worker.publishing.cloudevents import schema
from worker.registry import Registry

Rows = np.ndarray

ROWS = 500  # of a summary: of one vector a second of event time
SETTINGS = {
    "OFFNORMAL_DRIFT__ENABLED": "true",
    "OFFNORMAL_INPUT__TIME_FIELD": "t",
    "OFFNORMAL_INPUT__FEATURES": json.dumps(FEATURES),
    "OFFNORMAL_TRAINING__STEPS": "300",
    "OFFNORMAL_TRAINING__COOLDOWN": "1s",
    "OFFNORMAL_TRAINING__MIN_ROWS": "5000",
    "OFFNORMAL_MODEL__KIND": "stacked",
}


class Plant:
    """Sends vectors, a second of event time apart, one machine's to one partition."""

    def __init__(self, stage: Stage):
        self._stage = stage
        self.time = 1_790_000_000  # seconds
        self.sent = 0

    def send(self, x: Rows) -> None:
        """A burst is looked at more coarsely than a stream: they come a few summaries at a time."""
        for begin in range(0, len(x), 4 * ROWS):
            if begin:
                time.sleep(0.6)
            self._send(x[begin : begin + 4 * ROWS])

    def _send(self, x: Rows) -> None:
        values = []
        for row in x.astype(float).tolist():
            doc = {name: None if value != value else value for name, value in zip(FEATURES, row, strict=True)}
            values.append(json.dumps(doc | {"t": self.time}).encode())
            self.time += 1
        self.sent += len(values)
        self._stage.send(values, [b"m1"] * len(values), partition=0)


def history(s: Stage) -> list[tuple[str, str]]:
    return [(entry["what"], entry["why"]) for entry in Registry(s.settings).view().history()]


def drift_events(s: Stage) -> list[dict[str, Any]]:
    events = [json.loads(record.value) for record in s.read(s.topics.drift)]
    for event in events:
        jsonschema.validate(event, schema("drift"))
    return [event["data"] for event in events]
