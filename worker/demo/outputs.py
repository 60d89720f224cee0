"""The worker's outputs, read from its topics by a reader that shares no code with the loop that wrote them."""

from collections import Counter, deque
from typing import Any

import orjson

from worker.kafka.reader import Reader
from worker.settings import Settings

RecordPlace = tuple[int, int]


class OutputReader:
    """Follows what the worker puts out. Places are (partition, offset): the demo has a row a record."""

    def __init__(self, settings: Settings):
        topics = settings.topics
        self._anomalies = Reader(settings.kafka, topics.anomalies)
        self._incidents = Reader(settings.kafka, topics.incidents)
        self._scores = Reader(settings.kafka, topics.scores)
        self._dead = Reader(settings.kafka, topics.dead_letters)
        self.scored: Counter[RecordPlace] = Counter()
        self.p_values: dict[RecordPlace, float] = {}
        self.versions: Counter[str] = Counter()
        self.events: Counter[RecordPlace] = Counter()
        self.latest: deque[dict[str, Any]] = deque(maxlen=6)
        self.incidents: set[str] = set()
        self.notifications = 0
        self.dead = 0

    def poll(self) -> None:
        """Take in what is new."""
        while (block := self._scores.poll(0.02)) is not None:
            for i in range(len(block)):
                headers = {name: (value or b"").decode() for name, value in block.headers[i]}
                place = _place(headers["offnormal-source"])
                self.scored[place] += 1
                version, _, _trim = headers["offnormal-model"].split("/", 1)[1].partition("+")
                self.versions[version] += 1
                self.p_values[place] = orjson.loads(block.values.view(i))["rows"][0][1]
        while (block := self._anomalies.poll(0.02)) is not None:
            for value in block.values:
                event = orjson.loads(value or b"{}")
                self.events[_place(event["id"].rsplit("/", 1)[0])] += 1
                self.latest.append(event)
        while (block := self._incidents.poll(0.02)) is not None:
            for value in block.values:
                incident = orjson.loads(value or b"{}")["data"]
                self.incidents.add(incident["incident"])
                self.notifications += incident["notify"]
        while (block := self._dead.poll(0.02)) is not None:
            self.dead += len(block)

    def close(self) -> None:
        """Close the readers."""
        for reader in (self._anomalies, self._incidents, self._scores, self._dead):
            reader.close()


def _place(source: str) -> RecordPlace:
    _, partition, offset = source.split("/")[:3]  # and the row, if it is of a vector
    return int(partition), int(offset)
