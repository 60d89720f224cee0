"""The thread in which drift is looked for. The loop hands over what it has committed, and fetches what was found."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import structlog

from worker.drift.found import Drift
from worker.drift.model_watch import Found, ModelWatch
from worker.drift.sample import Sample
from worker.metrics import Metrics
from worker.settings import Settings

log = structlog.get_logger()

EVERY = 0.25  # seconds between looks: what is gathered meanwhile costs hardly more than one batch of it
_NEVER = -(2**62)
MOST_WAITING = 500  # samples; beyond, the oldest are not looked at


class DriftWatch:
    """Of all models of a worker. Nothing that goes wrong here costs the loop anything but the drift it would have
    found.
    """

    def __init__(self, settings: Settings, metrics: Metrics):
        self._settings, self._metrics = settings, metrics
        self._waiting: deque[Sample] = deque(maxlen=MOST_WAITING)
        self._found: deque[Found] = deque(maxlen=1000)
        self._watches: dict[str, ModelWatch | None] = {}  # model -> its watch; None where it has no reference
        self._versions: dict[str, str] = {}
        self._told: dict[tuple[str, str | None], int] = {}  # model and entity -> event time of the last drift
        self._asked: dict[str, int] = {}  # model -> the same of the last that asked for a training
        self._stop = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name="drift-watch", daemon=True)
        if settings.drift.enabled:
            self._thread.start()

    def observe(self, samples: Sequence[Sample]) -> None:
        if self._thread.is_alive() and samples:
            self._waiting.extend(samples)
            self._idle.clear()

    @property
    def has_found(self) -> bool:
        return bool(self._found)

    def found(self) -> list[Found]:
        """What was found since the last call."""
        return [self._found.popleft() for _ in range(len(self._found))]

    def again(self, found: Sequence[Found]) -> None:
        """These could not be published: they come with the next call."""
        self._found.extendleft(reversed(found))

    def settle(self, timeout: float) -> None:
        """Waits until all that was handed over has been looked at."""
        if self._thread.is_alive():
            self._idle.wait(timeout)

    def close(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            try:
                self._look()
            except Exception:
                log.exception("drift_watch_failed", consequence="what was waiting is not looked at")
                self._waiting.clear()
            if not self._waiting:
                self._idle.set()

    def _look(self) -> None:
        samples = [self._waiting.popleft() for _ in range(len(self._waiting))]
        while samples:
            first = samples[0].resident
            same = [sample for sample in samples if sample.resident is first]
            samples = [sample for sample in samples if sample.resident is not first]
            watch = self._watch(same[0])
            if watch is not None:
                began = time.perf_counter()
                for found in watch.take(Sample.concat(same)):
                    self._keep(found)
                self._metrics.stage.labels("drift").observe(time.perf_counter() - began)
                self._metrics.p_value.labels(watch.model).set(watch.p_value)
        faults = [fault for watch in self._watches.values() if watch for fault in watch.faults]
        for kind in ("frozen", "silent", "unit"):
            self._metrics.sensor_faults.labels(kind).set(sum(fault.fault == kind for fault in faults))

    def _watch(self, sample: Sample) -> ModelWatch | None:
        """Of the version that scored it; an earlier version's rows, should any still come, are not looked at."""
        resident = sample.resident
        before = self._watches.get(resident.name)
        if self._versions.get(resident.name) == resident.version:
            return before
        if resident.version in self._versions.values():
            return None
        self._versions[resident.name] = resident.version
        if resident.reference is None:
            log.warning("drift_not_watched", model=resident.name, model_version=resident.version, hint="train anew")
            self._watches[resident.name] = None
            return None
        watch = ModelWatch(
            resident.name,
            resident.version,
            tuple(resident.features),
            resident.reference,
            self._settings.drift.entities,
        )
        if before is not None:
            watch.take_over(before)
        self._watches[resident.name] = watch
        return watch

    def _keep(self, found: Found) -> None:
        if not isinstance(found, Drift):
            self._found.append(found)
            log.warning("sensor_fault", **_told(found))
            return
        cooldown = self._settings.training.cooldown * 1000
        key = (found.model, found.entity)
        if found.noticed - self._told.get(key, _NEVER) < cooldown:
            return
        self._told[key] = found.noticed
        asks = found.noticed - self._asked.get(found.model, _NEVER) >= cooldown
        if asks:
            self._asked[found.model] = found.noticed
        found = replace(found, asks=asks)
        self._metrics.drifts.labels(found.model).inc()
        log.warning(
            "drift",
            entity=found.entity,
            detectors=list(found.detectors),
            p_value=round(found.p_value, 4),
            features=[shift.name for shift in found.features[:5]],
        )
        self._found.append(found)


def _told(found: Found) -> dict[str, object]:
    return {name: value for name, value in vars(found).items() if name in ("entity", "feature", "fault", "until")}
