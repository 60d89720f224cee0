"""A model on its device: scores, latents, cleaned vectors and explanations of rows."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worker.models import Calibration, EntityScaler, ModelCard, Promise, Reference, ScoringModule
from worker.models.entities import ANY_ENTITY, EntityRows
from worker.models.trim import PlacedTrims, Trims
from worker.models.usual import Usual
from worker.models.wavelet import blocks, by_feature, by_lag, newest
from worker.models.whitening import Whitening
from worker.native.arrays import Bools, Float32s, UInt64s
from worker.serving.cpu_scorer import FusedScorer
from worker.serving.cuda_scorer import StagedScorer

# A decoded block may lie in the fetched bytes themselves. Scoring never writes to its input.
warnings.filterwarnings("ignore", message="The given (NumPy array|buffer) is not writable", category=UserWarning)


class Explanation(NamedTuple):
    """Why k vectors scored as they did.

    `expected` [k, d] are the expected readings, in their own units. `contributions` [k, d] are the features' shares,
    which add up to 1. `strength` [k] is by how much each vector counts where shares of several are added up. With
    windows, `lags` [k, w] are the lags' shares, which add up to 1 too.
    """

    expected: Float32s
    contributions: Float32s
    strength: Float32s
    lags: Float32s | None


class _Part(NamedTuple):
    """Rows on the device, in the model's units, and the rows of their entities in its tables."""

    x: Tensor
    scaler: Tensor | None
    trim: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)  # arrays do not compare to one truth
class LoadedModel:
    """A model in service. Immutable: whoever holds the reference scores by one version, and by the same trims.

    Its rows x [n, D] are vectors, or, with windows, their D = K d coefficients (worker/windows). `entity` are the rows
    of their entities in the model's tables (`entity_rows`).
    """

    card: ModelCard
    calibration: Calibration
    promise: Promise
    reference: Reference | None  # what drift is told from
    usual: Usual | None  # what trims are estimated by
    _module: ScoringModule
    _scorer: FusedScorer | StagedScorer | None  # the device's quicker way, where it fits the module
    _entities: EntityScaler | None
    _device: torch.device
    _max_rows: int
    _least_present: float
    trims: Trims | None = None
    placed_trims: Mapping[str, PlacedTrims] = field(default_factory=dict)  # topic/partition -> what `trims` is made of
    trim: int = 0  # offset of the last of their records in the models topic
    follows: bool = False  # worker/following may publish new trims

    @property
    def name(self) -> str:
        """Return the model's name."""
        return self.card.name

    @property
    def version(self) -> str:
        """Return the model's version."""
        return self.card.version

    @property
    def scored_by(self) -> str:
        """Return what events name, by which a score can be made again: the version, and `+` the number of its trim."""
        return self.card.version if self.trims is None else f"{self.card.version}+{self.trim}"

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

    def trimmed(self, placed: Mapping[str, PlacedTrims], number: int) -> "LoadedModel":
        """Return the model with the trims of partitions (topic/partition), of which the last one has this number.

        `number` is the offset of its record in the models topic, from 1 on. Raises RuntimeError where the device's
        scorer cannot be captured with them.
        """
        if not number:
            return replace(self, trims=None, placed_trims={}, trim=0)
        trims = {entity: trim for of_place in placed.values() for entity, trim in of_place.trims.items()}
        with torch.inference_mode():
            tables = Trims(trims, self._module.whitening, len(self.features))
        tables.rows(np.zeros(1, np.uint64))  # compiled before the loop needs it
        scorer = None if self._scorer is None else self._scorer.trimmed(tables)
        return replace(self, trims=tables, placed_trims=placed, trim=number, _scorer=scorer)

    def ignored(self, entity: EntityRows) -> Bools | None:
        """Return [n, d] which readings of n vectors are ignored; None where none is."""
        if self.trims is None or self.trims.ignored is None or entity.trim is None:
            return None
        hidden: Bools = self.trims.ignored[entity.trim, : len(self.features)]
        return hidden

    def entity_rows(self, names: Sequence[str | None] | None, entity_hash: UInt64s | None) -> EntityRows:
        """Return the rows of n entities in the model's tables, by their names and hashes.

        Either may be None where it is not known; then the fleet's scaler holds, or no trim.
        """
        scaler = trim = None
        if self._entities is not None and names is not None:
            scaler = np.fromiter(map(self._entities.row, names), np.int64, len(names))
        if self.trims is not None and entity_hash is not None:
            trim = self.trims.rows(entity_hash)
        return EntityRows(scaler, trim)

    def score(self, x: Float32s, entity: EntityRows = ANY_ENTITY) -> Float32s:
        """Return the scores [n] of x [n, D], NaN where missing. NaN if too much of a row is missing."""
        if self._scorer is None:
            return self.score_apart(x, entity)
        if entity.scaler is not None or (self.trims is not None and self.trims.ignored is not None):
            x = self._in_batches(lambda part: part.x, x, entity)
        with torch.inference_mode():
            return self._scorer.score(x, entity.trim)

    def score_apart(self, x: Float32s, entity: EntityRows = ANY_ENTITY) -> Float32s:
        """Return the scores, in any thread: by the plain module, since the fast scorer is for one thread at a time."""
        least, trims = self._least_present, self.trims
        return self._in_batches(lambda part: self._module(part.x, least, trims, part.trim), x, entity)

    def residual(self, x: Float32s, entity: EntityRows = ANY_ENTITY) -> Float32s:
        """Return the residuals [n, D] of x [n, D], in scaled units and without any trim; NaN for a missing reading."""

        def with_gaps(part: _Part) -> Tensor:
            residual, present = self._module.residual(part.x)
            return residual if present is None else residual.masked_fill(present == 0, torch.nan)

        return self._in_batches(with_gaps, x, entity._replace(trim=None))

    def newest(self, x: Float32s, entity: EntityRows = ANY_ENTITY) -> Float32s:
        """Return the newest readings [n, d] of x [n, D], in the fleet's units; NaN where missing."""
        return self._in_batches(lambda part: newest(part.x, self.card.window), x, entity._replace(trim=None))

    def whitening(self) -> Whitening:
        """Return the whitening of the residuals, on the CPU."""
        own = self._module.whitening
        return Whitening(own.mean.cpu(), own.root.cpu())

    def deviation(self) -> Float32s:
        """Return the standard deviations [D] of held-out residuals, in scaled units."""
        deviation: Float32s = self._module.attribution.residual[1].cpu().numpy()
        return deviation

    def encode(self, x: Float32s, entity: EntityRows = ANY_ENTITY) -> Float32s:
        """Return the latents [n, c] of x [n, D]."""
        return self._in_batches(lambda part: self._module.encode(part.x), x, entity)

    def reconstruct(self, x: Float32s, entity: EntityRows = ANY_ENTITY) -> Float32s:
        """Return the cleaned vectors [n, d] of x [n, D], in their own units."""
        window = self.card.window
        return self._in_batches(
            lambda part: newest(self._own(self._module.reconstruct(part.x), part), window), x, entity
        )

    def explain(self, x: Float32s, entity: EntityRows = ANY_ENTITY) -> Explanation:
        """Return why rows x [k, D] scored as they did."""

        d, window = len(self.card.features), self.card.window

        def both(part: _Part) -> Tensor:
            expected, shares, strength = self._module.explain(part.x, self.trims, part.trim)
            own = newest(self._own(expected, part), window)
            return torch.cat((own, strength[:, None], shares), 1)  # one copy back

        explained = self._in_batches(both, x, entity)
        expected, strength, shares = explained[:, :d], explained[:, d], explained[:, d + 1 :]
        if window == 1:
            return Explanation(expected, shares, strength, None)
        return Explanation(expected, by_feature(shares, window), strength, by_lag(shares, window))

    def _in_batches(self, function: Callable[[_Part], Tensor], x: Float32s, entity: EntityRows) -> Float32s:
        """Apply `function` to rows in the model's units, without the readings that their trims ignore.

        No more than a batch's rows are processed at once, whatever a record holds.
        """
        if self.trims is not None and entity.trim is not None:
            x = self.trims.without_ignored(x, entity.trim)
        with torch.inference_mode():
            parts = []
            for i in range(0, max(len(x), 1), self._max_rows):
                few = slice(i, i + self._max_rows)
                part = self._to_device(x[few])
                scaler, trim = (
                    None if rows is None else torch.from_numpy(rows[few]).to(self._device) for rows in entity
                )
                if self._entities is not None and scaler is not None:
                    part = self._entities(part, scaler)
                parts.append(function(_Part(part, scaler, trim)).cpu().numpy())
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _own(self, x: Tensor, part: _Part) -> Tensor:
        """Return x [n, D] in the units of the entities that it is of."""
        if self._entities is None or part.scaler is None:
            return x
        own: Tensor = self._entities.inverse(x, part.scaler)
        return own

    def _to_device(self, x: Float32s) -> Tensor:
        tensor = torch.from_numpy(x)
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)
