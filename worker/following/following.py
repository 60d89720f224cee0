"""Follows the entities whose vectors a worker scores, and publishes their trims in the models topic.

What is published is read back, by every worker, and then scored by: as with a model, a score can be made again from
what is published. Used by the thread that analyses samples.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
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
from worker.registry.trim_records import KEPT, most_entities, trim_key, trim_value
from worker.registry.view import signed
from worker.serving.loaded_model import LoadedModel
from worker.serving.sample import Sample
from worker.settings import Settings

log = structlog.get_logger()

ROWS_AT_ONCE: Final = 512  # of a sample; of more, evenly many are left out
ENTITIES: Final = 1000  # of a model, that a worker follows
FORGOTTEN_AFTER: Final = 600.0  # seconds without a row; then another worker may have gone on
MOVED_SHIFT, MOVED_LOOSENESS = 0.1, 0.1  # standard deviations, and a logarithm: a smaller change is not published
WRITE: Final = 10.0  # seconds


@dataclass
class _Entity:
    follower: Follower
    place: str
    name: str | None
    time: int  # event time of the last row, ms
    seen: float  # monotonic


@dataclass
class _Model:
    """The entities of one version of a model, by their hashes, and what was last published of each partition."""

    model: LoadedModel
    basis: Basis | None
    entities: dict[int, _Entity] = field(default_factory=dict)
    published: dict[str, PlacedTrims] = field(default_factory=dict)

    def trims(self, place: str) -> PlacedTrims:
        """Return the trims of a partition: as this worker published them last, or as others did after that."""
        own, read = self.published.get(place), self.model.placed_trims.get(place)
        newest = [trims for trims in (own, read) if trims is not None]
        return max(newest, key=lambda trims: trims.written[-1], default=PlacedTrims({}, ()))


class Following:
    """Takes samples in, and publishes trims that have moved."""

    def __init__(self, settings: Settings, metrics: Metrics):
        self._settings, self._metrics = settings, metrics
        self._models: dict[str, _Model] = {}
        self._publish_at = time.monotonic() + settings.detection.follow_every

    def take(self, sample: Sample) -> None:
        """Follow the entities of a sample."""
        model = sample.resident
        if not model.follows:
            return
        own = self._models.get(model.name)
        if own is None or own.model.version != model.version:
            own = self._models[model.name] = _Model(model, Basis.of(model))
        own.model = model
        if own.basis is None:
            return
        step = max(-(-len(sample) // ROWS_AT_ONCE), 1)
        rows = np.arange(len(sample) - 1, -1, -step)[::-1]
        followed = [
            (entity, rows[sample.entity[rows] == hash])
            for hash in np.unique(sample.entity[rows])
            if (entity := self._entity(own, own.basis, sample, int(hash))) is not None
        ]
        if followed:
            _take(model, sample, followed, step)

    def _entity(self, own: _Model, basis: Basis, sample: Sample, hash: int) -> _Entity | None:
        entity = own.entities.get(hash)
        if entity is None and len(own.entities) < ENTITIES:
            partition, name = sample.names[hash]
            place = "/".join(map(str, sample.topics.place(partition)))
            follower = Follower(basis, own.trims(place).trims.get(hash))
            entity = own.entities[hash] = _Entity(follower, place, name, 0, 0.0)
        return entity

    def publish_if_due(self) -> None:
        """Publish the trims of partitions in which one has moved, if it is time."""
        if time.monotonic() < self._publish_at:
            return
        self._publish_at = time.monotonic() + self._settings.detection.follow_every
        ignored = 0
        for own in self._models.values():
            for hash in [hash for hash, e in own.entities.items() if time.monotonic() - e.seen > FORGOTTEN_AFTER]:
                del own.entities[hash]
            by_place: dict[str, dict[int, _Entity]] = {}
            for hash, entity in own.entities.items():
                by_place.setdefault(entity.place, {})[hash] = entity
                ignored += int(entity.follower.ignored.sum())
            if own.model.follows and own.basis is not None:
                for place, entities in by_place.items():
                    self._publish(own, own.basis, place, entities)
        self._metrics.ignored_sensors.set(ignored)

    def _publish(self, own: _Model, basis: Basis, place: str, entities: Mapping[int, _Entity]) -> None:
        before, trims = own.trims(place), {hash: entity.follower.trim for hash, entity in entities.items()}
        none = Trim.none(own.model.width, len(own.model.features))
        moved = [hash for hash, trim in trims.items() if _has_moved(before.trims.get(hash, none), trim, basis)]
        if not moved:
            return
        number = max([int(time.time() * 1000), *(n + 1 for n in before.written[-1:])])
        # Those that have moved come first: if there is not room for all, they are what matters.
        kept = {hash: trims[hash] for hash in moved} | dict(before.trims) | trims
        names = {hash: entity.name for hash, entity in entities.items()}
        placed = PlacedTrims(
            dict(list(kept.items())[: most_entities(own.model.width)]), (*before.written, number)[-KEPT:]
        )
        if self._write(own.model, place, placed, names, before.written[: max(len(before.written) + 1 - KEPT, 0)]):
            own.published[place] = placed
            self._metrics.trims.labels(own.model.name).inc()
            _tell(own.model, place, before, placed, names)

    def _write(
        self,
        model: LoadedModel,
        place: str,
        placed: PlacedTrims,
        names: Mapping[int, str | None],
        old: tuple[int, ...],
    ) -> bool:
        """Write a partition's trims, and remove old records; return whether that could be done."""
        value = trim_value(model.version, place, now(), placed.trims, names, list(model.features))
        keys = [trim_key(model.name, model.version, place, number) for number in (placed.written[-1], *old)]
        signing_key = self._settings.model.signing_key
        records = [(keys[0], value, signed(signing_key, keys[0], value)), *((key, None, []) for key in keys[1:])]
        try:
            connection.write(self._settings.kafka, self._settings.topics.models, records, partition=0, timeout=WRITE)
        except OffnormalError as error:
            log.warning("trim_publication_failed", model=model.name, place=place, error=str(error))
            return False
        return True


def _take(model: LoadedModel, sample: Sample, followed: list[tuple[_Entity, Int64s]], step: int) -> None:
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
        entity.time, entity.seen = max(entity.time, int(last)), time.monotonic()


def _has_moved(before: Trim, trim: Trim, basis: Basis) -> bool:
    """Return whether the trim has moved so far that it is worth a record."""
    shift = np.abs(trim.shift - before.shift) / basis.deviation
    looseness = np.abs(trim.looseness - before.looseness)
    is_other = bool((trim.ignored != before.ignored).any())
    return is_other or bool(shift.max() > MOVED_SHIFT or looseness.max() > MOVED_LOOSENESS)


def _tell(
    model: LoadedModel, place: str, before: PlacedTrims, placed: PlacedTrims, names: Mapping[int, str | None]
) -> None:
    log.info("trim_published", model=model.name, model_version=model.version, place=place, entities=len(placed.trims))
    for hash, trim in placed.trims.items():
        was = before.trims[hash].ignored if hash in before.trims else np.zeros_like(trim.ignored)
        for j in np.flatnonzero(trim.ignored & ~was).tolist():
            log.warning(
                "sensor_ignored",
                model=model.name,
                place=place,
                entity=names.get(hash),
                feature=model.features[j],
                reason="it has left the range of the training for good",
            )
        for j in np.flatnonzero(was & ~trim.ignored).tolist():
            log.info(
                "sensor_restored", model=model.name, place=place, entity=names.get(hash), feature=model.features[j]
            )
