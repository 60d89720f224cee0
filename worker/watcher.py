"""Follows the registry beside the loop: loads each new champion, and swaps it in once it has proved itself."""

import threading
import time

import structlog

from worker.engine import Engine
from worker.errors import OffnormalError
from worker.metrics import Metrics
from worker.registry import RegistryFollower
from worker.settings import Settings

log = structlog.get_logger()

RETRY_SECONDS = 1.0


class ChampionWatcher:
    """A thread that keeps the engine's resident model the registry's champion.

    An artefact that is damaged, or does not fit, is refused with a log line, a metric and a detail of readiness; the
    model in service goes on.
    """

    def __init__(self, settings: Settings, engine: Engine, metrics: Metrics):
        self._settings = settings
        self._engine = engine
        self._metrics = metrics
        self._stop = threading.Event()
        self._follower = RegistryFollower(settings)
        self._settled: tuple[str, int] | None = None  # champion and artefact that were last served or refused
        self.refusal: str | None = None
        self.first_look = threading.Event()
        self._thread = threading.Thread(target=self._run, name="champion-watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                changed = self._follower.poll(0.2)
                if changed or not self.first_look.is_set():
                    self._follow()
                    self.first_look.set()
            except OffnormalError as error:
                log.warning("registry_unavailable", error=str(error))
                self._stop.wait(RETRY_SECONDS)
            except Exception:
                log.exception("registry_failed")
                self._stop.wait(RETRY_SECONDS)
        self._follower.close()

    def _follow(self) -> None:
        version = self._follower.view.champion()
        if version is None:
            return
        try:
            data = self._follower.view.artefact(version)
            if self._settled == (version, hash(data)):
                return
            self._settled = (version, hash(data))
            started = time.perf_counter()
            resident = self._engine.load(data)
            if resident.version != version:
                raise OffnormalError(f"the artefact under {version} says that it is {resident.version}")
        except Exception as error:  # whatever it is, it must neither be served nor end this thread
            self._refuse(version, error)
            return
        before = self._engine.resident
        self._engine.swap(resident)
        self.refusal = None
        if before is not None:
            self._metrics.swaps.inc()
        card = resident.card
        self._metrics.model.info({"name": card.name, "version": card.version, "kind": card.kind})
        self._metrics.model_since.set_to_current_time()
        log.info(
            "model_in_service",
            model_version=version,
            replaces=before.version if before else None,
            prepared_seconds=round(time.perf_counter() - started, 4),
            threshold=resident.threshold,
            false_alarm_rate=resident.budget,
        )

    def _refuse(self, version: str, error: Exception) -> None:
        serving = self._engine.resident.version if self._engine.resident else None
        self.refusal = f"{version}: {error}"
        self._metrics.refused.inc()
        log.error("model_refused", model_version=version, reason=str(error), serving=serving)
