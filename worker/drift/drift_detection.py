"""Drift of all models that a worker serves."""

from dataclasses import replace
from typing import Final

import structlog

from worker.drift.findings import Drift
from worker.drift.model_watch import DriftFinding, ModelWatch
from worker.observability.metrics import Metrics
from worker.serving.sample import Sample
from worker.settings import Settings

log = structlog.get_logger()

_NEVER: Final = -(2**62)


class DriftWatch:
    """Looks for drift in samples. Reports each finding once within OFFNORMAL_TRAINING__COOLDOWN."""

    def __init__(self, settings: Settings, metrics: Metrics):
        self._settings, self._metrics = settings, metrics
        self._watches: dict[str, ModelWatch | None] = {}  # model -> its watch; None where it has no reference
        self._versions: dict[str, str] = {}
        self._reported: dict[tuple[str, str | None], int] = {}  # model and entity -> event time of the last drift
        self._asked: dict[str, int] = {}  # model -> event time of the last drift that requested a training

    def take(self, sample: Sample) -> list[DriftFinding]:
        """Take a sample of a batch into the summaries; return what they show."""
        over = self._renew(sample)
        watch = self._watches[sample.resident.name]
        if watch is None:
            return over
        findings = [*over, *watch.take(sample)]
        findings = [new for finding in findings if (new := self._without_repeats(finding)) is not None]
        self._metrics.p_value.labels(watch.model).set(watch.p_value)
        faults = [fault for model in self._watches.values() if model for fault in model.faults]
        for kind in ("frozen", "silent", "unit"):
            self._metrics.sensor_faults.labels(kind).set(sum(fault.fault == kind for fault in faults))
        return findings

    def _renew(self, sample: Sample) -> list[DriftFinding]:
        """Start a watch if a new version has scored the sample; return the faults that end with the new version."""
        resident = sample.resident
        before = self._watches.get(resident.name)
        if self._versions.get(resident.name) == resident.version:
            return []
        over: list[DriftFinding] = []
        self._versions[resident.name] = resident.version
        watch = None
        if resident.reference is None:
            log.warning(
                "drift_detection_disabled",
                model=resident.name,
                model_version=resident.version,
                hint="train a new model",
            )
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

    def _without_repeats(self, finding: DriftFinding) -> DriftFinding | None:
        if not isinstance(finding, Drift):
            until = None if finding.until is None else "over"
            log.warning(
                "sensor_fault_detected",
                entity=finding.entity,
                feature=finding.feature,
                fault=finding.fault,
                until=until,
                id=finding.id,
            )
            return finding
        cooldown = self._settings.training.cooldown * 1000
        key = (finding.model, finding.entity)
        if finding.noticed - self._reported.get(key, _NEVER) < cooldown:
            return None
        self._reported[key] = finding.noticed
        asks = finding.noticed - self._asked.get(finding.model, _NEVER) >= cooldown
        if asks:
            self._asked[finding.model] = finding.noticed
        self._metrics.drifts.labels(finding.model).inc()
        self._metrics.drift_at.labels(finding.model).set_to_current_time()
        log.warning(
            "drift_detected",
            entity=finding.entity,
            detectors=list(finding.detectors),
            p_value=round(finding.p_value, 4),
            features=[shift.name for shift in finding.features[:5]],
        )
        return replace(finding, asks=asks)
