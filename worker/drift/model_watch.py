"""Drift detection for one version of a model, on summaries of all its vectors and of each entity's."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from worker.blocks import TopicSet
from worker.drift.detectors import Detection, Monitor
from worker.drift.findings import Drift, SensorFault, Shift
from worker.drift.sensor_faults import FaultReport, SensorWatch
from worker.drift.summary import Summary, Tally
from worker.models.reference import Reference
from worker.native.arrays import Bools, Float64s, Floats, Int64s
from worker.serving.sample import Entity, Sample

DriftFinding = Drift | SensorFault

# The maximum number of summaries per sample. Each takes some milliseconds, so summaries get longer during a backlog.
MOST_SUMMARIES: Final = 16
RETOLD: Final = 10  # summaries after which a fault is reported again, to show that it still lasts
SampleColumns = tuple[Floats, Float64s, Bools, Int64s, Float64s]


def _of(columns: SampleColumns, indices: Int64s) -> tuple[Floats, Float64s, Bools, Int64s, float]:
    """Return the columns of these rows, and how many vectors they stand for in all."""
    x, p_values, over, time, stands_for = columns
    return x[indices], p_values[indices], over[indices], time[indices], float(stands_for[indices].sum())


class _Entity:
    def __init__(self, reference: Reference, row: int | None, monitored: bool):
        self.tally = Tally(len(reference.deviation))
        self.sensors = SensorWatch(reference, row)
        self.monitor = Monitor(reference, row) if monitored else None
        self.open: dict[int, SensorFault] = {}  # feature -> the fault that lasts
        self.told = 0  # summaries since the last report


class ModelWatch:
    """Looks for drift and sensor faults in samples of one version of a model that has a reference."""

    def __init__(
        self, resident_name: str, version: str, features: tuple[str, ...], reference: Reference, max_entities: int
    ):
        self.model, self.version, self.features = resident_name, version, features
        self._reference, self._max_entities = reference, max_entities
        self._tally = Tally(len(reference.deviation))
        self._size = float(reference.rows)
        self._off = np.zeros(len(features)), np.zeros(len(features))  # sum and number of the deviations
        nowhere = np.full((1, len(features)), np.nan)
        self._location = np.concatenate((reference.location, nowhere))
        self._monitor = Monitor(reference, None)
        self._entities: dict[Entity, _Entity] = {}
        self.p_value = 0.5  # of the last summary

    def take_over(self, predecessor: "ModelWatch") -> list[DriftFinding]:
        """Take over lasting faults from the previous version's watch: training a model does not repair a sensor."""
        findings: list[DriftFinding] = []
        if predecessor.features != self.features:
            return findings
        for key, entity in predecessor._entities.items():
            if entity.sensors.faulty:
                for j in entity.sensors.settle(self._reference):
                    fault = entity.open.pop(j)
                    findings.append(replace(fault, until=fault.latest))
            if entity.sensors.faulty:
                self._entities[key] = entity
        return findings

    @property
    def faults(self) -> list[SensorFault]:
        """Return the faults that last."""
        return [fault for entity in self._entities.values() for fault in entity.open.values()]

    def take(self, sample: Sample) -> list[DriftFinding]:
        """Take a sample into the summaries; return what they show."""
        findings: list[DriftFinding] = []
        self._size = max(self._reference.rows, float(sample.stands_for.sum()) / MOST_SUMMARIES) * (1 - 1e-9)
        p_values = sample.resident.calibration.p_value(sample.scores)
        columns = sample.x, p_values, sample.over, sample.time, sample.stands_for
        counts = np.ones(len(sample), bool)
        order = np.argsort(sample.entity, kind="stable")
        for rows_of_entity in np.split(order, np.flatnonzero(np.diff(sample.entity[order])) + 1):
            key = sample.names[int(sample.entity[rows_of_entity[0]])]
            entity = self._entity(key)
            if entity is None:
                continue
            for part in self._until_full(entity.tally, sample.stands_for[rows_of_entity]):
                entity.tally.add(*_of(columns, rows_of_entity[part]))
                if entity.tally.rows >= self._size:
                    findings += self._summarised(sample.topics, key, entity, entity.tally.take())
            if entity.sensors.faulty:
                counts[rows_of_entity] = False
        counted = np.flatnonzero(counts)
        off = sample.x - self._location[self._rows(sample)]
        for part in self._until_full(self._tally, sample.stands_for[counted]):
            self._tally.add(*_of(columns, counted[part]))
            self._off[0][:] += np.nansum(off[counted[part]], 0)
            self._off[1][:] += np.count_nonzero(~np.isnan(off[counted[part]]), 0)
            if self._tally.rows >= self._size:
                findings += self._of_all(self._tally.take())
        return findings

    def _until_full(self, tally: Tally, stands_for: Float64s) -> Iterator[slice]:
        """Yield pieces of rows [k], each of which fills the summary, but for the last."""
        begin = 0
        while begin < len(stands_for):
            reached = tally.rows + np.cumsum(stands_for[begin:])
            end = begin + int(np.searchsorted(reached, self._size)) + 1
            yield slice(begin, min(end, len(stands_for)))
            begin = end

    def _rows(self, sample: Sample) -> Int64s:
        """Return the row [k] of the reference for each sample; the last, all NaN, for an entity unknown to training."""
        entity_hashes, rows = np.unique(sample.entity, return_inverse=True)
        reference_rows = [self._reference.row(sample.names[int(hash)][1]) for hash in entity_hashes]
        return np.array([-1 if row is None else row for row in reference_rows], np.int64)[rows]

    def _of_all(self, summary: Summary) -> list[DriftFinding]:
        if not np.isnan(summary.p_value):
            self.p_value = summary.p_value
        deviations = np.where(self._off[1] > 0, self._off[0] / np.maximum(self._off[1], 1), np.nan)
        self._off[0][:], self._off[1][:] = 0, 0
        noticed = self._monitor.take(summary, deviations)
        return [] if noticed is None else [self._drift(None, noticed, 0)]

    def _entity(self, key: Entity) -> _Entity | None:
        entity = self._entities.get(key)
        if entity is None and len(self._entities) < self._max_entities:
            row = self._reference.row(key[1])
            several = len(self._reference.entities) > 1 and row is not None
            entity = self._entities[key] = _Entity(self._reference, row, monitored=several)
        return entity

    def _summarised(self, topics: TopicSet, key: Entity, entity: _Entity, summary: Summary) -> list[DriftFinding]:
        findings: list[DriftFinding] = []
        for report in entity.sensors.take(summary):
            fault = self._fault(topics, key, report, summary)
            if report.over:
                entity.open.pop(report.feature, None)
            else:
                entity.open[report.feature], entity.told = fault, 0
            findings.append(fault)
        entity.told += 1
        if entity.open and entity.told % RETOLD == 0:
            for j, fault in entity.open.items():
                entity.open[j] = replace(fault, latest=summary.end)
            findings += entity.open.values()
        if entity.monitor is not None and not entity.sensors.suspicious:
            noticed = entity.monitor.take(summary)
            if noticed is not None:
                row = self._reference.row(key[1])
                findings.append(self._drift(key[1], noticed, row or 0))
        return findings

    def _drift(self, entity: str | None, noticed: Detection, row: int) -> Drift:
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

    def _fault(self, topics: TopicSet, key: Entity, report: FaultReport, summary: Summary) -> SensorFault:
        return SensorFault(
            model=self.model,
            version=self.version,
            topics=topics,
            partition=key[0],
            entity=key[1],
            feature=self.features[report.feature],
            fault=report.fault,
            since=report.since,
            latest=summary.end,
            until=summary.end if report.over else None,
            before=report.before,
            now=None if np.isnan(report.now) else report.now,
        )
