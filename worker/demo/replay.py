"""The demo's data: the shuttle's sensors and their labels, replayed into Kafka at a given pace."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from worker.errors import OffnormalError
from worker.kafka import connection
from worker.native.arrays import Bools
from worker.settings import KafkaSettings

PARTITIONS = 4


@dataclass(frozen=True)
class Rows:
    """`records` [n] JSON values; `anomalous` [n] the labels, which nothing but the summary ever sees."""

    records: Sequence[bytes]
    anomalous: Bools

    def __len__(self) -> int:
        return len(self.records)


def shuttle() -> Rows:
    """Return 49,097 vectors of 9 sensors of NASA's shuttle, from river's wheel."""
    try:
        from river.datasets import Shuttle
    except ImportError:
        raise OffnormalError("the demo's data are not installed: pip install 'offnormal[demo]'") from None
    records, labels = [], []
    for reading, label in Shuttle():
        records.append(orjson.dumps(reading))
        labels.append(bool(label))
    return Rows(records, np.array(labels))


class Replay(threading.Thread):
    """Sends rows in order, row i to partition i % PARTITIONS, `pace` a second (0: at once).

    After `hold_at` rows it waits until `released` is set. `places()` returns where each acknowledged row lies. The
    thread starts when its `with` block begins, and sends nothing after the block's end.
    """

    def __init__(self, settings: KafkaSettings, topic: str, rows: Rows, pace: float, hold_at: int | None = None):
        super().__init__(name="replay", daemon=True)
        self._producer = connection.producer(settings, linger_ms=5)
        self._topic, self._rows, self._pace = topic, rows, pace
        self._hold_at = len(rows) if hold_at is None else hold_at
        self._futures: list[Any] = []
        self.released = threading.Event()
        self._cancelled = threading.Event()
        self.done = threading.Event()

    def __enter__(self) -> "Replay":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._cancelled.set()

    @property
    def sent(self) -> int:
        """Return how many rows have been sent."""
        return len(self._futures)

    def run(self) -> None:
        """Send the records at the pace."""
        started = time.monotonic()
        for i in range(len(self._rows)):
            if i == self._hold_at:
                while not self.released.wait(0.1) and not self._cancelled.is_set():
                    started += 0.1
            if self._cancelled.is_set():
                break
            if self._pace and (ahead := i / self._pace - (time.monotonic() - started)) > 0.01:
                time.sleep(ahead)
            self._futures.append(self._send(i))
        self._producer.flush(timeout=30)
        self._producer.close(timeout=5)
        self.done.set()

    def _send(self, i: int) -> Any:
        """Send a row; return what is told of it."""
        return self._send_record(i, self._rows.records[i])

    def _send_record(self, i: int, value: bytes) -> Any:
        return self._producer.send(self._topic, value, b"orbiter-%d" % (i % PARTITIONS), partition=i % PARTITIONS)

    def first_acknowledged(self) -> bool:
        """Return whether each partition has a row."""
        first = self._futures[:PARTITIONS]
        return len(first) == PARTITIONS and all(f.succeeded() for f in first)

    def places(self) -> dict[tuple[int, int], int]:
        """Return the index of each row that the broker has acknowledged, by partition and offset."""
        places = {}
        for i, future in enumerate(self._futures):
            if future.succeeded():
                metadata = future.value
                places[metadata.partition, metadata.offset] = i
        return places


class TagReplay(Replay):
    """Sends each reading of a row as a record of its own; the rows of an orbiter are a second apart in event time.

    Row i is at the time `begin` [ms] and i // PARTITIONS seconds. Its vector is made, without any lateness, by the
    first reading of the orbiter's next row, or by one more reading at the end.
    """

    def __init__(
        self, settings: KafkaSettings, topic: str, rows: Rows, pace: float, begin: int, hold_at: int | None = None
    ):
        super().__init__(settings, topic, rows, pace, hold_at)
        self._begin = begin
        self._last: list[Any] = []

    def _send(self, i: int) -> Any:
        records = self._readings(i, i)
        sent = [self._send_record(i, record) for record in records]
        if i == len(self._rows) - 1:
            self._last = [self._send_record(k, self._readings(0, k)[0]) for k in range(i + 1, i + 1 + PARTITIONS)]
        return sent

    def _readings(self, row: int, i: int) -> list[bytes]:
        """Return the readings of a row as records, at the time of row i."""
        time_ms = self._begin + i // PARTITIONS * 1000
        readings = orjson.loads(self._rows.records[row])
        return [orjson.dumps({"tag": tag, "value": value, "time": time_ms}) for tag, value in readings.items()]

    def first_acknowledged(self) -> bool:
        """Return whether each partition has a row."""
        first = self._futures[:PARTITIONS]
        return len(first) == PARTITIONS and all(row[-1].succeeded() for row in first)

    def places(self) -> dict[tuple[int, int], int]:
        """Return the index of each row, by the partition and offset of the record that makes its vector."""
        following = [row[0] for row in self._futures[PARTITIONS:]] + self._last
        return {(made.value.partition, made.value.offset): i for i, made in enumerate(following) if made.succeeded()}
