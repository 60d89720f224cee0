"""The training window: the recent vectors of a model from Kafka, each with those before it if the model has windows,
evenly thinned out, with what is known of them. Memory is bounded by OFFNORMAL_TRAINING__MAX_ROWS.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from training import schema
from training.evidence import Evidence, Flags, Known
from worker.kafka.reader import Reader
from worker.router import Router
from worker.schema_registry import SchemaRegistry
from worker.settings import ModelSettings, Settings
from worker.vectors import Decoder, RecordBlock, VectorBlock
from worker.vectors.identity import identities
from worker.windows import Windows

# Vectors of confirmed anomalies, which are kept whatever is thinned out.
MOST_CONFIRMED: Final = 10_000


@dataclass(frozen=True)
class Window:
    """Rows in the order of their event time. `x` [n, D] are vectors, or the coefficients of their windows; `time` [n]
    is in ms, `known` [n] what is known of them (evidence.Known), `entity` [n] whose they are, an index of `entities`.

    `offsets` is partition -> [first, last] read; `seen` counts the rows before thinning out, `rejected` the records
    that did not parse, `cold` the rows whose window was not full. `confirmed` are the vectors that people have called
    anomalies, all of them but for those beyond MOST_CONFIRMED. `drift` is when the last drift of the model began, in
    ms.
    """

    features: tuple[str, ...]
    x: npt.NDArray[np.float32]
    time: npt.NDArray[np.int64]
    known: Flags
    entity: npt.NDArray[np.int64]
    entities: tuple[str, ...]
    seen: int
    rejected: int
    cold: int
    offsets: dict[int, list[int]]
    confirmed: npt.NDArray[np.float32]
    confirmed_of: npt.NDArray[np.int64]
    drift: int | None = None

    def __len__(self) -> int:
        return len(self.x)

    def is_known(self, what: Known) -> npt.NDArray[np.bool_]:
        """[n] Of which rows any of this is known."""
        found: npt.NDArray[np.bool_] = (self.known & int(what)) > 0
        return found


def read(settings: Settings, champion: Sequence[str] | None, progress: Callable[[int], None]) -> Window:
    """Reads the window of OFFNORMAL_TRAINING__LOOKBACK; `progress` is told the rows seen so far.

    Raises KafkaError, SettingsError, and NoModelError where the features cannot be told.
    """
    with Reader(settings.kafka, settings.topics.sensors) as reader:
        since = reach(reader, settings.training.lookback)
        evidence = Evidence.read(settings, since)
        reader.seek(reader.offsets_at(since))
        first, blocks = _look_ahead(reader.to_end())
        registry = SchemaRegistry.of(settings, patience=settings.kafka.startup_timeout)
        features = schema.choose(settings.input, champion, first, registry)
        decoder, router = Decoder(settings.input, features, registry), _router(settings.model)
        windows = _windows(settings, len(features))
        entities = _Entities()
        sample, confirmed = _EvenSample(settings.training.max_rows), _EvenSample(MOST_CONFIRMED)
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
                rows: Columns = (block.x, block.time, evidence.flags(block), entities.of(block))
                if windows is not None:
                    windowed = windows.push(block)
                    cold += int(np.count_nonzero(windowed.cold))
                    rows = tuple(column[~windowed.cold] for column in (windowed.x, *rows[1:]))
                sample.add(rows)
                is_confirmed = (rows[2] & Known.CONFIRMED) > 0
                if is_confirmed.any():
                    confirmed.add(tuple(column[is_confirmed] for column in rows))
            progress(sample.seen)
    nothing = (np.empty((0, len(features)), np.float32), *_NOTHING)
    x, times, flags, entity = sample.rows(nothing)
    confirmed_x, _, _, confirmed_of = confirmed.rows(nothing)
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
        confirmed_x,
        confirmed_of,
        evidence.drift,
    )


def reach(reader: Reader, lookback: float) -> int:
    """Where the window begins, in ms: so many seconds before the newest record. A plant that has stopped is looked at
    as it last ran.
    """
    now = int(time.time() * 1000)
    newest = reader.newest()
    return min(now, now if newest is None else newest) - int(lookback * 1000)


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

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._numbers)

    def of(self, block: VectorBlock) -> npt.NDArray[np.int64]:
        """[n]"""
        _, first, inverse = np.unique(identities(block), return_index=True, return_inverse=True)
        names = [block.entity_of_record(r) or "" for r in first.tolist()]
        numbers = np.array([self._numbers.setdefault(name, len(self._numbers)) for name in names], np.int64)
        return numbers[inverse][block.record] if len(names) else np.zeros(len(block), np.int64)


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


Columns = tuple[npt.NDArray[Any], ...]  # of the same length
_NOTHING: Final = (np.empty(0, np.int64), np.empty(0, np.uint8), np.empty(0, np.int64))


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
