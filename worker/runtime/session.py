"""The loop: source -> pipelines -> sink, for as long as one pair of connections lasts.

A checkpoint is what one commit covers: the outputs of some batches, and the offsets after them. Without a backlog, it
is committed at once if somebody waits for it: for outputs that nobody can read before, or for an incident. Otherwise it
is committed at each commit interval.
"""

import time
from dataclasses import dataclass, field
from threading import Event
from typing import Final

import numpy as np
import structlog
from structlog.contextvars import bind_contextvars

from worker.blocks import RecordBlock
from worker.kafka import OutsideFault, Rewind, Sink, Source
from worker.observability.metrics import Metrics
from worker.publishing.encoder import EventEncoder
from worker.runtime.analysis_thread import AnalysisThread
from worker.runtime.checkpoint import Checkpoint
from worker.runtime.dispatcher import Dispatcher
from worker.runtime.fault_retry import FaultRetry
from worker.runtime.partition_adoption import PartitionAdoption
from worker.runtime.pipeline import ScoredBatch
from worker.runtime.watchdog import LoopReport, Stuck, Watchdog
from worker.settings import Settings

log = structlog.get_logger()

IDLE_POLL: Final = 0.2  # seconds that a poll waits for the first record: also how soon a signal is seen
OBSERVE_EVERY: Final = 1.0  # lag and other gauges
ANALYSIS_PATIENCE: Final = 3.0  # seconds at the end for samples that are still to be analysed
REPORT_EVERY: Final = 10.0  # a line of progress in the log
SILENT_EVERY: Final = 0.5  # a look for entities that have been silent for long
PASSED_EVERY: Final = 1.0  # a look at positions that have gone on without records


@dataclass
class LoopState:
    """The state that outlives the loop's connections, and by which the loop's health is judged."""

    turned: float = field(default_factory=time.monotonic)  # when the loop last began a turn
    is_member: bool = False
    vectors: int = 0  # committed
    progress: int = 0  # counts the commits, and records that were read back for the first time
    replayed_to: dict[int, int] = field(default_factory=dict)  # partition -> how far windows were refilled
    is_excused: bool = False  # what was redone last waits for something other than Kafka


@dataclass(frozen=True)
class Parts:
    """What a session works with, and does not own."""

    settings: Settings
    metrics: Metrics
    dispatcher: Dispatcher
    encoder: EventEncoder
    analysis: AnalysisThread
    watchdog: Watchdog
    stop: Event


class Session:
    """Runs the loop by a source and a sink of its own."""

    def __init__(self, parts: Parts, state: LoopState, source: Source, sink: Sink, adoption: PartitionAdoption):
        self._settings, self._metrics = parts.settings, parts.metrics
        self._dispatcher, self._encoder, self._analysis = parts.dispatcher, parts.encoder, parts.analysis
        self._watchdog, self._stop, self._state = parts.watchdog, parts.stop, state
        self._source, self._sink, self._adoption = source, sink, adoption
        self._retry = FaultRetry(source, sink, parts.stop)
        self._checkpoint = Checkpoint()
        self._committing: Checkpoint | None = None
        self._rebalances = 0
        self._lagging: set[str] = set()  # partitions whose lag is reported
        self._passed_at = 0.0
        self._silent_at = 0.0

    def run(self, until_end: bool) -> None:
        """Run until stopped, or, with `until_end`, up to the end offsets seen now.

        Raises Stuck where connections are to be made anew, OffnormalError where the worker cannot go on.
        """
        ends = self._source.end_offsets() if until_end else None
        state = self._state
        observe_at, report_at = 0.0, time.monotonic() + REPORT_EVERY
        log.info("worker_started", delivery=self._settings.delivery)
        while not self._stop.is_set():
            self._begin_turn()
            try:
                if self._turn():
                    self._retry.succeeded()
                if ends is not None and self._has_reached(ends):
                    break
            except Rewind as fault:
                self._redo(fault)
            if state.turned >= observe_at:
                self._observe()
                observe_at = state.turned + OBSERVE_EVERY
            if state.turned >= report_at:
                log.info("progress_reported", vectors=state.vectors, lag=sum(self._source.lag().values()))
                report_at = state.turned + REPORT_EVERY
        self._finish()
        log.info("worker_stopped", vectors=state.vectors)

    def abandon(self) -> None:
        """Drop uncommitted work. The next session publishes its findings."""
        self._void_uncommitted()
        for partition in self._source.partitions():
            self._dispatcher.forget(partition)

    # -- a turn

    def _begin_turn(self) -> None:
        self._state.turned = time.monotonic()
        if self._watchdog.stuck:
            raise Stuck(self._watchdog.stuck)

    def _turn(self) -> bool:
        """Read, score and send one batch; commit if it is time. Return whether a commit has begun."""
        self._adopt()
        records, is_full = self._read()
        if records is not None:
            self._process(records)
        else:
            self._wait_for_commit()
            self._commit_passed_positions()
        self._process_silent()
        if self._is_due(is_full):
            self._commit()
            if not is_full:  # there is nothing to do meanwhile but to let the next batch gather
                self._wait_for_commit()
            return True
        if not is_full and self._checkpoint.has_outputs:
            self._sink.send_batched()
        return False

    def _adopt(self) -> None:
        self._adoption.forget_revoked()
        if pending := self._adoption.pending():
            self._wait_for_commit()
            self._dispatcher.serve_resident_models()
            self._adoption.adopt(pending)

    def _read(self) -> tuple[RecordBlock | None, bool]:
        """Return what has arrived, up to a batch, and whether it is full: more is waiting."""
        if self._source.joins() and not self._checkpoint.empty:  # the join would void it
            self._commit()
            self._wait_for_commit()
        records, is_full = self._gather()
        self._state.is_member = self._source.joined()
        if self._source.rebalances != self._rebalances:
            self._rebalances, topics = self._source.rebalances, self._source.topics
            bind_contextvars(partitions=[topics.shown(p) for p in self._source.partitions()])
        return records, is_full

    def _gather(self) -> tuple[RecordBlock | None, bool]:
        """Wait for the first record, and then no longer than the batch's delay for more."""
        batch, stage = self._settings.batch, self._metrics.stage
        # A commit that is not due yet must not wait longer than its interval for the next record.
        with stage.labels("fetch").time():
            is_idle = self._checkpoint.empty and self._committing is None
            block = self._source.poll(IDLE_POLL if is_idle else batch.max_delay, batch.max_rows)
        if block is None:
            return None, False
        with stage.labels("gather").time():
            blocks, records, size = [block], len(block), block.size
            max_size = self._settings.kafka.fetch_bytes // 2
            deadline = time.monotonic() + batch.max_delay
            while records < batch.max_rows and size < max_size and (left := deadline - time.monotonic()) > 0:
                block = self._source.poll(left, batch.max_rows - records)
                if block is not None:
                    blocks.append(block)
                    records, size = records + len(block), size + block.size
            return RecordBlock.concat(blocks), records >= batch.max_rows or size >= max_size

    def _process(self, records: RecordBlock) -> None:
        """Score every row by the one model that is resident at the batch's start."""
        self._dispatcher.serve_resident_models()
        is_history = self._source.history(records)
        if is_history is not None:
            self._refill(records.take(np.flatnonzero(is_history)))
            records = records.take(np.flatnonzero(~is_history))
        if not len(records):
            return
        self._checkpoint.begin()
        rows = sum(self._send(batch) for batch in self._dispatcher.score(records))
        if births := self._dispatcher.new_births():
            births = [birth._replace(topic_id=self._source.topic_id(birth.source.partition)) for birth in births]
            self._sink.send([self._encoder.births(births)])
            self._checkpoint.has_outputs = True
        self._checkpoint.ends.update(records.ends())
        self._metrics.batch_rows.observe(rows)

    def _process_silent(self) -> None:
        """Score what entities have sent last that have been silent for long. It is committed with the position."""
        if not self._settings.input.align or self._state.turned < self._silent_at:
            return
        self._silent_at = self._state.turned + SILENT_EVERY
        positions, membership = self._source.standing()
        for batch in self._dispatcher.score_silent(positions):
            self._source.open_work(membership)
            self._checkpoint.begin()
            self._send(batch)
            partition = int(batch.block.records.partition[0])
            self._checkpoint.ends[partition] = positions[partition]

    def _send(self, batch: ScoredBatch) -> int:
        """Send the batch's outputs within the checkpoint; return how many vectors it has."""
        self._wait_for_commit()
        if batch.outputs:
            with self._metrics.stage.labels("send").time():
                self._sink.send(batch.outputs)
        self._checkpoint.add(batch)
        return len(batch.block)

    def _refill(self, history: RecordBlock) -> None:
        self._dispatcher.refill(history)
        for partition, end in history.ends().items():
            if end > self._state.replayed_to.get(partition, 0):
                self._state.replayed_to[partition] = end
                self._state.progress += 1

    # -- commits

    def _is_due(self, is_full: bool) -> bool:
        checkpoint = self._checkpoint
        if checkpoint.empty:
            return self._analysis.has_findings and not is_full
        has_waited = time.monotonic() - checkpoint.since >= self._settings.batch.commit_interval
        somebody_waits = checkpoint.has_outputs and (self._sink.holds_back or self._dispatcher.incidents.news)
        return has_waited or (somebody_waits and not is_full)

    def _commit_passed_positions(self) -> None:
        """Commit positions that have advanced without a record, so that the group's lag is reported correctly."""
        if self._checkpoint.empty and self._state.turned >= self._passed_at:
            self._passed_at = self._state.turned + PASSED_EVERY
            self._checkpoint.begin()
            self._checkpoint.ends.update(self._source.passed())

    def _commit(self) -> None:
        """Begin to commit the checkpoint; the loop goes on with the next one meanwhile."""
        self._wait_for_commit()
        checkpoint = self._checkpoint
        with self._metrics.stage.labels("commit").time():
            changed = self._dispatcher.incidents.changed()
            checkpoint.counts.incidents = sum(incident.notify for incident in changed)
            if changed:
                self._sink.send([self._encoder.incidents(changed)])
            checkpoint.findings = self._analysis.findings()
            if checkpoint.findings:
                self._sink.send(self._encoder.findings(checkpoint.findings))
            state = self._dispatcher.state
            self._sink.commit(self._source.offsets(checkpoint.ends, lambda p, end: state(p, end).dump()))
        self._checkpoint, self._committing = Checkpoint(), checkpoint

    def _wait_for_commit(self) -> None:
        """Wait for the commit that is under way, if there is one, and count what it covers. Raises Rewind."""
        checkpoint = self._committing
        if checkpoint is None:
            return
        with self._metrics.stage.labels("settle").time():
            self._sink.settle()
        self._committing = None
        self._state.progress += 1
        self._state.is_excused = False
        self._state.vectors += checkpoint.counts.vectors.total()
        self._analysis.observe(checkpoint.samples)
        self._metrics.record(checkpoint.counts)

    def _finish(self) -> None:
        """Commit what is scored, and the findings about it that come within a few seconds."""
        try:
            if not self._checkpoint.empty:
                self._commit()
            self._wait_for_commit()
            self._analysis.settle(ANALYSIS_PATIENCE)
            if self._analysis.has_findings:
                self._commit()
                self._wait_for_commit()
        except Rewind as fault:
            self._sink.discard()
            log.warning(
                "last_commit_failed",
                reason=str(fault),
                consequence="the partition's next owner scores these rows again",
            )

    # -- faults

    def _redo(self, fault: Rewind) -> None:
        """Void what is not committed, and read it again once the brokers say what has been committed."""
        rows = sum(checkpoint.counts.vectors.total() for checkpoint in self._uncommitted())
        self._metrics.redone.inc()
        self._state.is_excused = isinstance(fault, OutsideFault)
        self._void_uncommitted()
        self._retry.go_back(fault, rows, self._begin_turn)

    def _uncommitted(self) -> list[Checkpoint]:
        """Return the checkpoints that are not committed, the older one first."""
        return [checkpoint for checkpoint in (self._committing, self._checkpoint) if checkpoint is not None]

    def _void_uncommitted(self) -> None:
        """Forget the checkpoints that are not committed; their findings are published with a later one."""
        for checkpoint in reversed(self._uncommitted()):
            self._analysis.requeue(checkpoint.findings)
        self._checkpoint, self._committing = Checkpoint(), None

    # -- end and report

    def _has_reached(self, ends: dict[int, int]) -> bool:
        """Return whether all partitions that this worker owns are adopted, read up to `ends`, and committed."""
        is_busy = not self._checkpoint.empty or self._committing is not None
        if not self._state.is_member or is_busy or self._source.unadopted():
            return False
        positions, owned = self._source.positions(), self._source.partitions()
        return bool(owned) and all(positions.get(p, 0) >= ends.get(p, 0) for p in owned)

    def _observe(self) -> None:
        metrics, source = self._metrics, self._source
        lags = {str(source.topics.shown(partition)): lag for partition, lag in source.lag().items()}
        for partition, lag in lags.items():
            metrics.lag.labels(partition).set(lag)
        for partition in self._lagging - set(lags):  # another worker's now: the gauge would never change again
            metrics.lag.remove(partition)
        self._lagging = set(lags)
        metrics.rebalances.set(source.rebalances)
        metrics.gone.set(source.starts.skipped_by_retention)
        metrics.truncated.set(source.starts.truncations)
        self._dispatcher.sweep()
        state = self._state
        self._watchdog.observe(
            LoopReport(source.joined(), source.committed_offsets(), state.progress, state.is_excused)
        )
