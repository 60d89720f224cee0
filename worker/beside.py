"""The thread beside the loop that looks at what has been committed: drift, and trials. The loop hands over samples, and
fetches what was found, to publish it with its next commit.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

import structlog

from worker.drift import Drift, DriftWatch, Sample, SensorFault
from worker.drift.monitor import load_river
from worker.metrics import Metrics
from worker.settings import Settings
from worker.trials import ShadowEvent, TakenBack, Trials

log = structlog.get_logger()

Found = Drift | SensorFault | ShadowEvent | TakenBack

EVERY: Final = 0.5  # seconds between looks: what is gathered meanwhile costs hardly more than one batch of it
MOST_WAITING: Final = 500  # samples; beyond, the oldest are not looked at
MOST_FOUND: Final = 2000
END: Final = 2.0  # seconds that the end waits for what is being looked at


class Beside:
    """Nothing that goes wrong here costs the loop anything but what it would have found."""

    def __init__(self, settings: Settings, metrics: Metrics, trials: Trials):
        self._metrics, self._trials = metrics, trials
        self._drift = DriftWatch(settings, metrics) if settings.drift.enabled else None
        self._waiting: deque[Sample] = deque(maxlen=MOST_WAITING)
        self._found: deque[Found] = deque(maxlen=MOST_FOUND)
        self._stop, self._idle = threading.Event(), threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name="beside", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def observe(self, samples: Sequence[Sample]) -> None:
        if samples:
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
        self._idle.wait(timeout)

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(END)

    def _run(self) -> None:
        if self._drift is not None:
            load_river()
        while not self._stop.wait(EVERY):
            try:
                self._look()
            except Exception:
                log.exception("looking_beside_failed", consequence="what was waiting is not looked at")
                self._waiting.clear()
            if not self._waiting:
                self._idle.set()

    def _look(self) -> None:
        samples = [self._waiting.popleft() for _ in range(len(self._waiting))]
        while samples:
            first = samples[0].resident
            sample = Sample.concat([each for each in samples if each.resident is first])
            samples = [each for each in samples if each.resident is not first]
            began = time.perf_counter()
            if self._drift is not None:
                self._found.extend(self._drift.take(sample))
            self._found.extend(self._trials.take(sample))
            self._metrics.stage.labels("beside").observe(time.perf_counter() - began)
