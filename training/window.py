"""The training window: the recent vectors from Kafka, evenly thinned out, and which of them were published as
anomalies. Memory is bounded by OFFNORMAL_TRAINING__MAX_ROWS.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from training import schema
from worker.kafka.reader import Reader
from worker.settings import Settings
from worker.vectors import Decoder, RecordBlock, VectorBlock

Place = tuple[int, int, int]  # partition, offset, row

# An event is written after its vector was; clocks of producers may be ahead of the broker's.
_EVENT_SLACK_MS: Final = 3_600_000


@dataclass(frozen=True)
class Window:
    """Rows in the order of their event time. `x` [n, d], `time` [n] in ms, `named` [n]: published as an anomaly.

    `offsets` is partition -> [first, last] read; `seen` counts the rows before thinning out, `rejected` the records
    that did not parse.
    """

    features: tuple[str, ...]
    x: npt.NDArray[np.float32]
    time: npt.NDArray[np.int64]
    named: npt.NDArray[np.bool_]
    seen: int
    rejected: int
    offsets: dict[int, list[int]]

    def __len__(self) -> int:
        return len(self.x)


def read(settings: Settings, champion: Sequence[str] | None, progress: Callable[[int], None]) -> Window:
    """Reads the window of OFFNORMAL_TRAINING__LOOKBACK; `progress` is told the rows seen so far.

    Raises KafkaError, SettingsError, and NoModelError where the features cannot be told.
    """
    since = int((time.time() - settings.training.lookback) * 1000)
    named = _named_places(settings, since)
    with Reader(settings.kafka, settings.topics.sensors) as reader:
        reader.seek(reader.offsets_at(since))
        first, blocks = _look_ahead(reader.to_end())
        features = schema.choose(settings.input, champion, first)
        decoder = Decoder(settings.input, features)
        sample = _EvenSample(settings.training.max_rows, len(features))
        rejected, offsets = 0, dict[int, list[int]]()
        for records in blocks:
            block = decoder.decode(records)
            rejected += len(block.rejects)
            sample.add(block, _flags(block, named))
            for partition, end in records.ends().items():
                begin = int(records.offset[records.partition == partition][0])
                offsets.setdefault(partition, [begin, begin])[1] = end - 1
            progress(sample.seen)
    x, times, flags = sample.rows()
    order = np.argsort(times, kind="stable")
    return Window(features, x[order], times[order], flags[order], sample.seen, rejected, offsets)


def _look_ahead(blocks: Iterator[RecordBlock]) -> tuple[list[RecordBlock], Iterator[RecordBlock]]:
    """The first records, to tell the features from, and all of them again."""
    first: list[RecordBlock] = []
    for block in blocks:
        first.append(block)
        if sum(map(len, first)) >= schema.LOOK_AT:
            break

    def again() -> Iterator[RecordBlock]:
        yield from first
        yield from blocks

    return first, again()


def _named_places(settings: Settings, since: int) -> set[Place]:
    """Where the vectors lie that were published as anomalies."""
    topic, places = settings.topics.sensors, set()
    with Reader(settings.kafka, settings.topics.anomalies) as reader:
        reader.seek(reader.offsets_at(since - _EVENT_SLACK_MS))
        for block in reader.to_end():
            for value in block.values:
                place = _place(value, topic)
                if place is not None:
                    places.add(place)
    return places


def _place(value: bytes | None, topic: str) -> Place | None:
    try:
        event: Any = orjson.loads(value or b"")
        of, partition, offset, row = event["id"].rsplit("/", 3)
        return (int(partition), int(offset), int(row)) if of == topic else None
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return None  # somebody else's record: no concern of training


def _flags(block: VectorBlock, named: set[Place]) -> npt.NDArray[np.bool_]:
    if not named:
        return np.zeros(len(block), bool)
    partition, offset = block.records.partition[block.record], block.records.offset[block.record]
    places = zip(partition.tolist(), offset.tolist(), block.row.tolist(), strict=True)
    return np.fromiter((place in named for place in places), bool, len(block))


class _EvenSample:
    """Every k-th row of a stream of unknown length, at most `limit`: when full, every second row goes and k doubles."""

    def __init__(self, limit: int, width: int):
        self._limit = limit
        self._stride = 1
        self._x = [np.empty((0, width), np.float32)]
        self._time = [np.empty(0, np.int64)]
        self._flags = [np.empty(0, bool)]
        self._kept = 0
        self.seen = 0

    def add(self, block: VectorBlock, flags: npt.NDArray[np.bool_]) -> None:
        first = -self.seen % self._stride
        self.seen += len(block)
        self._x.append(block.x[first :: self._stride].copy())
        self._time.append(block.time[first :: self._stride])
        self._flags.append(flags[first :: self._stride])
        self._kept += len(self._time[-1])
        while self._kept > self._limit:
            x, times, kept = self.rows()
            self._x, self._time, self._flags = [x[::2].copy()], [times[::2].copy()], [kept[::2].copy()]
            self._kept = len(self._time[0])
            self._stride *= 2

    def rows(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        return np.concatenate(self._x), np.concatenate(self._time), np.concatenate(self._flags)
