"""The training window: the recent vectors of a model from Kafka, evenly thinned out.

If the model has windows, each row covers a window of vectors. Each row carries its evidence (evidence.py).
OFFNORMAL_TRAINING__MAX_ROWS bounds the memory.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import structlog

from training.data.evidence import Evidence, Flags, VectorFlags
from training.data.features import choose
from worker.alignment import Aligner, hold_times, holds_of
from worker.blocks import RecordBlock, VectorBlock
from worker.blocks.timestamps import iso
from worker.decoding import Decoder, vectors_of
from worker.decoding.sensor_reader import sensor_reader
from worker.inference import absent
from worker.inference.other_formats import explained
from worker.kafka.reader import Reader
from worker.native.arrays import Bools, Float32s, Float64s, Int64s
from worker.schema_registry import SchemaRegistry
from worker.serving.router import Router
from worker.settings import ModelSettings, Settings
from worker.windows import Windows

log = structlog.get_logger()

# The maximum number of confirmed anomalies that are kept in addition, regardless of the thinning.
MOST_CONFIRMED: Final = 10_000
LOOK_AT: Final = 2000  # records from which features are inferred, half of them the latest ones
LOOK_AT_READINGS: Final = 20_000  # if they hold a reading each
SHOWN: Final = 20  # features in a log line
LEAST_OF_PARTITION: Final = 50
LEAST_INTERVALS: Final = 4  # between an entity's vectors, to know its rhythm
LONGEST_INTERVAL: Final = 7 * 86_400.0  # seconds; what is longer is a clock that is wrong


@dataclass(frozen=True)
class Window:
    """Rows in the order of their event time.

    `x` [n, D] are vectors, or the coefficients of their windows. `time` [n] is in ms. `known` [n] are
    evidence.VectorFlags. `entity` [n] are indices into `entities`.

    `offsets` is partition -> [first, last] offset read. `seen` counts the rows before thinning out, `rejected` the
    records that did not parse, by reason, with an example of each, and `cold` the rows without a full window.
    `confirmed` are the confirmed anomalies, at most MOST_CONFIRMED. `drift` is when the last drift of the model began,
    in ms. `interval` is that between two vectors of the slowest entity, in seconds; 0 if it is not known. `holds` [d]
    is how long a reading of each feature holds, in seconds; None if vectors are not made of single readings.
    """

    features: tuple[str, ...]
    x: Float32s
    time: Int64s
    known: Flags
    entity: Int64s
    entities: tuple[str, ...]
    seen: int
    rejected: "RejectedRecords"
    cold: int
    offsets: dict[int, list[int]]
    confirmed: Float32s
    confirmed_of: Int64s
    drift: int | None = None
    interval: float = 0.0
    holds: Float64s | None = None

    def __len__(self) -> int:
        return len(self.x)

    def is_known(self, flag: VectorFlags) -> Bools:
        """Return [n] whether any of these flags is set."""
        is_set: Bools = (self.known & int(flag)) > 0
        return is_set


class RejectedRecords:
    """The records that did not parse: how many for each reason, and the first error of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def add(self, block: VectorBlock) -> None:
        """Count a block's rejects."""
        for reject in block.rejects:
            self.counts[reject.reason] += 1
            if reject.reason not in self.examples:
                records, i = block.records, reject.record
                place = f"partition {records.topics.shown(int(records.partition[i]))}, offset {records.offset[i]}"
                self.examples[reject.reason] = f"{explained(reject, records)} ({place})"

    def tell(self) -> None:
        """Log them, if there are any."""
        if self.counts:
            log.warning("records_rejected", counts=dict(self.counts), examples=self.examples)

    def __len__(self) -> int:
        return self.counts.total()

    def __str__(self) -> str:
        commonest = "".join(f", mostly {self.examples[reason]} [{reason}]" for reason, _ in self.counts.most_common(1))
        return f"{len(self)} records did not parse{commonest}"


def read(settings: Settings, champion: Sequence[str] | None, progress: Callable[[int], None]) -> Window:
    """Read the window of OFFNORMAL_TRAINING__LOOKBACK; `progress` gets the number of rows seen so far.

    Raises KafkaUnavailable, SettingsError, and NoModelError where the features cannot be told.
    """
    with sensor_reader(settings) as reader:
        since = reach(reader, settings.training.lookback)
        begin = reader.offsets_at(since)
        registry = SchemaRegistry.of(settings, patience=settings.kafka.startup_timeout)
        router = _router(settings.model)
        earliest, latest = _looked_at(
            reader, begin, router, settings.model.name, LOOK_AT_READINGS if settings.input.align else LOOK_AT
        )
        features = choose(settings.input, champion, [*earliest, *latest], registry)
        evidence = Evidence.read(settings, since, features)
        features = _without_accepted(features, evidence, settings, latest, registry)
        decoder = Decoder(settings.input, features, registry)
        aligner, holds = _aligner(settings, decoder, (earliest, latest))
        interval = _interval([_vectors(settings, decoder, holds, end) for end in (earliest, latest)])
        windows = _windows(settings, len(features), interval)
        entities = _Entities()
        sample, confirmed = _EvenSample(settings.training.max_rows), _EvenSample(MOST_CONFIRMED)
        rejected, cold, offsets = RejectedRecords(), 0, dict[int, list[int]]()
        reader.seek(begin)
        for records in reader.to_end():
            _add_offsets(offsets, records)
            records = _routed(router, settings.model.name, records)
            block = vectors_of(records, decoder, aligner).block
            rejected.add(block)
            rows: WindowColumns = (block.x, block.time, evidence.flags(block), entities.of(block))
            if windows is not None:
                windowed = windows.push(block)
                cold += int(np.count_nonzero(windowed.cold))
                rows = tuple(column[~windowed.cold] for column in (windowed.x, *rows[1:]))
            sample.add(rows)
            _add_confirmed(confirmed, rows)
            progress(sample.seen)
    rejected.tell()
    nothing = (np.empty((0, len(features)), np.float32), *_NOTHING)
    x, times, flags, entity = sample.rows(nothing)
    confirmed_x, _, _, confirmed_of = confirmed.rows(nothing)
    order = np.argsort(times, kind="stable")
    return Window(
        features=features,
        x=x[order],
        time=times[order],
        known=flags[order],
        entity=entity[order],
        entities=entities.names,
        seen=sample.seen,
        rejected=rejected,
        cold=cold,
        offsets=offsets,
        confirmed=confirmed_x,
        confirmed_of=confirmed_of,
        drift=evidence.drift,
        interval=interval,
        holds=holds,
    )


def _add_confirmed(sample: "_EvenSample", rows: "WindowColumns") -> None:
    """Add those of the rows that a person has confirmed as anomalies."""
    is_confirmed = (rows[2] & VectorFlags.CONFIRMED) > 0
    if is_confirmed.any():
        sample.add(tuple(column[is_confirmed] for column in rows))


def _add_offsets(offsets: dict[int, list[int]], records: RecordBlock) -> None:
    """Note the first and the last offset that was read of each partition."""
    for partition, begin in records.begins().items():
        offsets.setdefault(partition, [begin, begin])
    for partition, end in records.ends().items():
        offsets[partition][1] = end - 1


def reach(reader: Reader, lookback: float) -> int:
    """Return where the window begins, in ms: `lookback` seconds before the newest record.

    For a plant that has stopped, the window thus covers the time when it last ran.
    """
    now = int(time.time() * 1000)
    newest = reader.newest()
    return min(now, now if newest is None else newest) - int(lookback * 1000)


def _router(model: ModelSettings) -> Router:
    """Return the router of the model's records.

    A model that a route names learns from that route's records, any other model from records without a route.
    """
    return Router(model.routes, None if model.name in model.routes.values() else model.name)


def _windows(settings: Settings, width: int, interval: float) -> Windows | None:
    window = settings.model.window
    if window == 1:
        return None
    return Windows(window, width, settings.detection.max_missing, settings.input, settings.entities, interval=interval)


def _aligner(
    settings: Settings, decoder: Decoder, ends: Sequence[Sequence[RecordBlock]]
) -> tuple[Aligner | None, Float64s | None]:
    """Return what makes vectors of readings, and how long they hold; `ends` are stretches of the topic."""
    inputs = settings.input
    if not inputs.align or inputs.step is None:
        return None, None
    learned = holds_of([[decoder.readings(block) for block in end] for end in ends], len(decoder.features), inputs.step)
    holds = hold_times(inputs, learned.tolist(), len(learned))
    log.info("hold_times_learned", seconds=dict(zip(decoder.features[:SHOWN], holds.tolist(), strict=False)))
    return Aligner(holds, inputs, settings.entities), holds


def _vectors(
    settings: Settings, decoder: Decoder, holds: Float64s | None, blocks: Sequence[RecordBlock]
) -> list[VectorBlock]:
    """Return the vectors of a stretch of the topic."""
    aligner = None if holds is None else Aligner(holds, settings.input, settings.entities)
    return [vectors_of(block, decoder, aligner).block for block in blocks]


def _interval(ends: Sequence[Sequence[VectorBlock]]) -> float:
    """Return the median time in seconds between two vectors of an entity, of a slow one; 0 if it is not known.

    `ends` are stretches of the topic. It is that of the slowest entity, but of a tenth with clocks that are wrong. The
    entities of which too little was seen count as one.
    """
    intervals: dict[int, list[Int64s]] = defaultdict(list)
    for blocks in ends:
        times: dict[int, list[Int64s]] = defaultdict(list)
        for block in blocks:
            entity = block.entity_hash[block.record]
            for one in np.unique(entity).tolist():
                times[one].append(block.time[entity == one])
        for one, parts in times.items():
            in_order = np.sort(np.concatenate(parts))
            apart = in_order[1:] - in_order[:-1]
            intervals[one].append(apart[apart > 0])
    known = [np.concatenate(parts) for parts in intervals.values()]
    too_few = [apart for apart in known if len(apart) < LEAST_INTERVALS]
    enough = [apart for apart in known if len(apart) >= LEAST_INTERVALS]
    if sum(map(len, too_few)) >= LEAST_INTERVALS:
        enough.append(np.concatenate(too_few))
    if not enough:
        return 0.0
    medians = [float(np.median(apart)) / 1000 for apart in enough]
    return min(float(np.quantile(medians, 0.9, method="higher")), LONGEST_INTERVAL)


class _Entities:
    """Numbers the entities as they come."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._numbers)

    def of(self, block: VectorBlock) -> Int64s:
        """Return the numbers [n] of a block's entities."""
        _, first, inverse = np.unique(block.entity_hash, return_index=True, return_inverse=True)
        names = [block.entity_of_record(r) or "" for r in first.tolist()]
        numbers = np.array([self._numbers.setdefault(name, len(self._numbers)) for name in names], np.int64)
        return numbers[inverse][block.record] if len(names) else np.zeros(len(block), np.int64)


def _looked_at(
    reader: Reader, begin: Mapping[int, int], router: Router, model: str, look_at: int
) -> tuple[list[RecordBlock], list[RecordBlock]]:
    """Return the model's first and last records of each partition, by which the features are told."""
    share = max(look_at // 2 // max(len(begin), 1), LEAST_OF_PARTITION)

    def wanted(records: RecordBlock) -> RecordBlock:
        return _routed(router, model, records)

    first = reader.from_each(begin, share, wanted)
    behind = dict(begin)
    for block in first:
        behind |= block.ends()
    late = {p: max(end - share, behind.get(p, 0)) for p, end in reader.ends().items()}
    return first, reader.from_each(late, share, wanted) or first


def _without_accepted(
    features: tuple[str, ...],
    evidence: Evidence,
    settings: Settings,
    latest: Sequence[RecordBlock],
    registry: SchemaRegistry | None,
) -> tuple[str, ...]:
    """Return the features without those whose sensors are gone: at fault for long, and not in the `latest` records."""
    for fault in evidence.accepted:
        log.warning(
            "sensor_fault_accepted",
            entity=fault.entity,
            feature=fault.feature,
            since=iso(fault.since),
            consequence="its rows count as normal again",
        )
    suspects = {fault.feature for fault in evidence.accepted}
    gone = absent(sorted(suspects), settings.input, latest, registry) if suspects else set[str]()
    if gone:
        log.warning(
            "features_excluded",
            features=sorted(gone),
            consequence="the new model does without them; running workers take it after a restart",
        )
    return tuple(name for name in features if name not in gone)


def _routed(router: Router, model: str, records: RecordBlock) -> RecordBlock:
    """Return the records that the model has to score."""
    parts = dict(router.split(records))
    return parts[model] if model in parts else records.take(np.empty(0, np.int64))


WindowColumns = tuple[npt.NDArray[Any], ...]  # of the same length
_NOTHING: Final = (np.empty(0, np.int64), np.empty(0, np.uint8), np.empty(0, np.int64))


class _EvenSample:
    """Keeps every k-th row of a stream of unknown length, at most `limit`: when full, every second row is dropped."""

    def __init__(self, limit: int):
        self._limit = limit
        self._stride = 1
        self._parts: list[WindowColumns] = []
        self._kept = 0
        self.seen = 0

    def add(self, rows: WindowColumns) -> None:
        first = -self.seen % self._stride
        self.seen += len(rows[0])
        self._parts.append(tuple(column[first :: self._stride].copy() for column in rows))
        self._kept += len(self._parts[-1][0])
        while self._kept > self._limit:
            self._parts = [tuple(column[::2].copy() for column in self._joined())]
            self._kept = len(self._parts[0][0])
            self._stride *= 2

    def rows(self, nothing: WindowColumns) -> WindowColumns:
        """Return all rows that were kept; `nothing`, if there are none."""
        return self._joined() if self._parts else nothing

    def _joined(self) -> WindowColumns:
        return tuple(np.concatenate(columns) for columns in zip(*self._parts, strict=True))
