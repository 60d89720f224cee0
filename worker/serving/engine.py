"""The model on its device: loaded beside the one in service, checked, warmed up, then swapped in by one reference."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import structlog
import torch
from torch import Tensor

from worker.errors import ArtefactError, SettingsError
from worker.models import Artefact, Calibration, EntityScaler, ModelCard, Reference, ScoringModule
from worker.models.artefact import PROBE_TOLERANCE
from worker.models.wavelet import blocks, by_feature, by_lag, newest
from worker.native.arrays import Float32s, Int64s
from worker.serving.cpu_scorer import FusedScorer
from worker.serving.cuda_scorer import StagedScorer
from worker.settings import Settings

log = structlog.get_logger()
CPU_ROWS: Final = 4096  # at once: more would leave the cache

# A decoded block may lie in the fetched bytes themselves. Scoring never writes to its input.
warnings.filterwarnings("ignore", message="The given (NumPy array|buffer) is not writable", category=UserWarning)


def pick_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one. Raises SettingsError where a named device is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError(
            f"OFFNORMAL_DEVICE: {name} is not there: {torch.cuda.device_count()} CUDA devices found;"
            " auto takes the CPU then"
        )
    return device


def rate_to_keep(calibration: Calibration, requested: float) -> float:
    """Return the requested false-alarm rate, or, with a warning, the smallest that the calibration can promise."""
    promised = calibration.promised(requested)
    if promised > requested:
        log.warning(
            "false_alarm_rate_exceeded",
            asked=requested,
            kept_to=promised,
            hint="more held-out rows are needed: OFFNORMAL_TRAINING__LOOKBACK, __HOLDOUT, __MAX_ROWS",
        )
    return promised


class Explanation(NamedTuple):
    """Why k vectors scored as they did.

    The expected readings [k, d], in their own units; the features' contributions [k, d], shares that add up to 1; with
    windows also the lags' contributions [k, w], which add up to 1 too.
    """

    expected: Float32s
    contributions: Float32s
    lags: Float32s | None


@dataclass(frozen=True, slots=True, eq=False)  # arrays do not compare to one truth
class LoadedModel:
    """A model in service. Immutable: whoever holds the reference scores by one version.

    Its rows x [n, D] are vectors, or, with windows, their D = K d coefficients (worker/windows). `entity` [n] are rows
    of the model's entity scaler (`entity_rows`); None where it has none.
    """

    card: ModelCard
    calibration: Calibration
    budget: float  # the false-alarm rate that is kept to
    threshold: float
    reference: Reference | None  # what drift is told from
    _module: ScoringModule
    _scorer: FusedScorer | StagedScorer | None  # the device's quicker way, where it fits the module
    _entities: EntityScaler | None
    _device: torch.device
    _max_rows: int
    _least_present: float

    @property
    def name(self) -> str:
        """Return the model's name."""
        return self.card.name

    @property
    def version(self) -> str:
        """Return the model's version."""
        return self.card.version

    @property
    def features(self) -> Sequence[str]:
        """Return the names of the features."""
        return self.card.features

    @property
    def width(self) -> int:
        """Return D, the number of columns of a row."""
        return len(self.card.features) * blocks(self.card.window)

    def entity_rows(self, names: Sequence[str | None]) -> Int64s | None:
        """Return the row [n] of the entity scaler for each name; None if all entities are scaled alike."""
        if self._entities is None:
            return None
        return np.fromiter(map(self._entities.row, names), np.int64, len(names))

    def score(self, x: Float32s, entity: Int64s | None = None) -> Float32s:
        """Return the scores [n] of x [n, D], NaN where missing. NaN if too much of a row is missing."""
        if self._scorer is None:
            return self.score_apart(x, entity)
        if self._entities is not None and entity is not None:
            x = self._in_batches(lambda part, _: part, x, entity)
        with torch.inference_mode():
            return self._scorer.score(x)

    def score_apart(self, x: Float32s, entity: Int64s | None = None) -> Float32s:
        """Return the scores, in any thread: by the plain module, since the fast scorer is for one thread at a time."""
        return self._in_batches(lambda part, _: self._module(part, self._least_present), x, entity)

    def encode(self, x: Float32s, entity: Int64s | None = None) -> Float32s:
        """Return the latents [n, c] of x [n, D]."""
        return self._in_batches(lambda part, _: self._module.encode(part), x, entity)

    def reconstruct(self, x: Float32s, entity: Int64s | None = None) -> Float32s:
        """Return the cleaned vectors [n, d] of x [n, D], in their own units."""
        window = self.card.window
        return self._in_batches(lambda part, own: newest(own(self._module.reconstruct(part)), window), x, entity)

    def explain(self, x: Float32s, entity: Int64s | None = None) -> Explanation:
        """Return why rows x [k, D] scored as they did."""

        d, window = len(self.card.features), self.card.window

        def both(part: Tensor, own: Callable[[Tensor], Tensor]) -> Tensor:
            expected, shares = self._module.explain(part)
            return torch.cat((newest(own(expected), window), shares), 1)  # one copy back

        explained = self._in_batches(both, x, entity)
        expected, shares = explained[:, :d], explained[:, d:]
        if window == 1:
            return Explanation(expected, shares, None)
        return Explanation(expected, by_feature(shares, window), by_lag(shares, window))

    def _in_batches(
        self, function: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor], x: Float32s, entity: Int64s | None
    ) -> Float32s:
        """Apply `function` to the rows in the model's units, and to the way back to their own.

        No more than a batch's rows are processed at once, whatever a record holds.
        """
        with torch.inference_mode():
            parts = []
            for i in range(0, max(len(x), 1), self._max_rows):
                part, own = self._to_device(x[i : i + self._max_rows]), _same
                if self._entities is not None and entity is not None:
                    row = torch.from_numpy(entity[i : i + self._max_rows]).to(self._device)
                    part, own = self._entities(part, row), partial(self._entities.inverse, row=row)
                parts.append(function(part, own).cpu().numpy())
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _to_device(self, x: Float32s) -> Tensor:
        tensor = torch.from_numpy(x)
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)


def _same(x: Tensor) -> Tensor:
    return x


def _quicker(
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
        reason = "the quicker way gives other scores"
    except ValueError as error:
        log.debug("fast_scorer_disabled", reason=str(error))
        return None
    except RuntimeError as error:
        reason = f"its kernels cannot be captured: {error}"
    log.warning("fast_scorer_disabled", reason=reason)
    return None


class Engine:
    """Holds the resident models. `load` may run in any thread; `swap` takes effect at the loop's next batch."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self.device = pick_device(settings.device)
        self.residents: Mapping[str, LoadedModel] = {}  # model -> resident; replaced as a whole
        torch.set_num_threads(settings.threads)

    @property
    def resident(self) -> LoadedModel | None:
        """Return the default model, which also scores the records of a route whose own model has no champion."""
        return self.residents.get(self._settings.model.name)

    def load(self, data: bytes) -> LoadedModel:
        """Check an artefact, put it on the device, check its probe there and warm it up. Raises ArtefactError.

        The model in service is not touched either way.
        """
        artefact = Artefact.load(data)
        self._check_fits(artefact.card)
        module = artefact.detector.module.to(self.device)
        detection, entities = self._settings.detection, artefact.detector.entities
        calibration = artefact.detector.calibration
        least_present = 1 - detection.max_missing
        with torch.inference_mode():
            artefact.check_probe(module(artefact.probe_x.to(self.device)))
            scorer = _quicker(module, self.device, least_present, artefact.probe_x)
        requested = detection.budget(artefact.card.quality.get("vectors_per_day", 0.0))
        budget = rate_to_keep(calibration, requested)
        resident = LoadedModel(
            card=artefact.card,
            calibration=calibration,
            budget=budget,
            threshold=calibration.threshold(budget),
            reference=artefact.reference,
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
        self.residents = {**self.residents, resident.name: resident}

    def memory(self) -> int:
        """Return the bytes taken on the device; 0 on the CPU."""
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0

    def _check_fits(self, card: ModelCard) -> None:
        if card.name not in self._settings.model.names:
            raise ArtefactError(
                f"the artefact is of the model {card.name!r}, not {self._settings.model.name!r}",
                "OFFNORMAL_MODEL__NAME and OFFNORMAL_MODEL__ROUTES say what is served",
            )
        if card.window != self._settings.model.window:
            raise ArtefactError(
                f"the model has a window of {card.window}, not {self._settings.model.window}",
                "OFFNORMAL_MODEL__WINDOW must be the same for worker and training: change it, or train anew",
            )
        current = self.residents.get(card.name)
        if current is not None and card.features != current.card.features:
            raise ArtefactError(
                f"its features differ from those in service (version {current.version}): a running worker keeps its"
                " feature schema",
                "restart the workers to take the new one",
            )

    def _warm_up(self, resident: LoadedModel) -> None:
        """Score some rows, so that live data do not wait while memory is allocated and kernels are chosen."""
        for rows in (1, 64, resident._max_rows):
            resident.score(np.zeros((rows, resident.width), np.float32), resident.entity_rows([None] * rows))
        resident.explain(np.zeros((1, resident.width), np.float32), resident.entity_rows([None]))
