"""Follows the registry beside the loop: loads each new champion, and swaps it in once it has proved itself; and sets up
the trials, of a challenger, and of a champion in probation. With routes there are several models: each is by itself.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, get_args

import structlog

from worker.engine import Engine, Resident
from worker.errors import ANOTHER_MODEL, OffnormalError
from worker.metrics import Metrics
from worker.registry import RegistryFollower, RegistryView, What
from worker.settings import Settings
from worker.trials import Trials
from worker.trials.trial import Kind

log = structlog.get_logger()

RETRY_SECONDS = 1.0
TOLD: Final = 50  # decisions on a model that are remembered for those who look


class ChampionWatcher:
    """A thread that keeps the engine's resident models the registry's champions.

    An artefact that is damaged, or does not fit, is refused with a log line, a metric and a detail of readiness; the
    model in service goes on.
    """

    def __init__(self, settings: Settings, engine: Engine, metrics: Metrics, trials: Trials):
        self._settings = settings
        self._engine = engine
        self._metrics = metrics
        self._trials = trials
        self._others: dict[tuple[str, Kind], tuple[str, Resident | None]] = {}  # what takes part in trials, or cannot
        self._stop = threading.Event()
        self._follower = RegistryFollower(settings)
        self._settled: dict[str, tuple[str, int]] = {}  # model -> champion and artefact last served or refused
        self.refusals: dict[str, str] = {}  # model -> the champion that is not served, and why
        self.decisions: Mapping[str, Sequence[dict[str, Any]]] = {}  # the last on each model; replaced as a whole
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
                for model, view in self._follower.views.items():
                    self._try(model, view)
            except OffnormalError as error:
                log.warning("registry_unavailable", error=str(error))
                self._stop.wait(RETRY_SECONDS)
            except Exception:
                log.exception("registry_failed")
                self._stop.wait(RETRY_SECONDS)
        self._follower.close()

    def _follow(self, model: str, view: RegistryView) -> None:
        history = view.history()
        self.decisions = {**self.decisions, model: history[-TOLD:]}
        decided = Counter(entry.get("what") for entry in history)
        for what in get_args(What):
            self._metrics.decisions.labels(model, what).set(decided[what])
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
                    f"the artefact under {model}/{version} says that it is {resident.name}/{resident.version};"
                    f" {ANOTHER_MODEL}"
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
        told = {"version": card.version, "kind": card.kind, "device": str(self._engine.device)}
        self._metrics.model.labels(model).info(told)
        self._metrics.model_since.labels(model).set_to_current_time()
        self._metrics.model_made.labels(model).set(_timestamp(card.created))
        self._metrics.budget.labels(model).set(resident.budget)
        log.info(
            "model_in_service",
            model=model,
            model_version=version,
            replaces=before.version if before else None,
            prepared_seconds=round(time.perf_counter() - started, 4),
            threshold=resident.threshold,
            false_alarm_rate=resident.budget,
        )

    def _try(self, model: str, view: RegistryView) -> None:
        """Trials that are due; those that are over end."""
        champion = self._engine.residents.get(model)
        others: dict[Kind, str | None] = {
            "probation": self._former(view),
            "shadow": view.challenger() if self._settings.model.shadow_share else None,
        }
        for kind, version in others.items():
            if (
                champion is None
                or champion.version != view.champion()
                or version is None
                or version == champion.version
            ):
                self._trials.end(model, kind)
                self._others.pop((model, kind), None)
                continue
            other = self._other(model, kind, version, view)
            if other is not None:
                newer, older = (other, champion) if kind == "shadow" else (champion, other)
                self._trials.begin(kind, newer, older)

    def _former(self, view: RegistryView) -> str | None:
        """The champion before, while this one may be taken back to it."""
        change = view.last_change()
        if change is None or change.get("what") != "promoted" or view.pinned():
            return None
        until = _timestamp(str(change.get("when"))) + self._settings.model.probation
        return view.predecessor() if time.time() < until else None

    def _other(self, model: str, kind: Kind, version: str, view: RegistryView) -> Resident | None:
        """Loaded once; None where it must not be, or is not needed."""
        known = self._others.get((model, kind))
        if known is None or known[0] != version:
            try:
                known = version, self._engine.load(view.artefact(version))
            except Exception as error:  # as with a champion
                log.warning("no_trial", trial=kind, model=model, model_version=version, reason=str(error))
                known = version, None
            self._others[model, kind] = known
        return known[1]

    def _refuse(self, model: str, version: str, error: Exception) -> None:
        resident = self._engine.residents.get(model)
        serving = resident.version if resident else None
        self.refusals[model] = f"{version}: {error}"
        self._metrics.refused.inc()
        log.error("model_refused", model=model, model_version=version, reason=str(error), serving=serving)


def _timestamp(told: str) -> float:
    """Seconds since the epoch; NaN where it is no time."""
    try:
        return datetime.fromisoformat(told).timestamp()
    except ValueError:
        return math.nan
