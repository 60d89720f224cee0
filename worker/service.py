"""The worker: source -> lanes (decode, window, score, judge) -> sink, a turn of the loop at a time. Sees all rooms,
does no detail.

A partition that this worker gets, or reads again, is adopted first: windows and incidents go on from the state beside
its committed offset.

A checkpoint is what one commit covers: the outputs of some batches, and the offsets after them. It is committed as soon
as somebody waits for it (for outputs that nobody reads before, or for an incident) and no backlog does, else each
commit interval.
"""

import gc
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import structlog
from kafka import OffsetAndMetadata, TopicPartition
from structlog.contextvars import bind_contextvars

from worker.beside import Beside, Found
from worker.detection import Incidents
from worker.drift import Sample
from worker.engine import Engine
from worker.events import EventEncoder
from worker.http import Health, HttpServer
from worker.incident_log import IncidentLog
from worker.kafka import Redo, Sink, Source, open_sink
from worker.kafka.topics import require
from worker.lane import Lane, Scored
from worker.memory import keep_freed
from worker.metrics import Metrics
from worker.page import Decisions, Page
from worker.router import Router
from worker.settings import Settings
from worker.state import PartitionState
from worker.traces import Traces
from worker.trials import Trials
from worker.vectors import RecordBlock
from worker.watcher import ChampionWatcher

log = structlog.get_logger()

IDLE_POLL = 0.2  # seconds that a poll waits for the first record: also how soon a signal is seen
STALLED_AFTER = 60.0  # seconds without a turn of the loop before liveness fails
SWEEP_EVERY = 10.0  # for what has been silent for long
OBSERVE_EVERY = 1.0  # lag and other gauges
ADOPT_PATIENCE, ADOPT_LONGEST = 0.1, 1.0  # seconds that the loop waits for what was committed, at first and at most
ADOPT_AGAIN = 0.5
STATE_EVERY = 1.0  # a look at where windows would have to be filled from
BESIDE_PATIENCE = 3.0  # seconds at the end for what is still to be looked at
REPORT_EVERY = 10.0  # a line of progress in the log


@dataclass
class Checkpoint:
    """What is scored and not yet committed."""

    ends: dict[int, int] = field(default_factory=dict)  # partition -> offset to commit
    rows: Counter[str] = field(default_factory=Counter)  # by model version
    has_outputs: bool = False
    unscorable: int = 0
    cold: int = 0
    late: int = 0
    restarted: int = 0
    nulls: int = 0
    incidents: int = 0  # to be notified of
    events: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)  # to be told with it
    since: float = 0.0

    @property
    def empty(self) -> bool:
        return not self.ends

    def add(self, scored: Scored) -> None:
        block = scored.block
        self.rows[scored.version] += len(block)
        self.has_outputs |= bool(scored.outputs)
        self.unscorable += scored.unscorable
        self.cold += scored.cold
        self.late += scored.late
        self.restarted += scored.restarted
        self.nulls += block.nulls
        self.events.update(scored.severities)
        self.dead.update(reject.reason for reject in block.rejects)
        if scored.sample is not None:
            self.samples.append(scored.sample)


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
        self._lagging: set[int] = set()  # partitions whose lag is told
        self._checkpoint = Checkpoint()
        self._committing: Checkpoint | None = None
        self._replay_from: dict[int, int | None] = {}  # partition -> offset that fills its windows again
        self._states_at = 0.0
        self._adopt_at, self._adopt_failed = 0.0, 0
        self._sweep_at = 0.0
        self.metrics = Metrics()
        self.engine = Engine(settings)
        self._trials = Trials(settings, self.metrics)
        self._encoder = EventEncoder(settings)
        self._traces = Traces(settings)
        self._incidents = Incidents(settings.incidents, settings.topics.sensors)
        self._router = Router(settings.model.routes, settings.model.name)
        self._lanes = {
            model: Lane(settings, self._incidents, self._encoder, self.metrics, self._trials)
            for model in settings.model.names
        }
        self._beside = Beside(settings, self.metrics, self._trials)
        self._watcher: ChampionWatcher | None = None

    def stop(self) -> None:
        """From any thread, or a signal handler: no new poll; the batch in flight is finished and committed."""
        self._stop.set()

    def run(self) -> None:
        """Raises OffnormalError where it cannot start or go on."""
        settings = self._settings
        bind_contextvars(group=settings.kafka.group)
        keep_freed()
        page = self._page() if settings.http.port and settings.http.page else None
        routes = page.routes if page is not None else {}
        http = HttpServer(settings.http, self.metrics, self.health, routes) if settings.http.port else None
        try:
            if page is not None:
                page.start()
            self._beside.start()
            topics = settings.topics
            require(
                settings,
                reads=[topics.sensors, topics.models, topics.incidents],
                writes=settings.written,
            )
            self._encoder.register()
            self._watcher = ChampionWatcher(settings, self.engine, self.metrics, self._trials)
            self._watcher.start()
            if self._await_champion():
                self._serve()
        finally:
            self._beside.close()
            self._traces.close()
            if self._watcher is not None:
                self._watcher.close()
            if page is not None:
                page.close()
            if http is not None:
                http.close()

    def _page(self) -> Page:
        def decisions() -> Decisions:
            return self._watcher.decisions if self._watcher else {}

        return Page(self._settings, self.metrics, self.engine, self.health, decisions)

    def health(self) -> Health:
        resident = self.engine.resident
        live = time.monotonic() - self._turned < STALLED_AFTER
        refused = dict(self._watcher.refusals) if self._watcher else {}
        waits_for = "a champion" if resident is None else None if self._joined else "the consumer group"
        serving = {model: each.version for model, each in self.engine.residents.items()}
        detail = {"models": serving, "waits_for": waits_for, "refused_models": refused}
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
        self._serve_residents()
        for lane in self._lanes.values():
            lane.warm_up()
        gc.collect()
        gc.freeze()
        with ExitStack() as stack:
            source = Source(self._settings.kafka, self._settings.topics.sensors)
            stack.callback(source.close)
            incident_log = IncidentLog(self._settings)
            stack.callback(incident_log.close)
            sink = open_sink(self._settings, source)
            stack.callback(sink.close)
            self._loop(source, sink, incident_log)

    def _loop(self, source: Source, sink: Sink, incident_log: IncidentLog) -> None:
        ends = source.end_offsets() if self._until_end else None
        backoff, observe_at, report_at = 0.0, 0.0, time.monotonic() + REPORT_EVERY
        log.info("worker_starts", delivery=self._settings.delivery)
        while not self._stop.is_set():
            self._turned = time.monotonic()
            try:
                self._adopt(source, sink, incident_log)
                full = self._turn(source, sink)
                if self._due(full, sink):
                    self._commit(source, sink)
                    if not full:  # there is nothing to do meanwhile but to let the next batch gather
                        self._settle(sink)
                    backoff = 0.0
                elif not full and self._checkpoint.has_outputs:
                    sink.let_go()
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
            self._settle(sink)
            self._beside.settle(BESIDE_PATIENCE)
            if self._beside.has_found:
                self._commit(source, sink)
                self._settle(sink)
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
            self._process(records, source, sink)
        else:
            self._settle(sink)
        return full

    def _gather(self, source: Source) -> tuple[RecordBlock | None, bool]:
        """What has arrived, up to a batch; waits at most the batch's delay for more."""
        batch, stage = self._settings.batch, self.metrics.stage
        # A commit that is not due yet must not wait longer than its interval for the next record.
        with stage.labels("fetch").time():
            idle = self._checkpoint.empty and self._committing is None
            block = source.poll(IDLE_POLL if idle else batch.max_delay, batch.max_rows)
        if block is None:
            return None, False
        with stage.labels("gather").time():
            blocks, records, size = [block], len(block), block.size
            enough = self._settings.kafka.fetch_bytes // 2
            deadline = time.monotonic() + batch.max_delay
            while records < batch.max_rows and size < enough and (left := deadline - time.monotonic()) > 0:
                block = source.poll(left, batch.max_rows - records)
                if block is not None:
                    blocks.append(block)
                    records, size = records + len(block), size + block.size
            return RecordBlock.concat(blocks), records >= batch.max_rows or size >= enough

    def _process(self, records: RecordBlock, source: Source, sink: Sink) -> None:
        """Every row by the one model that is resident at the batch's start."""
        self._serve_residents()
        history = source.history(records)
        if history is not None:
            old = records.take(np.flatnonzero(history))
            for model, part in self._router.split(old):
                self._lanes[model].refill(part)
            self.metrics.replayed.inc(len(old))
            records = records.take(np.flatnonzero(~history))
        if not len(records):
            return
        checkpoint = self._checkpoint
        if checkpoint.empty:
            checkpoint.since = time.monotonic()
        rows = 0
        for model, part in self._router.split(records):
            with self._traces.batch(part, model) as span:
                scored = self._lanes[model].score(part, span)
            self._settle(sink)
            if scored.outputs:
                with self.metrics.stage.labels("send").time():
                    sink.send(scored.outputs)
            checkpoint.add(scored)
            rows += len(scored.block)
        checkpoint.ends.update(records.ends())
        self.metrics.batch_rows.observe(rows)

    def _serve_residents(self) -> None:
        """The models as they are now. Raises Redo where windows have to be filled first."""
        residents, otherwise = self.engine.residents, self.engine.resident
        for model, lane in self._lanes.items():
            resident = residents.get(model, otherwise)
            assert resident is not None
            started = time.perf_counter()
            if lane.serve(resident):
                pause = round(time.perf_counter() - started, 6)
                if len(self._lanes) == 1:
                    bind_contextvars(model_version=resident.version)
                log.info("serves", model=resident.name, model_version=resident.version, loop_paused_seconds=pause)

    # -- partitions that come

    def _adopt(self, source: Source, sink: Sink, incident_log: IncidentLog) -> None:
        """Goes on where the last owner of new partitions has stopped. What that is may be in doubt for a while, after a
        crash: then the other partitions do not wait for it. Raises Redo.
        """
        for partition in source.gone():
            self._forget(partition)
        strange = source.strange()
        if not strange or self._turned < self._adopt_at:
            return
        self._settle(sink)
        self._serve_residents()
        patience = min(ADOPT_PATIENCE * 2**self._adopt_failed, ADOPT_LONGEST)
        for partition in strange:
            # In this order: what was committed with the offsets has been written by then.
            committed = source.adopt(partition, patience)
            if committed is None or not incident_log.catch_up(patience):
                source.leave(partition)
                self._adopt_failed += 1
                self._adopt_at = self._turned + ADOPT_AGAIN
                return
            self._forget(partition)
            state = PartitionState.load(committed.metadata)
            self._incidents.restore(partition, state.suspects, incident_log.of(partition))
            if self._settings.model.window > 1 and committed.offset is not None:
                self._read_back(source, partition, committed.offset, state)
        self._adopt_failed = 0

    def _forget(self, partition: int) -> None:
        self._replay_from.pop(partition, None)
        self._incidents.forget(partition)
        for lane in self._lanes.values():
            lane.forget(partition)

    def _read_back(self, source: Source, partition: int, end: int, state: PartitionState) -> None:
        least = max(end - self._settings.entities.replay, 0)
        wanted = least if state.replay is None else max(min(state.replay, end), least)
        begin = source.replay(partition, wanted, end)
        log.info("windows_fill", partition=partition, records=max(end - begin, 0))
        if begin > wanted and state.replay is not None:
            log.warning(
                "windows_cut_by_retention",
                partition=partition,
                wanted=wanted,
                earliest=begin,
                consequence="entities whose vectors are gone start cold",
            )

    # -- checkpoints

    def _due(self, full: bool, sink: Sink) -> bool:
        checkpoint = self._checkpoint
        if checkpoint.empty:
            return self._beside.has_found and not full
        waited = time.monotonic() - checkpoint.since >= self._settings.batch.commit_interval
        somebody_waits = checkpoint.has_outputs and (sink.holds_back or self._incidents.news)
        return waited or (somebody_waits and not full)

    def _commit(self, source: Source, sink: Sink) -> None:
        """Begins to commit the checkpoint; the loop goes on with the next one meanwhile."""
        checkpoint = self._checkpoint
        self._settle(sink)
        with self.metrics.stage.labels("commit").time():
            changed = self._incidents.changed()
            checkpoint.incidents = sum(incident.notify for incident in changed)
            if changed:
                sink.send([self._encoder.incidents(changed)])
            checkpoint.found = self._beside.found()
            if checkpoint.found:
                sink.send(self._encoder.found(checkpoint.found))
            offsets = {}
            for partition, end in checkpoint.ends.items():
                state = self._state(partition, end).dump()
                offsets[TopicPartition(source.topic, partition)] = OffsetAndMetadata(end, state, -1)
            sink.commit(offsets)
        self._checkpoint, self._committing = Checkpoint(), checkpoint

    def _settle(self, sink: Sink) -> None:
        """Waits for the commit that is under way, if there is one, and counts what it covers. Raises Redo."""
        checkpoint = self._committing
        if checkpoint is None:
            return
        with self.metrics.stage.labels("settle").time():
            sink.settle()
        self._committing = None
        self._beside.observe(checkpoint.samples)
        m = self.metrics
        m.commits.inc()
        for version, rows in checkpoint.rows.items():
            self._vectors += rows
            m.vectors.labels(version).inc(rows)
        m.unscorable.inc(checkpoint.unscorable)
        m.cold.inc(checkpoint.cold)
        m.late.inc(checkpoint.late)
        m.restarted.inc(checkpoint.restarted)
        m.incidents.inc(checkpoint.incidents)
        m.nulls.inc(checkpoint.nulls)
        for severity, count in checkpoint.events.items():
            m.events.labels(severity).inc(count)
        for reason, count in checkpoint.dead.items():
            m.dead_letters.labels(reason).inc(count)

    def _state(self, partition: int, end: int) -> PartitionState:
        """What the next owner of the partition has to know. Where to read back to is looked for only now and then: an
        earlier place is as good, and read a little longer.
        """
        now = time.monotonic()
        if now >= self._states_at + STATE_EVERY:
            self._states_at, self._replay_from = now, {}
        if partition not in self._replay_from:
            depth = self._settings.entities.replay
            windows = [lane.windows for lane in self._lanes.values() if lane.windows is not None]
            places = [w.replay_from(partition, end, depth) for w in windows]
            self._replay_from[partition] = min(places, default=None)
        return PartitionState(self._replay_from[partition], self._incidents.suspects(partition))

    def _redo(self, source: Source, sink: Sink, fault: Redo, backoff: float) -> None:
        open = [each for each in (self._committing, self._checkpoint) if each is not None]
        log.warning("redo", reason=str(fault), rows=sum(each.rows.total() for each in open))
        self.metrics.redone.inc()
        for each in reversed(open):
            self._beside.again(each.found)
        self._checkpoint, self._committing = Checkpoint(), None
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
        if not self._joined or not self._checkpoint.empty or self._committing is not None:
            return False
        positions, mine = source.positions(), source.partitions()
        return bool(mine) and all(positions.get(p, 0) >= ends.get(p, 0) for p in mine)

    def _observe(self, source: Source) -> None:
        m = self.metrics
        lags = source.lag()
        for partition, lag in lags.items():
            m.lag.labels(str(partition)).set(lag)
        for partition in self._lagging - set(lags):  # another worker's now: it would stand still for ever
            m.lag.remove(str(partition))
        self._lagging = set(lags)
        m.rebalances.set(source.rebalances)
        m.gone.set(source.skipped_by_retention)
        m.device_memory.set(self.engine.memory())
        if self._turned >= self._sweep_at:
            self._incidents.sweep(self._settings.entities.idle)
            self._sweep_at = self._turned + SWEEP_EVERY
        m.open_incidents.set(self._incidents.open)
        windows = [lane.windows for lane in self._lanes.values() if lane.windows is not None]
        for each in windows:
            each.sweep()
        m.entities.set(sum(map(len, windows)))
        m.evicted.set(sum(each.evicted for each in windows))

    def _report(self, source: Source) -> None:
        log.info("progress", vectors=self._vectors, lag=sum(source.lag().values()))
