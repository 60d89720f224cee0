"""Follows the entities whose vectors a worker scores, and publishes their trims in the models topic.

What is published is read back, by every worker, and then scored by: as with a model, a score can be made again from
what is published. Used by the thread that analyses samples.
"""

import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import numpy as np
import structlog

from worker.errors import OffnormalError
from worker.following.follower import Basis, Follower
from worker.kafka import connection
from worker.models.trim import PlacedTrims, Trim
from worker.native.arrays import Int64s
from worker.observability.metrics import Metrics
from worker.registry import now
from worker.registry.trim_records import kept, place_of, trim_key, trim_value
from worker.registry.view import signed
from worker.serving.loaded_model import LoadedModel
from worker.serving.sample import Sample, spread
from worker.settings import Settings

log = structlog.get_logger()

ROWS_AT_ONCE: Final = 512  # of a sample; of more, evenly many are left out
ENTITIES: Final = 1000  # of a model, that a worker follows
FORGOTTEN_AFTER: Final = 600.0  # seconds without a row
MOVED_SHIFT, MOVED_LOOSENESS = 0.1, 0.1  # standard deviations, and a logarithm: a smaller change is not published
WRITE: Final = 10.0  # seconds

_Record = tuple[str, bytes | None, list[tuple[str, bytes]]]


@dataclass
class _Entity:
    """`base` is the number of the record that the follower goes on from, or that it was published in last."""

    follower: Follower
    place: str
    name: str | None
    base: int
    time: int = 0  # event time of the last row, ms
    seen: float = 0.0  # monotonic
    is_fresh: bool = False  # there were rows since the last look at what is to be published


@dataclass
class _Model:
    """The entities of one version of a model, by their hashes, and what was last published of each place."""

    model: LoadedModel
    basis: Basis | None
    entities: dict[int, _Entity] = field(default_factory=dict)
    published: dict[str, PlacedTrims] = field(default_factory=dict)

    def trims(self, place: str) -> PlacedTrims:
        """Return the trims of a place: as this worker published them last, or as others did after that."""
        known = (self.published.get(place), self.model.placed_trims.get(place))
        return max(
            (trims for trims in known if trims is not None and trims.written),
            key=lambda trims: trims.written[-1],
            default=PlacedTrims({}, ()),
        )


class Following:
    """Takes samples in, and publishes trims that have moved."""

    def __init__(self, settings: Settings, metrics: Metrics):
        self._settings, self._metrics = settings, metrics
        self._models: dict[str, _Model] = {}
        self._publish_at = time.monotonic() + settings.detection.follow_every

    def take(self, sample: Sample) -> None:
        """Follow the entities of a sample."""
        model = sample.resident
        own = self._models.get(model.name)
        if own is None or own.model.version != model.version:
            own = self._models[model.name] = _Model(model, Basis.of(model))
        own.model = model
        if own.basis is None or not model.follows or not len(sample):
            return
        rows = spread(len(sample), ROWS_AT_ONCE)
        followed = [
            (entity, rows[sample.entity[rows] == hash])
            for hash in np.unique(sample.entity[rows])
            if (entity := self._entity(own, own.basis, sample, int(hash))) is not None
        ]
        if followed:
            _take(model, sample, followed, len(sample) / len(rows))

    def _entity(self, own: _Model, basis: Basis, sample: Sample, hash: int) -> _Entity | None:
        entity = own.entities.get(hash)
        if entity is None and len(own.entities) >= ENTITIES:
            return None
        partition, name = sample.names[hash]
        place = place_of(self._settings.kafka.group, *sample.topics.place(partition))
        read = own.model.placed_trims.get(place)
        # After a rebalance, another worker may have gone on with the entity in the meantime.
        if entity is None or (read is not None and read.written[-1] > entity.base):
            start = own.trims(place)
            follower = Follower(basis, start.trims.get(hash))
            entity = own.entities[hash] = _Entity(follower, place, name, start.written[-1] if start.written else 0)
        return entity

    def publish_if_due(self) -> None:
        """Publish the trims of places in which one has moved, if it is time."""
        if time.monotonic() < self._publish_at:
            return
        self._publish_at = time.monotonic() + self._settings.detection.follow_every
        ignored, records = 0, []
        due: list[tuple[_Model, str, PlacedTrims]] = []
        for own in self._models.values():
            for hash in [hash for hash, e in own.entities.items() if time.monotonic() - e.seen > FORGOTTEN_AFTER]:
                del own.entities[hash]
            ignored += sum(int(entity.follower.ignored.sum()) for entity in own.entities.values())
            if own.basis is None or not own.model.follows:
                continue
            for place in sorted({entity.place for entity in own.entities.values()}):
                if (placed := _moved(own, own.basis, place)) is not None:
                    of_place, placed = self._records(own, place, placed)
                    records += of_place
                    due.append((own, place, placed))
        self._metrics.ignored_sensors.set(ignored)
        if records and self._write(records):
            for own, place, placed in due:
                self._have_published(own, place, placed)

    def _records(self, own: _Model, place: str, placed: PlacedTrims) -> tuple[list[_Record], PlacedTrims]:
        """Return the record of a place's trims, tombstones of old records, and the trims as they are written."""
        model, key_of = own.model, partial(trim_key, own.model.name, own.model.version, place)
        who = self._settings.source
        value, written = trim_value(model.version, place, who, now(), placed, model.features)
        if len(written.trims) < len(placed.trims):
            log.warning("trims_dropped", model=model.name, place=place, entities=len(placed.trims) - len(written.trims))
        number = max([int(time.time() * 1000), *(n + 1 for n in placed.written[-1:])])
        numbers = (*placed.written, number)
        room = kept(len(value))
        key = key_of(number)
        return [
            (key, value, signed(self._settings.model.signing_key, key, value)),
            *((key_of(old), None, []) for old in numbers[:-room]),
        ], replace(written, written=numbers[-room:])

    def _write(self, records: list[_Record]) -> bool:
        try:
            connection.write(self._settings.kafka, self._settings.topics.models, records, partition=0, timeout=WRITE)
        except OffnormalError as error:
            log.warning("trim_publication_failed", records=len(records), error=str(error))
            return False
        return True

    def _have_published(self, own: _Model, place: str, placed: PlacedTrims) -> None:
        before = own.trims(place)
        own.published[place] = placed
        for entity in own.entities.values():
            if entity.place == place:
                entity.base, entity.is_fresh = placed.written[-1], False
        self._metrics.trims.labels(own.model.name).inc()
        _tell(own.model, place, before, placed)


def _moved(own: _Model, basis: Basis, place: str) -> PlacedTrims | None:
    """Return the trims of a place as they are now, without numbers of their own; None if hardly any has moved.

    Those that are in the last record, and are still followed, come first, then new ones, and those of entities that
    were not heard of come last: there may not be room for all.
    """
    before = own.trims(place)
    none = Trim.none(own.model.width, len(own.model.features))
    current = {hash: entity for hash, entity in own.entities.items() if entity.place == place}
    fresh = {hash: entity.follower.trim for hash, entity in current.items() if entity.is_fresh}
    moved = {h: trim for h, trim in fresh.items() if _has_moved(before.trims.get(h, none), trim, basis)}
    if not moved:
        return None
    fresh = {hash: trim for hash, trim in fresh.items() if hash in before.trims or hash in moved}
    still = {hash: trim for hash, trim in before.trims.items() if hash in current}
    names = {**before.names, **{hash: entity.name for hash, entity in current.items()}}
    return PlacedTrims(
        {**still, **fresh, **{h: t for h, t in before.trims.items() if h not in still}}, before.written, names
    )


def _take(model: LoadedModel, sample: Sample, followed: list[tuple[_Entity, Int64s]], step: float) -> None:
    """Take the rows [k] of each entity in, all by one pass through the model; each is one of `step`."""
    rows = np.concatenate([of_entity for _, of_entity in followed])
    x, of_rows = sample.scored[rows], sample.rows_of.take(rows)
    ends = np.cumsum([len(of_entity) for _, of_entity in followed])
    parts = [slice(end - len(of_entity), end) for end, (_, of_entity) in zip(ends, followed, strict=True)]
    blocks = x.shape[1] // len(model.features)
    seen = x.copy()
    for (entity, _), part in zip(followed, parts, strict=True):
        seen[part, np.tile(entity.follower.ignored, blocks)] = np.nan
    newest, residual = model.newest(x, of_rows), model.residual(seen, of_rows)
    for (entity, of_entity), part in zip(followed, parts, strict=True):
        first, last = sample.time[of_entity[0]], sample.time[of_entity[-1]]
        passed, n = (last - entity.time, len(of_entity)) if entity.time else (last - first, len(of_entity) - 1)
        entity.follower.take(
            newest[part],
            residual[part],
            seconds=max(float(passed), 0.0) / max(n, 1) / 1000,
            stands_for=step * float(sample.stands_for[of_entity].mean()),
        )
        entity.time, entity.seen, entity.is_fresh = int(last), time.monotonic(), True


def _has_moved(before: Trim, trim: Trim, basis: Basis) -> bool:
    """Return whether the trim has moved so far that it is worth a record."""
    shift = np.abs(trim.shift - before.shift) / basis.deviation
    looseness = np.abs(trim.looseness - before.looseness)
    is_other = bool((trim.ignored != before.ignored).any())
    return is_other or bool(shift.max() > MOVED_SHIFT or looseness.max() > MOVED_LOOSENESS)


def _tell(model: LoadedModel, place: str, before: PlacedTrims, placed: PlacedTrims) -> None:
    log.info("trim_published", model=model.name, model_version=model.version, place=place, entities=len(placed.trims))
    for hash, trim in placed.trims.items():
        was = before.trims[hash].ignored if hash in before.trims else np.zeros_like(trim.ignored)
        about = {"model": model.name, "place": place, "entity": placed.names.get(hash)}
        for j in np.flatnonzero(trim.ignored & ~was).tolist():
            log.warning("sensor_ignored", **about, feature=model.features[j], reason="it has left its range for good")
        for j in np.flatnonzero(was & ~trim.ignored).tolist():
            log.info("sensor_restored", **about, feature=model.features[j])
