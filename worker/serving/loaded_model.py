"""A model on its device: scores, latents, cleaned vectors and explanations of rows."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worker.models import Calibration, EntityScaler, ModelCard, Promise, Reference, ScoringModule
from worker.models.wavelet import blocks, by_feature, by_lag, newest
from worker.native.arrays import Float32s, Int64s
from worker.serving.cpu_scorer import FusedScorer
from worker.serving.cuda_scorer import StagedScorer

# A decoded block may lie in the fetched bytes themselves. Scoring never writes to its input.
warnings.filterwarnings("ignore", message="The given (NumPy array|buffer) is not writable", category=UserWarning)


class Explanation(NamedTuple):
    """Why k vectors scored as they did.

    `expected` [k, d] are the expected readings, in their own units. `contributions` [k, d] are the features' shares,
    which add up to 1. With windows, `lags` [k, w] are the lags' shares, which add up to 1 too.
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
    promise: Promise
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
    def budget(self) -> float:
        """Return the false-alarm rate that was asked for."""
        return self.promise.asked

    @property
    def expected_rate(self) -> float:
        """Return the share of normal vectors that is expected to be flagged, never above the budget."""
        return self.promise.expected

    @property
    def threshold(self) -> float:
        """Return the score from which on a vector is flagged."""
        return self.promise.threshold

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
        """Apply `function` to rows in the model's units, and to a function that converts back to their own units.

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
