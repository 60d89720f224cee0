"""The worker: source -> decode -> score -> judge -> sink, a turn of the loop at a time. Sees all rooms, does no detail.

A checkpoint is what one commit covers: the outputs of some batches, and the offsets after them. It is committed as
soon as somebody waits for its outputs and no backlog does, else each commit interval.
"""

import gc
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import structlog
from kafka import OffsetAndMetadata, TopicPartition
from structlog.contextvars import bind_contextvars

from worker.detection import Judge
from worker.engine import Engine, Float32s, Resident
from worker.events import EventEncoder, PerVector
from worker.http import Health, HttpServer
from worker.kafka import Redo, Sink, Source, open_sink
from worker.kafka.topics import require, specs
from worker.metrics import Metrics
from worker.settings import Settings
from worker.vectors import Decoder, RecordBlock, VectorBlock
from worker.watcher import ChampionWatcher

log = structlog.get_logger()

IDLE_POLL = 0.1  # seconds that a poll waits for the first record: also how soon a signal is seen
STALLED_AFTER = 60.0  # seconds without a turn of the loop before liveness fails
OBSERVE_EVERY = 1.0  # lag and other gauges
REPORT_EVERY = 10.0  # a line of progress in the log


@dataclass
class Checkpoint:
    """What is scored and not yet committed."""

    ends: dict[int, int] = field(default_factory=dict)  # partition -> offset to commit
    rows: Counter[str] = field(default_factory=Counter)  # by model version
    has_outputs: bool = False
    unscorable: int = 0
    nulls: int = 0
    events: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    since: float = 0.0

    @property
    def empty(self) -> bool:
        return not self.ends


class Worker:
    """Runs until `stop` is called, or, with `until_end`, up to the end offsets seen at the start."""

    def __init__(self, settings: Settings, until_end: bool = False):
        self._settings = settings
        self._until_end = until_end
        self._stop = threading.Event()
        self._turned = time.monotonic()
        self._joined = False
        self._vectors = 0  # committed
        self._rebalances = 0
        self._checkpoint = Checkpoint()
        self._decoder: tuple[Resident, Decoder] | None = None
        self.metrics = Metrics()
        self.engine = Engine(settings)
        self._judge = Judge(settings.detection.top_features)
        self._encoder = EventEncoder(settings)
        self._watcher: ChampionWatcher | None = None

    def stop(self) -> None:
        """From any thread, or a signal handler: no new poll; the batch in flight is finished and committed."""
        self._stop.set()

    def run(self) -> None:
        """Raises OffnormalError where it cannot start or go on."""
        settings = self._settings
        bind_contextvars(group=settings.kafka.group)
        http = HttpServer(settings.http, self.metrics, self.health) if settings.http.port else None
        try:
            require(settings, [spec.name for spec in specs(settings)])
            self._watcher = ChampionWatcher(settings, self.engine, self.metrics)
            self._watcher.start()
            if self._await_champion():
                self._serve()
        finally:
            if self._watcher is not None:
                self._watcher.close()
            if http is not None:
                http.close()

    def health(self) -> Health:
        resident = self.engine.resident
        live = time.monotonic() - self._turned < STALLED_AFTER
        refusal = self._watcher.refusal if self._watcher else None
        waits_for = "a champion" if resident is None else None if self._joined else "the consumer group"
        detail = {"model": resident.version if resident else None, "waits_for": waits_for, "refused_model": refusal}
        return Health(live, live and waits_for is None, detail)

    # -- start

    def _await_champion(self) -> bool:
        """Consumes nothing before there is a model. False if told to stop first."""
        assert self._watcher is not None
        self._watcher.first_look.wait(5)
        if self.engine.resident is None:
            model = self._settings.model.name
            log.warning("waits_for_champion", model=model, hint="`python -m training` makes and promotes one")
        while self.engine.resident is None and not self._stop.is_set():
            self._turned = time.monotonic()
            self._stop.wait(0.05)
        return not self._stop.is_set()

    # -- the loop

    def _serve(self) -> None:
        # What is loaded by now stays: the collector need not look through torch's modules for each batch of records.
        gc.collect()
        gc.freeze()
        source = Source(self._settings.kafka, self._settings.topics.sensors)
        try:
            sink = open_sink(self._settings, source)
            try:
                self._loop(source, sink)
            finally:
                sink.close()
        finally:
            source.close()

    def _loop(self, source: Source, sink: Sink) -> None:
        ends = source.end_offsets() if self._until_end else None
        backoff, observe_at, report_at = 0.0, 0.0, time.monotonic() + REPORT_EVERY
        log.info("worker_starts", delivery=self._settings.delivery)
        while not self._stop.is_set():
            self._turned = time.monotonic()
            try:
                full = self._turn(source, sink)
                if self._due(full):
                    self._commit(source, sink)
                    backoff = 0.0
                if ends is not None and self._reached(source, ends):
                    break
            except Redo as fault:
                backoff = min(max(2 * backoff, 0.05), 2.0)
                self._redo(source, sink, fault, backoff)
            if self._turned >= observe_at:
                self._observe(source)
                observe_at = self._turned + OBSERVE_EVERY
            if self._turned >= report_at:
                self._report(source)
                report_at = self._turned + REPORT_EVERY
        try:
            if not self._checkpoint.empty:
                self._commit(source, sink)
        except Redo as fault:
            sink.discard()
            log.warning("last_commit_failed", reason=str(fault), consequence="the next owner redoes these rows")
        log.info("worker_stops", vectors=self._vectors)

    def _turn(self, source: Source, sink: Sink) -> bool:
        """One batch. True if it was full: more is waiting."""
        records, full = self._gather(source)
        self._joined = source.joined()
        if source.rebalances != self._rebalances:
            self._rebalances = source.rebalances
            bind_contextvars(partitions=source.partitions())
        if records is not None:
            self._process(records, sink)
        return full

    def _gather(self, source: Source) -> tuple[RecordBlock | None, bool]:
        """What has arrived, up to a batch; waits at most the batch's delay for more."""
        batch, stage = self._settings.batch, self.metrics.stage
        # A commit that is not due yet must not wait longer than its interval for the next record.
        block = source.poll(IDLE_POLL if self._checkpoint.empty else batch.max_delay, batch.max_rows)
        if block is None:
            return None, False
        with stage.labels("gather").time():
            blocks, records = [block], len(block)
            deadline = time.monotonic() + batch.max_delay
            while records < batch.max_rows and (left := deadline - time.monotonic()) > 0:
                block = source.poll(left, batch.max_rows - records)
                if block is not None:
                    blocks.append(block)
                    records += len(block)
            return RecordBlock.concat(blocks), records >= batch.max_rows

    def _process(self, records: RecordBlock, sink: Sink) -> None:
        """Decodes, scores, judges and sends; every row by the one model resident at the batch's start."""
        resident, decoder = self._current()
        stage = self.metrics.stage
        with stage.labels("decode").time():
            block = decoder.decode(records)
        with stage.labels("score").time():
            scores = resident.score(block.x)
        with stage.labels("judge").time():
            anomalies = self._judge.anomalies(block, scores, resident)
            outputs = self._encoder.anomalies(anomalies, block, resident)
            outputs += self._encoder.dead_letters(block.rejects, block)
            for name in self._settings.outputs:
                values = per_vector(name, resident, block.x, scores)
                outputs += self._encoder.vectors(name, scores, values, block, resident)
        if outputs:
            with stage.labels("send").time():
                sink.send(outputs)
        self.metrics.batch_rows.observe(len(block))
        self._add(
            block,
            resident.version,
            bool(outputs),
            unscorable=int((scores != scores).sum()),
            severities=[a.severity for a in anomalies],
        )

    def _current(self) -> tuple[Resident, Decoder]:
        resident = self.engine.resident
        assert resident is not None
        if self._decoder is None or self._decoder[0] is not resident:
            started = time.perf_counter()
            self._decoder = (resident, Decoder(self._settings.input, resident.features))
            pause = time.perf_counter() - started
            bind_contextvars(model_version=resident.version)
            log.info("serves", loop_paused_seconds=round(pause, 6))
        return self._decoder

    # -- checkpoints

    def _add(self, block: VectorBlock, version: str, has_outputs: bool, unscorable: int, severities: list[str]) -> None:
        checkpoint = self._checkpoint
        if checkpoint.empty:
            checkpoint.since = time.monotonic()
        checkpoint.ends.update(block.records.ends())
        checkpoint.rows[version] += len(block)
        checkpoint.has_outputs |= has_outputs
        checkpoint.unscorable += unscorable
        checkpoint.nulls += block.nulls
        checkpoint.events.update(severities)
        checkpoint.dead.update(reject.reason for reject in block.rejects)

    def _due(self, full: bool) -> bool:
        checkpoint = self._checkpoint
        if checkpoint.empty:
            return False
        waited = time.monotonic() - checkpoint.since >= self._settings.batch.commit_interval
        return waited or (checkpoint.has_outputs and not full)

    def _commit(self, source: Source, sink: Sink) -> None:
        checkpoint = self._checkpoint
        with self.metrics.stage.labels("commit").time():
            sink.commit(
                {
                    TopicPartition(source.topic, partition): OffsetAndMetadata(end, "", -1)
                    for partition, end in checkpoint.ends.items()
                }
            )
        self._checkpoint = Checkpoint()
        m = self.metrics
        m.commits.inc()
        for version, rows in checkpoint.rows.items():
            self._vectors += rows
            m.vectors.labels(version).inc(rows)
        m.unscorable.inc(checkpoint.unscorable)
        m.nulls.inc(checkpoint.nulls)
        for severity, count in checkpoint.events.items():
            m.events.labels(severity).inc(count)
        for reason, count in checkpoint.dead.items():
            m.dead_letters.labels(reason).inc(count)

    def _redo(self, source: Source, sink: Sink, fault: Redo, backoff: float) -> None:
        log.warning("redo", reason=str(fault), rows=self._checkpoint.rows.total())
        self.metrics.redone.inc()
        self._checkpoint = Checkpoint()
        sink.discard()
        # Nothing is read before it is known what has been committed.
        while not self._stop.wait(backoff):
            self._turned = time.monotonic()
            try:
                sink.recover()
                source.rewind()
                return
            except Redo as again:
                log.warning("redo", reason=str(again), rows=0)
                sink.discard()
                backoff = min(2 * backoff, 2.0)

    # -- end and report

    def _reached(self, source: Source, ends: dict[int, int]) -> bool:
        """All partitions that this worker owns are read up to their end at the start, and committed."""
        if not self._joined or not self._checkpoint.empty:
            return False
        positions, mine = source.positions(), source.partitions()
        return bool(mine) and all(positions.get(p, 0) >= ends.get(p, 0) for p in mine)

    def _observe(self, source: Source) -> None:
        m = self.metrics
        m.lag.clear()  # a partition that another worker owns now would stand still for ever
        for partition, lag in source.lag().items():
            m.lag.labels(str(partition)).set(lag)
        m.rebalances.set(source.rebalances)
        m.gone.set(source.skipped_by_retention)
        m.device_memory.set(self.engine.memory())

    def _report(self, source: Source) -> None:
        log.info("progress", vectors=self._vectors, lag=sum(source.lag().values()))


def per_vector(output: PerVector, resident: Resident, x: Float32s, scores: Float32s) -> Float32s:
    """What an output topic says of each vector [n, k]."""
    if output == "latents":
        return resident.encode(x)
    if output == "reconstructions":
        return resident.reconstruct(x)
    p_values = np.maximum(resident.calibration.p_value(scores), np.finfo(np.float32).tiny)  # not 0 as float32 either
    return np.column_stack((scores, p_values)).astype(np.float32)
