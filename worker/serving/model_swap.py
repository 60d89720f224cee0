"""Swaps models: one is loaded while another serves, checked, warmed up, and put in its place by one reference."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import structlog
import torch
from torch import Tensor

from worker.errors import ArtefactError
from worker.models import Artefact, Calibration, ModelCard, Promise, ScoringModule
from worker.models.artefact import PROBE_TOLERANCE
from worker.serving.cpu_scorer import FusedScorer
from worker.serving.cuda_scorer import StagedScorer
from worker.serving.device import pick_device
from worker.serving.loaded_model import LoadedModel
from worker.settings import Settings

log = structlog.get_logger()
CPU_ROWS: Final = 4096  # at once: more would leave the cache


def promise_of(calibration: Calibration, requested: float) -> Promise:
    """Return the threshold for the requested false-alarm rate; warn where few rows make it a cautious one."""
    promise = calibration.promise(requested)
    if promise.is_cautious:
        log.warning(
            "threshold_raised",
            asked=requested,
            expected=float(f"{promise.expected:.2g}"),
            at_most=float(f"{promise.at_most:.2g}"),
            consequence="small anomalies are missed that more held-out rows would let it tell",
            hint="raise OFFNORMAL_TRAINING__LOOKBACK, __HOLDOUT or __MAX_ROWS",
        )
    return promise


def _fast_scorer(
    module: ScoringModule, device: torch.device, least_present: float, probe: Tensor
) -> FusedScorer | StagedScorer | None:
    """Return the device's fast scorer, if it fits the module and gives the module's scores of the probe [n, D]."""
    try:
        scorer = (FusedScorer if device.type == "cpu" else StagedScorer)(module, least_present)
        expected = module(probe.to(device), least_present).cpu()
        if torch.allclose(
            torch.from_numpy(scorer.score(probe.numpy())), expected, rtol=PROBE_TOLERANCE, atol=1e-4, equal_nan=True
        ):
            return scorer
        reason = "the fast scorer's scores differ from the model's"
    except ValueError as error:
        log.debug("fast_scorer_disabled", reason=str(error))
        return None
    except RuntimeError as error:
        reason = f"its kernels cannot be captured: {error}"
    log.warning("fast_scorer_disabled", reason=reason)
    return None


class ResidentModels:
    """The models in service. `load` may run in any thread; `swap` takes effect at the loop's next batch."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self.device = pick_device(settings.device)
        self.by_name: Mapping[str, LoadedModel] = {}  # replaced as a whole
        torch.set_num_threads(settings.threads)

    def serving(self, model: str) -> LoadedModel | None:
        """Return what scores the records of a model: its champion, else the default model's, else nothing."""
        return self.by_name.get(model) or self.by_name.get(self._settings.model.name)

    def lacking(self) -> list[str]:
        """Return the models that need a champion before a worker can begin.

        The default model needs one only where it is needed: without routes, or for a route whose model has none. A
        topic all of whose keys are routed does without.
        """
        routed = self._settings.model.routes.values()
        return [model for model in dict.fromkeys(routed or [self._settings.model.name]) if self.serving(model) is None]

    def load(self, data: bytes) -> LoadedModel:
        """Check an artefact, put it on the device, check its probe there and warm it up. Raises ArtefactError.

        The model in service is not touched either way.
        """
        artefact = Artefact.load(data)
        self._check_fits(artefact.card)
        module = artefact.detector.module.to(self.device)
        detection, entities = self._settings.detection, artefact.detector.entities
        calibration = artefact.detector.calibration
        # With windows the newest vector has been checked (worker/windows); more of its coefficients are missing.
        least_present = 1 - detection.max_missing if artefact.card.window == 1 else 0.0
        with torch.inference_mode():
            artefact.check_probe(module(artefact.probe_x.to(self.device)))
            scorer = _fast_scorer(module, self.device, least_present, artefact.probe_x)
        requested = detection.budget(artefact.card.quality.get("vectors_per_day", 0.0))
        resident = LoadedModel(
            card=artefact.card,
            calibration=calibration,
            promise=promise_of(calibration, requested),
            reference=artefact.reference,
            usual=artefact.detector.usual,
            _module=module,
            _scorer=scorer,
            _entities=None if entities is None else entities.to(self.device),
            _device=self.device,
            _max_rows=self._settings.batch.max_rows if self.device.type == "cuda" else CPU_ROWS,
            _least_present=least_present,
        )
        self._warm_up(resident)
        return resident

    def swap(self, resident: LoadedModel) -> None:
        """Put a model in service by one assignment; the loop takes the reference once a batch."""
        self.by_name = {**self.by_name, resident.name: resident}

    def memory(self) -> int:
        """Return the bytes taken on the device; 0 on the CPU."""
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0

    def _check_fits(self, card: ModelCard) -> None:
        if card.name not in self._settings.model.names:
            raise ArtefactError(
                f"the artefact is of the model {card.name!r}, not {self._settings.model.name!r}",
                "check OFFNORMAL_MODEL__NAME and OFFNORMAL_MODEL__ROUTES",
            )
        if card.window != self._settings.model.window:
            raise ArtefactError(
                f"the model has a window of {card.window}, not {self._settings.model.window}",
                "OFFNORMAL_MODEL__WINDOW must be the same for worker and training: change it, or train a new model",
            )
        current = self.by_name.get(card.name)
        if current is not None and card.features != current.card.features:
            raise ArtefactError(
                f"its features differ from those in service (version {current.version}): a running worker keeps its"
                " feature schema",
                "restart the workers to take the new one",
            )

    def _warm_up(self, resident: LoadedModel) -> None:
        """Score some rows, so that live data do not wait while memory is allocated and kernels are chosen."""
        for rows in (1, 64, resident._max_rows):
            resident.score(np.zeros((rows, resident.width), np.float32), resident.entity_rows([None] * rows, None))
        resident.explain(np.zeros((1, resident.width), np.float32), resident.entity_rows([None], None))
