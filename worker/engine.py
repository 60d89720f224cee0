"""The model on its device: loaded beside the one in service, checked, warmed up, then swapped in by one reference."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import structlog
import torch

from worker.errors import ArtefactError, SettingsError
from worker.models import Artefact, Calibration, ModelCard, ScoringModule
from worker.settings import Settings

log = structlog.get_logger()

Float32s = npt.NDArray[np.float32]

# A decoded block may lie in the fetched bytes themselves. Scoring never writes to its input.
warnings.filterwarnings("ignore", message="The given (NumPy array|buffer) is not writable", category=UserWarning)


def pick_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one. Raises SettingsError where a named device is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError(f"OFFNORMAL_DEVICE: {name} is not there: {torch.cuda.device_count()} CUDA devices found")
    return device


def rate_to_keep(calibration: Calibration, asked: float) -> float:
    """The false-alarm rate asked for, or, with a warning, the smallest that the calibration can promise."""
    promised = calibration.promised(asked)
    if promised > asked:
        log.warning(
            "false_alarm_rate_not_promised",
            asked=asked,
            kept_to=promised,
            hint="more held-out rows are needed: OFFNORMAL_TRAINING__LOOKBACK, __HOLDOUT, __MAX_ROWS",
        )
    return promised


@dataclass(frozen=True, slots=True)
class Resident:
    """A model in service. Immutable: whoever holds the reference scores by one version."""

    card: ModelCard
    calibration: Calibration
    budget: float  # the false-alarm rate that is kept to
    threshold: float
    _module: ScoringModule
    _device: torch.device
    _max_rows: int
    _least_present: float

    @property
    def version(self) -> str:
        return self.card.version

    @property
    def features(self) -> Sequence[str]:
        return self.card.features

    def score(self, x: Float32s) -> Float32s:
        """x [n, d], NaN where missing -> scores [n]; NaN where too much of the row is missing."""
        return self._in_batches(lambda part: self._module(part, self._least_present), x)

    def encode(self, x: Float32s) -> Float32s:
        """x [n, d] -> latents [n, c]."""
        return self._in_batches(self._module.encode, x)

    def reconstruct(self, x: Float32s) -> Float32s:
        """x [n, d] -> cleaned vectors [n, d] in their own units."""
        return self._in_batches(self._module.reconstruct, x)

    def _in_batches(self, function: Callable[[torch.Tensor], torch.Tensor], x: Float32s) -> Float32s:
        """No more than a batch's rows at once, whatever a record holds."""
        with torch.inference_mode():
            starts = range(0, max(len(x), 1), self._max_rows)
            parts = [function(self._to_device(x[i : i + self._max_rows])).cpu().numpy() for i in starts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def explain(self, x: Float32s) -> tuple[Float32s, Float32s]:
        """x [k, d] -> expected readings [k, d] in their own units, contributions [k, d] that add up to 1."""
        both = self._in_batches(lambda part: torch.stack(self._module.explain(part), 1), x)  # one copy back
        return both[:, 0], both[:, 1]

    def _to_device(self, x: Float32s) -> torch.Tensor:
        tensor = torch.from_numpy(x)
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)


class Engine:
    """Holds the resident model. `load` may run in any thread; `swap` takes effect at the loop's next batch."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self.device = pick_device(settings.device)
        self.resident: Resident | None = None
        torch.set_num_threads(settings.threads)

    def load(self, data: bytes) -> Resident:
        """Checks an artefact, puts it on the device beside the current model, checks its probe there and warms it up.

        Raises ArtefactError; the model in service is not touched either way.
        """
        artefact = Artefact.load(data)
        self._check_fits(artefact.card)
        module = artefact.detector.module.to(self.device)
        detection = self._settings.detection
        calibration = artefact.detector.calibration
        asked = detection.budget(artefact.card.quality.get("vectors_per_day", 0.0))
        budget = rate_to_keep(calibration, asked)
        resident = Resident(
            card=artefact.card,
            calibration=calibration,
            budget=budget,
            threshold=calibration.threshold(budget),
            _module=module,
            _device=self.device,
            _max_rows=self._settings.batch.max_rows,
            _least_present=max(1.0, len(artefact.card.features) * (1 - detection.max_missing)),
        )
        with torch.inference_mode():
            artefact.check_probe(module(artefact.probe_x.to(self.device)))
        self._warm_up(resident)
        return resident

    def swap(self, resident: Resident) -> None:
        """One assignment: the loop takes the reference once per batch."""
        self.resident = resident

    def memory(self) -> int:
        """Bytes taken on the device; 0 on the CPU."""
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0

    def _check_fits(self, card: ModelCard) -> None:
        if card.name != self._settings.model.name:
            raise ArtefactError(f"the artefact is of the model {card.name!r}, not {self._settings.model.name!r}")
        if card.window != self._settings.model.window:
            raise ArtefactError(f"the model has a window of {card.window}, not {self._settings.model.window}")
        current = self.resident
        if current is not None and card.features != current.card.features:
            raise ArtefactError(
                f"its features differ from those in service (version {current.version}): a running worker keeps its"
                " feature schema; restart the workers to take the new one"
            )

    def _warm_up(self, resident: Resident) -> None:
        """First calls allocate, and choose kernels: that is not a live batch's to pay."""
        width = len(resident.features)
        for rows in (1, 64, self._settings.batch.max_rows):
            resident.score(np.zeros((rows, width), np.float32))
        resident.explain(np.zeros((1, width), np.float32))
