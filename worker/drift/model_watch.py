"""What one version of a model sees of the plant: summaries of all its vectors, and of each entity's."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from worker.drift.found import Drift, SensorFault, Shift
from worker.drift.monitor import Monitor, Noticed
from worker.drift.sample import Entity, Sample
from worker.drift.sensors import SensorWatch, Told
from worker.drift.summary import Floats, Summary, Tally
from worker.models.reference import Float64s, Reference
from worker.vectors.block import Int64s

Found = Drift | SensorFault

# Of a sample: while a backlog is caught up with, summaries get longer. Each takes some milliseconds.
MOST_SUMMARIES: Final = 16
RETOLD: Final = 10  # summaries after which a fault that lasts is told again: whoever reads it knows that it does


Columns = tuple[Floats, Float64s, npt.NDArray[np.bool_], Int64s, Float64s]


def _of(columns: Columns, at: Int64s) -> tuple[Floats, Float64s, npt.NDArray[np.bool_], Int64s, float]:
    """Of these rows, with what they stand for in all."""
    x, p_values, over, time, stands_for = columns
    return x[at], p_values[at], over[at], time[at], float(stands_for[at].sum())


class _Entity:
    def __init__(self, reference: Reference, row: int | None, monitored: bool):
        self.tally = Tally(len(reference.deviation))
        self.sensors = SensorWatch(reference, row)
        self.monitor = Monitor(reference, row) if monitored else None
        self.open: dict[int, SensorFault] = {}  # feature -> the fault that lasts
        self.told = 0  # summaries since


class ModelWatch:
    """Takes samples, all of one version of a model that has a reference, and says what it has found."""

    def __init__(self, resident_name: str, version: str, features: tuple[str, ...], reference: Reference, most: int):
        self.model, self.version, self.features = resident_name, version, features
        self._reference, self._most = reference, most
        self._tally = Tally(len(reference.deviation))
        self._size = float(reference.rows)
        self._off = np.zeros(len(features)), np.zeros(len(features))  # deviations added up, and how many
        nowhere = np.full((1, len(features)), np.nan)
        self._location = np.concatenate((reference.location, nowhere))
        self._monitor = Monitor(reference, None)
        self._entities: dict[Entity, _Entity] = {}
        self.p_value = 0.5  # of the last summary

    def take_over(self, other: "ModelWatch") -> list[Found]:
        """Faults that last, from the watch of the version before: a sensor does not mend because a model was
        trained.
        """
        found: list[Found] = []
        if other.features != self.features:
            return found
        for key, entity in other._entities.items():
            if entity.sensors.faulty:
                for j in entity.sensors.settle(self._reference):
                    fault = entity.open.pop(j)
                    found.append(replace(fault, until=fault.latest))
            if entity.sensors.faulty:
                self._entities[key] = entity
        return found

    @property
    def faults(self) -> list[SensorFault]:
        """Those that last."""
        return [fault for entity in self._entities.values() for fault in entity.open.values()]

    def take(self, sample: Sample) -> list[Found]:
        found: list[Found] = []
        self._size = max(self._reference.rows, float(sample.stands_for.sum()) / MOST_SUMMARIES) * (1 - 1e-9)
        p_values = sample.resident.calibration.p_value(sample.scores)
        columns = sample.x, p_values, sample.over, sample.time, sample.stands_for
        counts = np.ones(len(sample), bool)
        order = np.argsort(sample.entity, kind="stable")
        for at in np.split(order, np.flatnonzero(np.diff(sample.entity[order])) + 1):
            key = sample.names[int(sample.entity[at[0]])]
            entity = self._entity(key)
            if entity is None:
                continue
            for part in self._until_full(entity.tally, sample.stands_for[at]):
                entity.tally.add(*_of(columns, at[part]))
                if entity.tally.rows >= self._size:
                    found += self._summarised(key, entity, entity.tally.take())
            if entity.sensors.faulty:
                counts[at] = False
        at = np.flatnonzero(counts)
        off = sample.x - self._location[self._rows(sample)]
        for part in self._until_full(self._tally, sample.stands_for[at]):
            self._tally.add(*_of(columns, at[part]))
            self._off[0][:] += np.nansum(off[at[part]], 0)
            self._off[1][:] += np.count_nonzero(~np.isnan(off[at[part]]), 0)
            if self._tally.rows >= self._size:
                found += self._of_all(self._tally.take())
        return found

    def _until_full(self, tally: Tally, stands_for: Float64s) -> Iterator[slice]:
        """Pieces of rows [k] of which each fills the tally's summary, but for the last."""
        begin = 0
        while begin < len(stands_for):
            reached = tally.rows + np.cumsum(stands_for[begin:])
            end = begin + int(np.searchsorted(reached, self._size)) + 1
            yield slice(begin, min(end, len(stands_for)))
            begin = end

    def _rows(self, sample: Sample) -> Int64s:
        """[k] Whose location each row has: the last, all NaN, for an entity that training did not know."""
        known, rows = np.unique(sample.entity, return_inverse=True)
        of = [self._reference.row(sample.names[int(hash)][1]) for hash in known]
        return np.array([-1 if row is None else row for row in of], np.int64)[rows]

    def _of_all(self, summary: Summary) -> list[Found]:
        if not np.isnan(summary.p_value):
            self.p_value = summary.p_value
        deviations = np.where(self._off[1] > 0, self._off[0] / np.maximum(self._off[1], 1), np.nan)
        self._off[0][:], self._off[1][:] = 0, 0
        noticed = self._monitor.take(summary, deviations)
        return [] if noticed is None else [self._drift(None, noticed, 0)]

    def _entity(self, key: Entity) -> _Entity | None:
        entity = self._entities.get(key)
        if entity is None and len(self._entities) < self._most:
            row = self._reference.row(key[1])
            several = len(self._reference.entities) > 1 and row is not None
            entity = self._entities[key] = _Entity(self._reference, row, monitored=several)
        return entity

    def _summarised(self, key: Entity, entity: _Entity, summary: Summary) -> list[Found]:
        found: list[Found] = []
        for told in entity.sensors.take(summary):
            fault = self._fault(key, told, summary)
            if told.over:
                entity.open.pop(told.feature, None)
            else:
                entity.open[told.feature], entity.told = fault, 0
            found.append(fault)
        entity.told += 1
        if entity.open and entity.told % RETOLD == 0:
            for j, fault in entity.open.items():
                entity.open[j] = replace(fault, latest=summary.end)
            found += entity.open.values()
        if entity.monitor is not None and not entity.sensors.suspicious:
            noticed = entity.monitor.take(summary)
            if noticed is not None:
                row = self._reference.row(key[1])
                found.append(self._drift(key[1], noticed, row or 0))
        return found

    def _drift(self, entity: str | None, noticed: Noticed, row: int) -> Drift:
        shifts = []
        for j, off in noticed.features:
            before = float(self._reference.location[row][j])
            shift = off / max(float(self._reference.deviation[j]), 1e-30)
            shifts.append(Shift(self.features[j], before, before + off, shift))
        shifts.sort(key=lambda shift: -abs(shift.shift))
        return Drift(
            model=self.model,
            version=self.version,
            entity=entity,
            detectors=noticed.detectors,
            since=noticed.first,
            noticed=noticed.latest,
            p_value=noticed.p_value,
            over=noticed.over,
            features=shifts,
        )

    def _fault(self, key: Entity, told: Told, summary: Summary) -> SensorFault:
        return SensorFault(
            model=self.model,
            version=self.version,
            partition=key[0],
            entity=key[1],
            feature=self.features[told.feature],
            fault=told.fault,
            since=told.since,
            latest=summary.end,
            until=summary.end if told.over else None,
            before=told.before,
            now=None if np.isnan(told.now) else told.now,
        )
