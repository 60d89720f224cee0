"""Follows the registry in parallel with the loop.

It loads each new champion, and swaps it in once it has passed its checks. It also sets up the trials of a challenger,
and of a champion in probation. With routes there are several models, each handled separately.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, get_args

import structlog

from worker.blocks.timestamps import milliseconds
from worker.errors import ANOTHER_MODEL, OffnormalError
from worker.observability.metrics import Metrics
from worker.registry import RegistryFollower, RegistryView, What
from worker.registry.trim_records import is_own
from worker.rollout import Trials
from worker.rollout.trial import Kind
from worker.serving.loaded_model import LoadedModel
from worker.serving.model_swap import ResidentModels
from worker.settings import Settings

log = structlog.get_logger()

RETRY_SECONDS = 1.0
TOLD: Final = 50  # decisions on a model that are remembered for those who look


class ChampionWatcher:
    """A thread that keeps the models in service the registry's champions.

    An artefact that is damaged, or does not fit, is refused with a log line, a metric and a detail of readiness; the
    model in service goes on.
    """

    def __init__(self, settings: Settings, models: ResidentModels, metrics: Metrics, trials: Trials):
        self._settings = settings
        self._models = models
        self._metrics = metrics
        self._trials = trials
        self._others: dict[
            tuple[str, Kind], tuple[str, LoadedModel | None]
        ] = {}  # what takes part in trials, or cannot
        self._stop = threading.Event()
        self._follower = RegistryFollower(settings)
        self._settled: dict[str, tuple[str, int]] = {}  # model -> champion and artefact last served or refused
        self._followed: dict[str, int] = {}  # model -> how many decisions and artefacts were followed
        self.refusals: dict[str, str] = {}  # model -> the champion that is not served, and why
        self.decisions: Mapping[str, Sequence[dict[str, Any]]] = {}  # the last on each model; replaced as a whole
        self.first_look = threading.Event()
        self._thread = threading.Thread(target=self._run, name="champion-watcher", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                changed = self._follower.poll(0.2)
                # Former champions that are read on the way to the latest decision must not score anything.
                if changed or (not self.first_look.is_set() and self._follower.caught_up()):
                    for model, view in self._follower.views.items():
                        self._follow(model, view)
                    self.first_look.set()
                for model, view in self._follower.views.items():
                    self._try(model, view)
            except OffnormalError as error:
                log.warning("registry_connection_failed", error=str(error))
                self._stop.wait(RETRY_SECONDS)
            except Exception:
                log.exception("registry_read_failed")
                self._stop.wait(RETRY_SECONDS)
        self._follower.close()

    def _follow(self, model: str, view: RegistryView) -> None:
        if self._followed.get(model) == view.changes:
            self._trim(model, view)
            return
        self._followed[model] = view.changes
        history = view.history()
        self.decisions = {**self.decisions, model: history[-TOLD:]}
        decided = Counter(entry.get("what") for entry in history)
        for decision in get_args(What):
            self._metrics.decisions.labels(model, decision).set(decided[decision])
        version = view.champion()
        if version is None:
            return
        try:
            data = view.artefact(version)
            if self._settled.get(model) == (version, hash(data)):
                self._trim(model, view)
                return
            self._settled[model] = (version, hash(data))
            started = time.perf_counter()
            resident = self._models.load(data)
            if (resident.name, resident.version) != (model, version):
                raise OffnormalError(
                    f"the artefact stored as {model}/{version} claims to be {resident.name}/{resident.version};"
                    f" {ANOTHER_MODEL}"
                )
        except Exception as error:  # whatever it is, it must neither be served nor end this thread
            self._refuse(model, version, error)
            return
        before = self._models.by_name.get(model)
        self._models.swap(self._trimmed(resident, view))
        self.refusals.pop(model, None)
        if before is not None:
            self._metrics.swaps.inc()
        card = resident.card
        info = {"version": card.version, "kind": card.kind, "device": str(self._models.device)}
        self._metrics.model.labels(model).info(info)
        self._metrics.model_since.labels(model).set_to_current_time()
        self._metrics.model_made.labels(model).set(_timestamp(card.created))
        self._metrics.budget.labels(model).set(resident.budget)
        log.info(
            "model_swapped",
            model=model,
            model_version=version,
            replaces=before.version if before else None,
            prepared_seconds=round(time.perf_counter() - started, 4),
            threshold=resident.threshold,
            false_alarm_rate=resident.budget,
            expected_rate=resident.expected_rate,
        )

    def _trim(self, model: str, view: RegistryView) -> None:
        """Let the model in service score by trims that are new."""
        resident = self._models.by_name.get(model)
        if resident is not None and resident.version == view.champion():
            trimmed = self._trimmed(resident, view)
            if trimmed is not resident:
                self._models.swap(trimmed)

    def _trimmed(self, resident: LoadedModel, view: RegistryView) -> LoadedModel:
        """Return the model with its trims. While it is pinned, those that it has in service stay as they are."""
        if not self._settings.detection.follow:
            return resident
        follows, in_service = not view.pinned(), self._models.by_name.get(resident.name) is resident
        number = view.last_trim(resident.version, self._is_own)
        is_to_change = number != resident.trim and (follows or not in_service)
        if not is_to_change and resident.follows == follows:
            return resident
        switched = replace(resident, follows=follows)
        if not is_to_change:
            return switched
        try:
            return switched.trimmed(view.placed_trims(resident.card, self._is_own), number)
        except Exception as error:  # whatever it is, the model goes on
            log.warning("trim_rejected", model=resident.name, model_version=resident.version, reason=str(error))
            return switched

    def _is_own(self, place: str) -> bool:
        return is_own(self._settings, place)

    def _try(self, model: str, view: RegistryView) -> None:
        """Begin trials that are due, and end those that are over."""
        champion = self._models.by_name.get(model)
        candidates: dict[Kind, str | None] = {
            "probation": self._former(view),
            "shadow": view.challenger() if self._settings.model.shadow_share else None,
        }
        for kind, version in candidates.items():
            if (
                champion is None
                or champion.version != view.champion()
                or version is None
                or version == champion.version
            ):
                self._trials.end(model, kind)
                self._others.pop((model, kind), None)
                continue
            second = self._other(model, kind, version, view)
            if second is not None:
                newer, older = (second, champion) if kind == "shadow" else (champion, second)
                self._trials.begin(kind, newer, older)

    def _former(self, view: RegistryView) -> str | None:
        """Return the former champion while the present one is in probation; None otherwise."""
        change = view.last_change()
        if change is None or change.get("what") != "promoted" or view.pinned():
            return None
        until = _timestamp(str(change.get("when"))) + self._settings.model.probation
        return view.predecessor() if time.time() < until else None

    def _other(self, model: str, kind: Kind, version: str, view: RegistryView) -> LoadedModel | None:
        """Load the other model of a trial, once; return None where it must not be loaded, or is not needed."""
        loaded = self._others.get((model, kind))
        if loaded is None or loaded[0] != version:
            try:
                loaded = version, self._models.load(view.artefact(version))
            except Exception as error:  # as with a champion
                log.warning("trial_start_failed", trial=kind, model=model, model_version=version, reason=str(error))
                loaded = version, None
            self._others[model, kind] = loaded
        if loaded[1] is not None:
            loaded = version, self._trimmed(loaded[1], view)
            self._others[model, kind] = loaded
        return loaded[1]

    def _refuse(self, model: str, version: str, error: Exception) -> None:
        resident = self._models.by_name.get(model)
        serving = resident.version if resident else None
        self.refusals[model] = f"{version}: {error}"
        self._metrics.refused.inc()
        log.error("model_refused", model=model, model_version=version, reason=str(error), serving=serving)


def _timestamp(text: str) -> float:
    """Return seconds since the epoch; NaN if `text` is no time."""
    time_ms = milliseconds(text)
    return math.nan if time_ms is None else time_ms / 1000
