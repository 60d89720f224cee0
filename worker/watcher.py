"""Follows the registry beside the loop: loads each new champion, and swaps it in once it has proved itself. With routes
there are several models: each is swapped by itself.
"""

import threading
import time

import structlog

from worker.engine import Engine
from worker.errors import OffnormalError
from worker.metrics import Metrics
from worker.registry import RegistryFollower, RegistryView
from worker.settings import Settings

log = structlog.get_logger()

RETRY_SECONDS = 1.0


class ChampionWatcher:
    """A thread that keeps the engine's resident models the registry's champions.

    An artefact that is damaged, or does not fit, is refused with a log line, a metric and a detail of readiness; the
    model in service goes on.
    """

    def __init__(self, settings: Settings, engine: Engine, metrics: Metrics):
        self._settings = settings
        self._engine = engine
        self._metrics = metrics
        self._stop = threading.Event()
        self._follower = RegistryFollower(settings)
        self._settled: dict[str, tuple[str, int]] = {}  # model -> champion and artefact last served or refused
        self.refusals: dict[str, str] = {}  # model -> the champion that is not served, and why
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
                    for model, view in self._follower.views.items():
                        self._follow(model, view)
                    self.first_look.set()
            except OffnormalError as error:
                log.warning("registry_unavailable", error=str(error))
                self._stop.wait(RETRY_SECONDS)
            except Exception:
                log.exception("registry_failed")
                self._stop.wait(RETRY_SECONDS)
        self._follower.close()

    def _follow(self, model: str, view: RegistryView) -> None:
        version = view.champion()
        if version is None:
            return
        try:
            data = view.artefact(version)
            if self._settled.get(model) == (version, hash(data)):
                return
            self._settled[model] = (version, hash(data))
            started = time.perf_counter()
            resident = self._engine.load(data)
            if (resident.name, resident.version) != (model, version):
                raise OffnormalError(
                    f"the artefact under {model}/{version} says that it is {resident.name}/{resident.version}"
                )
        except Exception as error:  # whatever it is, it must neither be served nor end this thread
            self._refuse(model, version, error)
            return
        before = self._engine.residents.get(model)
        self._engine.swap(resident)
        self.refusals.pop(model, None)
        if before is not None:
            self._metrics.swaps.inc()
        card = resident.card
        self._metrics.model.labels(model).info({"version": card.version, "kind": card.kind})
        self._metrics.model_since.labels(model).set_to_current_time()
        log.info(
            "model_in_service",
            model=model,
            model_version=version,
            replaces=before.version if before else None,
            prepared_seconds=round(time.perf_counter() - started, 4),
            threshold=resident.threshold,
            false_alarm_rate=resident.budget,
        )

    def _refuse(self, model: str, version: str, error: Exception) -> None:
        resident = self._engine.residents.get(model)
        serving = resident.version if resident else None
        self.refusals[model] = f"{version}: {error}"
        self._metrics.refused.inc()
        log.error("model_refused", model=model, model_version=version, reason=str(error), serving=serving)
