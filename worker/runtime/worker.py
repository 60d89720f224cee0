"""The worker: starts and stops all rooms, answers for its health, and runs sessions one after another."""

import gc
import threading
import time
import uuid
from concurrent.futures import Future
from typing import Final

import structlog
from structlog.contextvars import bind_contextvars

from worker.errors import KafkaUnavailable
from worker.kafka.topics import require
from worker.native.malloc import keep_freed
from worker.observability.http_server import Health, HttpServer
from worker.observability.metrics import Metrics
from worker.page import Decisions, Page
from worker.publishing.encoder import EventEncoder
from worker.rollout import Trials
from worker.rollout.champion_watcher import ChampionWatcher
from worker.runtime.analysis_thread import AnalysisThread
from worker.runtime.connections import Connections
from worker.runtime.dispatcher import Dispatcher
from worker.runtime.partition_adoption import PartitionAdoption
from worker.runtime.session import LoopState, Parts, Session
from worker.runtime.watchdog import REBUILDS, Stuck, Watchdog
from worker.serving.model_swap import ResidentModels
from worker.settings import Settings

log = structlog.get_logger()

STALLED_AFTER: Final = 60.0  # seconds without a turn of the loop before liveness fails
RECONNECT_PAUSE: Final = 1.0  # seconds between two tries to connect again
REBUILD_HELPS: Final = 3  # a rebuild has helped if no other follows within this many times the watchdog's patience


class Worker:
    """Runs until `stop` is called, or, with `until_end`, up to the end offsets seen at the start."""

    def __init__(self, settings: Settings, until_end: bool = False):
        self._settings = settings
        self._until_end = until_end
        self._stop = threading.Event()
        self._state = LoopState()
        self._rebuilds, self._rebuilt_at = 0, 0.0  # consecutive rebuilds, and the last one's time
        self._id = uuid.uuid4().hex
        self.metrics = Metrics()
        self.models = ResidentModels(settings)
        self._trials = Trials(settings, self.metrics)
        self._encoder = EventEncoder(settings)
        self._dispatcher = Dispatcher(settings, self.models, self._encoder, self.metrics, self._trials)
        self._analysis = AnalysisThread(settings, self.metrics, self._trials)
        self._watchdog = Watchdog(settings)
        self._watcher: ChampionWatcher | None = None

    def stop(self) -> None:
        """Stop after the batch in flight, which is finished and committed. For any thread, or a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Run until stopped. Raises OffnormalError where it cannot start or go on."""
        settings, topics = self._settings, self._settings.topics
        bind_contextvars(group=settings.kafka.group)
        keep_freed()
        page = self._page() if settings.http.port and settings.http.page else None
        routes = page.routes if page is not None else {}
        http = HttpServer(settings.http, self.metrics, self.health, routes) if settings.http.port else None
        try:
            if page is not None:
                page.start()
            self._analysis.start()
            births = [topics.births] if settings.input.is_sparkplug else []
            reads = [topics.sensors, topics.models, topics.incidents, *births]
            require(settings, reads=reads, writes=settings.written)
            self._encoder.register()
            self._watcher = ChampionWatcher(settings, self.models, self.metrics, self._trials)
            self._watcher.start()
            if self._await_champion():
                self._serve()
        finally:
            self._analysis.close()
            self._dispatcher.close()
            if self._watcher is not None:
                self._watcher.close()
            if page is not None:
                page.close()
            if http is not None:
                http.close()

    def _page(self) -> Page:
        def decisions() -> Decisions:
            return self._watcher.decisions if self._watcher else {}

        return Page(self._settings, self.metrics, self.models, self.health, decisions)

    def health(self) -> Health:
        """Return the health that the probes report."""
        is_live = time.monotonic() - self._state.turned < STALLED_AFTER and self._recent_rebuilds() <= REBUILDS
        waits_for = self._waits_for()
        details = {
            "models": {model: resident.version for model, resident in self.models.by_name.items()},
            "waits_for": waits_for,
            "refused_models": dict(self._watcher.refusals) if self._watcher else {},
        }
        return Health(is_live, is_live and waits_for is None, details)

    def _waits_for(self) -> str | None:
        if self.models.lacking():
            has_looked = self._watcher is not None and self._watcher.first_look.is_set()
            return "a champion" if has_looked else "the registry, which is being read"
        return None if self._state.is_member else "the consumer group"

    def _await_champion(self) -> bool:
        """Wait until all models that are needed are there; return False if told to stop first."""
        assert self._watcher is not None
        while not self._watcher.first_look.wait(0.05) and not self._stop.is_set():
            self._state.turned = time.monotonic()
        if (lacking := self.models.lacking()) and not self._stop.is_set():
            named = "" if lacking[0] == self._settings.model.name else f"OFFNORMAL_MODEL__NAME={lacking[0]} "
            hint = f"`{named}python -m training` makes and promotes one"
            log.warning("champion_awaited", models=lacking, hint=hint)
        while self.models.lacking() and not self._stop.is_set():
            self._state.turned = time.monotonic()
            self._stop.wait(0.05)
        return not self._stop.is_set()

    def _serve(self) -> None:
        self._dispatcher.serve_resident_models()
        self._dispatcher.warm_up()
        # What is loaded by now stays. The garbage collector need not look through torch's modules for each batch.
        gc.collect()
        gc.freeze()
        self._watchdog.start()
        try:
            connections: Connections | None = Connections(self._settings, self._id)
            while connections is not None:
                try:
                    self._run_session(connections)
                    return
                except Stuck as reason:
                    self._rebuild(reason)
                finally:
                    connections.close()
                connections = self._connect_again()
        finally:
            self._watchdog.close()

    def _run_session(self, connections: Connections) -> None:
        """Run the loop by these connections. Raises Stuck where they are to be made anew."""
        parts = Parts(
            settings=self._settings,
            metrics=self.metrics,
            dispatcher=self._dispatcher,
            encoder=self._encoder,
            analysis=self._analysis,
            watchdog=self._watchdog,
            stop=self._stop,
        )
        adoption = PartitionAdoption(self._settings, connections, self._dispatcher)
        session = Session(parts, self._state, connections.source, connections.sink, adoption)
        try:
            session.run(self._until_end)
        except Stuck:
            session.abandon()
            raise

    def _connect_again(self) -> Connections | None:
        """Connect, however long the brokers are away: unlike a start, a worker that has run does not end by that.

        Returns None if told to stop first. A try may take longer than SIGTERM leaves time for, so it has its own
        thread, which ends with the process.
        """
        while not self._stop.is_set():
            attempt: Future[Connections] = Future()
            threading.Thread(target=self._connect, args=(attempt,), name="connecting", daemon=True).start()
            while not attempt.done() and not self._stop.wait(0.05):
                self._state.turned = time.monotonic()
            if not attempt.done():
                break
            try:
                return attempt.result()
            except KafkaUnavailable as error:
                log.warning("reconnection_failed", error=str(error))
            self._watchdog.restart()
            self._stop.wait(RECONNECT_PAUSE)
        return None

    def _connect(self, attempt: "Future[Connections]") -> None:
        try:
            attempt.set_result(Connections(self._settings, self._id))
        except BaseException as error:
            attempt.set_exception(error)

    def _rebuild(self, reason: Stuck) -> None:
        """Make the connections anew. Liveness fails where several times in a row do not help."""
        self._rebuilds, self._rebuilt_at = self._recent_rebuilds() + 1, time.monotonic()
        is_live = self._rebuilds <= REBUILDS
        log.error("connections_rebuilt", reason=str(reason), times=self._rebuilds, live=is_live)
        self.metrics.rebuilt.inc()
        self._state.is_member = False
        self._watchdog.restart()

    def _recent_rebuilds(self) -> int:
        """Return how many consecutive rebuilds did not help: none if the loop has kept running since."""
        has_helped = self._state.turned - self._rebuilt_at > REBUILD_HELPS * self._watchdog.patience
        return 0 if has_helped else self._rebuilds
