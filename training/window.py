"""The training window: the recent vectors of a model from Kafka, each with those before it if the model has windows,
evenly thinned out; and which of them were published as anomalies. Memory is bounded by OFFNORMAL_TRAINING__MAX_ROWS.
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
from worker.router import Router
from worker.settings import ModelSettings, Settings
from worker.vectors import Decoder, RecordBlock, VectorBlock
from worker.vectors.identity import names as entity_names
from worker.windows import Windows

Place = tuple[int, int, int]  # partition, offset, row

# An event is written after its vector was; clocks of producers may be ahead of the broker's.
_EVENT_SLACK_MS: Final = 3_600_000


@dataclass(frozen=True)
class Window:
    """Rows in the order of their event time. `x` [n, D] are vectors, or the coefficients of their windows; `time` [n]
    is in ms, `named` [n] says which were published as anomalies, `entity` [n] whose they are, an index of `entities`.

    `offsets` is partition -> [first, last] read; `seen` counts the rows before thinning out, `rejected` the records
    that did not parse, `cold` the rows whose window was not full.
    """

    features: tuple[str, ...]
    x: npt.NDArray[np.float32]
    time: npt.NDArray[np.int64]
    named: npt.NDArray[np.bool_]
    entity: npt.NDArray[np.int64]
    entities: tuple[str, ...]
    seen: int
    rejected: int
    cold: int
    offsets: dict[int, list[int]]

    def __len__(self) -> int:
        return len(self.x)


def read(settings: Settings, champion: Sequence[str] | None, progress: Callable[[int], None]) -> Window:
    """Reads the window of OFFNORMAL_TRAINING__LOOKBACK; `progress` is told the rows seen so far.

    Raises KafkaError, SettingsError, and NoModelError where the features cannot be told.
    """
    since = int((time.time() - settings.training.lookback) * 1000)
    named = _Named.read(settings, since)
    with Reader(settings.kafka, settings.topics.sensors) as reader:
        reader.seek(reader.offsets_at(since))
        first, blocks = _look_ahead(reader.to_end())
        features = schema.choose(settings.input, champion, first)
        decoder, router = Decoder(settings.input, features), _router(settings.model)
        windows = _windows(settings, len(features))
        entities = _Entities(settings.model.scaler == "entity")
        sample = _EvenSample(settings.training.max_rows)
        rejected, cold, offsets = 0, 0, dict[int, list[int]]()
        for records in blocks:
            for partition, end in records.ends().items():
                begin = int(records.offset[records.partition == partition][0])
                offsets.setdefault(partition, [begin, begin])[1] = end - 1
            for model, part in router.split(records):
                if model != settings.model.name:
                    continue
                block = decoder.decode(part)
                rejected += len(block.rejects)
                rows: Columns = (block.x, block.time, named.flags(block), entities.of(block))
                if windows is not None:
                    windowed = windows.push(block)
                    cold += int(np.count_nonzero(windowed.cold))
                    rows = tuple(column[~windowed.cold] for column in (windowed.x, *rows[1:]))
                sample.add(rows)
            progress(sample.seen)
    x, times, flags, entity = sample.rows((np.empty((0, len(features)), np.float32), *_NOTHING))
    order = np.argsort(times, kind="stable")
    return Window(
        features,
        x[order],
        times[order],
        flags[order],
        entity[order],
        entities.names,
        sample.seen,
        rejected,
        cold,
        offsets,
    )


def _router(model: ModelSettings) -> Router:
    """A model of a route learns from its records; any other from those that no route takes."""
    return Router(model.routes, None if model.name in model.routes.values() else model.name)


def _windows(settings: Settings, width: int) -> Windows | None:
    window = settings.model.window
    if window == 1:
        return None
    return Windows(window, width, settings.detection.max_missing, settings.input, settings.entities)


class _Entities:
    """Numbers the entities as they come."""

    def __init__(self, wanted: bool):
        self._wanted = wanted
        self._numbers: dict[str, int] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._numbers)

    def of(self, block: VectorBlock) -> npt.NDArray[np.int64]:
        """[n] All 0 where nobody asks."""
        if not self._wanted:
            return np.zeros(len(block), np.int64)
        of_record = np.zeros(len(block.records), np.int64)
        for r, name in enumerate(entity_names(block)):
            told = "" if name is None else name.decode("utf-8", "replace")
            of_record[r] = self._numbers.setdefault(told, len(self._numbers))
        return of_record[block.record]


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


class _Named:
    """Where the vectors lie that were published as anomalies."""

    def __init__(self, places: set[Place]):
        self._places = places
        self._offsets = np.unique(np.fromiter((offset for _, offset, _ in places), np.int64, len(places)))

    @classmethod
    def read(cls, settings: Settings, since: int) -> "_Named":
        topic, places = settings.topics.sensors, set()
        with Reader(settings.kafka, settings.topics.anomalies) as reader:
            reader.seek(reader.offsets_at(since - _EVENT_SLACK_MS))
            for block in reader.to_end():
                for value in block.values:
                    place = _place(value, topic)
                    if place is not None:
                        places.add(place)
        return cls(places)

    def flags(self, block: VectorBlock) -> npt.NDArray[np.bool_]:
        """[n] Most rows are told apart by their offsets alone, without a Python object each."""
        partition, offset = block.records.partition, block.records.offset
        found: npt.NDArray[np.bool_] = np.isin(offset, self._offsets)[block.record]
        for i in np.flatnonzero(found):
            record = block.record[i]
            found[i] = (int(partition[record]), int(offset[record]), int(block.row[i])) in self._places
        return found


def _place(value: bytes | None, topic: str) -> Place | None:
    try:
        event: Any = orjson.loads(value or b"")
        of, partition, offset, row = event["id"].rsplit("/", 3)
        return (int(partition), int(offset), int(row)) if of == topic else None
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return None  # somebody else's record: no concern of training


Columns = tuple[npt.NDArray[Any], ...]  # of the same length
_NOTHING: Final = (np.empty(0, np.int64), np.empty(0, bool), np.empty(0, np.int64))


class _EvenSample:
    """Every k-th row of a stream of unknown length, at most `limit`: when full, every second row goes and k doubles."""

    def __init__(self, limit: int):
        self._limit = limit
        self._stride = 1
        self._parts: list[Columns] = []
        self._kept = 0
        self.seen = 0

    def add(self, rows: Columns) -> None:
        first = -self.seen % self._stride
        self.seen += len(rows[0])
        self._parts.append(tuple(column[first :: self._stride].copy() for column in rows))
        self._kept += len(self._parts[-1][0])
        while self._kept > self._limit:
            self._parts = [tuple(column[::2].copy() for column in self._joined())]
            self._kept = len(self._parts[0][0])
            self._stride *= 2

    def rows(self, nothing: Columns) -> Columns:
        """All that was kept; `nothing`, if nothing was."""
        return self._joined() if self._parts else nothing

    def _joined(self) -> Columns:
        return tuple(np.concatenate(columns) for columns in zip(*self._parts, strict=True))
