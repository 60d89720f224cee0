"""All trials of a worker: which are on, and what comes of them."""

import threading
import time
from typing import Final

import numpy as np
import structlog

from worker.blocks.vector_id import VectorId
from worker.errors import OffnormalError
from worker.native.arrays import Bools, Float32s
from worker.observability.metrics import Metrics
from worker.registry import Registry, RegistryView
from worker.rollout.findings import ShadowEvent, TakenBack
from worker.rollout.rate_test import Outcome
from worker.rollout.trial import Kind, Trial
from worker.serving.loaded_model import LoadedModel
from worker.serving.sample import Sample
from worker.settings import Settings

log = structlog.get_logger()

TrialFinding = ShadowEvent | TakenBack

MOST_EVENTS: Final = 200  # of a challenger at once: an alarm storm in the shadow is counted, not written out
AGAIN: Final = 5.0  # seconds after a decision that could not be written
REPORT_EVERY: Final = 60.0


class Trials:
    """The trials of all models.

    Thread-safe: the thread that follows the registry calls `begin` and `end`, the one that analyses samples `take` and
    `end`.
    """

    def __init__(self, settings: Settings, metrics: Metrics):
        self._settings, self._metrics = settings, metrics
        self._trials: dict[tuple[str, Kind], Trial] = {}  # replaced as a whole: who reads it needs no lock
        self._changes = threading.Lock()
        self._not_before = 0.0
        self._report_at = 0.0

    def begin(self, kind: Kind, newer: LoadedModel, older: LoadedModel) -> None:
        """Begin a trial, unless it is on already; then it goes on with these, which may have other trims."""
        key = (newer.name, kind)
        current = self._trials.get(key)
        if current is None or (current.newer.version, current.older.version) != (newer.version, older.version):
            with self._changes:
                self._trials = {**self._trials, key: Trial(kind, newer, older)}
            log.info("trial_started", trial=kind, model=newer.name, newer=newer.version, older=older.version)
        else:
            current.newer, current.older = newer, older

    def end(self, model: str, kind: Kind) -> None:
        """End a trial, if it is on."""
        with self._changes:
            trial = self._trials.get((model, kind))
            self._trials = {key: kept for key, kept in self._trials.items() if key != (model, kind)}
        if trial is not None:
            log.info("trial_ended", trial=kind, model=model, newer=trial.newer.version, **trial.figures())

    def share(self, model: str) -> float:
        """Return the share of the model's vectors that a sample has to have."""
        return self._settings.model.shadow_share if (model, "shadow") in self._trials else 0.0

    def take(self, sample: Sample) -> list[TrialFinding]:
        """Score a sample in each trial of its model; return what comes of it."""
        findings: list[TrialFinding] = []
        for key, trial in self._trials.items():
            in_service = trial.older if trial.kind == "shadow" else trial.newer
            if key[0] != sample.resident.name or in_service.version != sample.resident.version:
                continue
            outcome, scores, named = trial.take(sample)
            self._metrics.trial_rows.labels(trial.kind).inc(len(sample))
            self._metrics.trial_agreement.labels(trial.kind).set(trial.figures()["agreement"])
            if trial.kind == "shadow":
                findings += _events(trial, sample, scores, named)
            if outcome is not None and time.monotonic() >= self._not_before:
                findings += self._decide(trial, outcome)
        self._report()
        return findings

    def _decide(self, trial: Trial, outcome: Outcome) -> list[TrialFinding]:
        """Write the outcome to the registry, unless somebody has decided otherwise meanwhile."""
        registry = Registry(self._settings, trial.newer.name)
        author, figures = self._settings.source, trial.figures()
        version, older = trial.newer.version, trial.older.version
        reason = f"{figures['rate']:.2g} of {figures['rows']:,} vectors over budget, {figures['promised']:.2g} promised"
        why = f"{reason}; {older} flags {figures['rate_of_older']:.2g}"
        done: RegistryView | None
        try:
            if trial.kind == "probation":
                done = registry.take_back(version, author, f"probation: {why}", trial=figures)
            elif outcome == "good":
                done = registry.promote_challenger(version, older, author, f"shadow: {why}", trial=figures)
            else:
                done = registry.drop_challenger(version, author, f"shadow: {why}", trial=figures)
        except OffnormalError as error:
            log.error("trial_decision_failed", trial=trial.kind, outcome=outcome, error=str(error))
            self._not_before = time.monotonic() + AGAIN
            return []
        self.end(trial.newer.name, trial.kind)
        log.warning("trial_decided", trial=trial.kind, model=trial.newer.name, newer=version, outcome=outcome, why=why)
        if trial.kind != "probation" or done is None:
            return []
        self._metrics.taken_back.inc()
        back_to = done.champion() or older
        return [TakenBack(trial.newer.name, version, back_to, int(time.time() * 1000), figures)]

    def _report(self) -> None:
        if time.monotonic() >= self._report_at:
            self._report_at = time.monotonic() + REPORT_EVERY
            for trial in self._trials.values():
                log.info(
                    "trial_compared",
                    trial=trial.kind,
                    model=trial.newer.name,
                    newer=trial.newer.version,
                    **trial.figures(),
                )


def _events(trial: Trial, sample: Sample, scores: Float32s, named: Bools) -> list[TrialFinding]:
    rows = np.flatnonzero(named)[:MOST_EVENTS]
    p_values = trial.newer.calibration.p_value(scores[rows])
    return [
        ShadowEvent(
            model=trial.newer.name,
            version=trial.newer.version,
            champion=trial.older.version,
            id=str(VectorId(*sample.topics.place(int(sample.place[i, 0])), *sample.place[i, 1:].tolist())),
            entity=sample.names[int(sample.entity[i])][1],
            time=int(sample.time[i]),
            score=float(scores[i]),
            p_value=p_value,
            threshold=trial.newer.threshold,
            named=bool(sample.over[i]),
        )
        for i, p_value in zip(rows.tolist(), p_values.tolist(), strict=True)
    ]
