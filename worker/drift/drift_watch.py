"""Drift of all models that a worker serves."""

from dataclasses import replace
from typing import Final

import structlog

from worker.drift.found import Drift
from worker.drift.model_watch import Found, ModelWatch
from worker.drift.sample import Sample
from worker.metrics import Metrics
from worker.settings import Settings

log = structlog.get_logger()

_NEVER: Final = -(2**62)


class DriftWatch:
    """Takes samples, and says what it has found, and has not told already within OFFNORMAL_TRAINING__COOLDOWN."""

    def __init__(self, settings: Settings, metrics: Metrics):
        self._settings, self._metrics = settings, metrics
        self._watches: dict[str, ModelWatch | None] = {}  # model -> its watch; None where it has no reference
        self._versions: dict[str, str] = {}
        self._told: dict[tuple[str, str | None], int] = {}  # model and entity -> event time of the last drift
        self._asked: dict[str, int] = {}  # model -> the same of the last that asked for a training

    def take(self, sample: Sample) -> list[Found]:
        over = self._renew(sample)
        watch = self._watches[sample.resident.name]
        if watch is None:
            return over
        found = [*over, *watch.take(sample)]
        found = [told for each in found if (told := self._told_once(each)) is not None]
        self._metrics.p_value.labels(watch.model).set(watch.p_value)
        faults = [fault for each in self._watches.values() if each for fault in each.faults]
        for kind in ("frozen", "silent", "unit"):
            self._metrics.sensor_faults.labels(kind).set(sum(fault.fault == kind for fault in faults))
        return found

    def _renew(self, sample: Sample) -> list[Found]:
        """A watch for the version that scored it, if that is another than before; the faults that are over with it."""
        resident = sample.resident
        before = self._watches.get(resident.name)
        if self._versions.get(resident.name) == resident.version:
            return []
        over: list[Found] = []
        self._versions[resident.name] = resident.version
        watch = None
        if resident.reference is None:
            log.warning("drift_not_watched", model=resident.name, model_version=resident.version, hint="train anew")
        else:
            watch = ModelWatch(
                resident.name,
                resident.version,
                tuple(resident.features),
                resident.reference,
                self._settings.drift.entities,
            )
            if before is not None:
                over = watch.take_over(before)
        self._watches[resident.name] = watch
        return over

    def _told_once(self, found: Found) -> Found | None:
        if not isinstance(found, Drift):
            until = None if found.until is None else "over"
            log.warning("sensor_fault", entity=found.entity, feature=found.feature, fault=found.fault, until=until)
            return found
        cooldown = self._settings.training.cooldown * 1000
        key = (found.model, found.entity)
        if found.noticed - self._told.get(key, _NEVER) < cooldown:
            return None
        self._told[key] = found.noticed
        asks = found.noticed - self._asked.get(found.model, _NEVER) >= cooldown
        if asks:
            self._asked[found.model] = found.noticed
        self._metrics.drifts.labels(found.model).inc()
        self._metrics.drift_at.labels(found.model).set_to_current_time()
        log.warning(
            "drift",
            entity=found.entity,
            detectors=list(found.detectors),
            p_value=round(found.p_value, 4),
            features=[shift.name for shift in found.features[:5]],
        )
        return replace(found, asks=asks)
