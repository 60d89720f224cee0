"""The thread that analyses committed vectors in parallel with the loop: for drift, for trials, and for trims.

The loop hands over samples, and fetches the findings, to publish them with its next commit.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

import structlog

from worker.drift import DriftWatch
from worker.drift.detectors import load_river
from worker.following import Following
from worker.observability.metrics import Metrics
from worker.publishing.findings import Finding
from worker.rollout import Trials
from worker.serving.sample import Sample
from worker.settings import Settings

log = structlog.get_logger()

EVERY: Final = 0.5  # seconds between two runs: analysing several batches costs hardly more than one
MAX_WAITING: Final = 500  # samples; beyond, the oldest are not looked at
MAX_FINDINGS: Final = 2000
END: Final = 2.0  # seconds to wait at the end for a running analysis


class AnalysisThread:
    """Looks for drift, runs trials and follows entities, on samples of what was committed.

    An error here never reaches the loop.
    """

    def __init__(self, settings: Settings, metrics: Metrics, trials: Trials):
        self._metrics, self._trials = metrics, trials
        self._drift = DriftWatch(settings, metrics) if settings.drift.enabled else None
        self._following = Following(settings, metrics) if settings.detection.follow else None
        self._waiting: deque[Sample] = deque(maxlen=MAX_WAITING)
        self._findings: deque[Finding] = deque(maxlen=MAX_FINDINGS)
        self._stop, self._idle = threading.Event(), threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name="analysis", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def observe(self, samples: Sequence[Sample]) -> None:
        """Hand over samples of what was committed."""
        if samples:
            self._waiting.extend(samples)
            self._idle.clear()

    @property
    def has_findings(self) -> bool:
        """Return whether there are findings to publish."""
        return bool(self._findings)

    def findings(self) -> list[Finding]:
        """Return the findings since the last call."""
        return [self._findings.popleft() for _ in range(len(self._findings))]

    def requeue(self, findings: Sequence[Finding]) -> None:
        """Take back findings that could not be published: the next call of `findings` returns them."""
        self._findings.extendleft(reversed(findings))

    def settle(self, timeout: float) -> None:
        """Wait until all samples that were handed over have been analysed, at most `timeout` seconds."""
        self._idle.wait(timeout)

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(END)

    def _run(self) -> None:
        if self._drift is not None:
            load_river()
        while not self._stop.wait(EVERY):
            try:
                self._look()
                if self._following is not None:
                    self._following.publish_if_due()
            except Exception:
                log.exception(
                    "background_analysis_failed", consequence="the samples that were waiting are not analysed"
                )
                self._waiting.clear()
            if not self._waiting:
                self._idle.set()

    def _look(self) -> None:
        samples = [self._waiting.popleft() for _ in range(len(self._waiting))]
        while samples:
            first = samples[0].resident
            sample = Sample.concat([other_sample for other_sample in samples if other_sample.resident is first])
            samples = [other_sample for other_sample in samples if other_sample.resident is not first]
            began = time.perf_counter()
            if self._drift is not None:
                self._findings.extend(self._drift.take(sample))
            self._findings.extend(self._trials.take(sample))
            if self._following is not None:
                self._following.take(sample)
            self._metrics.stage.labels("beside").observe(time.perf_counter() - began)
