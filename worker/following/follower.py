"""Estimates the trim of one entity from its vectors, in the order of time.

- The shift of a column goes towards its residual, by ln 2 / H of the distance with each row, of which no more than
  three standard deviations count: it is half way after H rows.
- The looseness of a column rises with each row whose whitened residual, loosened, is larger than usual (what one in ten
  held-out rows exceeds), and falls with each other row, so that one in ten is larger in the long run. It is never
  negative: a column that has become quiet does not count more. And it is at most a factor of 2: a fault that lasts must
  not vanish.
- A sensor that stays so far outside the range it had in training that its reading no longer says how far is ignored, as
  if it were missing, until it is back. Its reading also spoils what the autoencoder expects of the others. So what was
  learned of them meanwhile is forgotten.

Everything takes a certain time as well as a number of rows: vectors that come fast are not independent. Why these
quantities: training/EXPERIMENTS.md.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from worker.models.entities import EntityRows
from worker.models.scaler import LINEAR_UP_TO
from worker.models.trim import Trim
from worker.models.usual import Usual
from worker.models.whitening import Whitening
from worker.native.arrays import Bools, Float32s, Float64s
from worker.serving.loaded_model import LoadedModel

ROWS: Final = 3000  # H: in so many rows a shift is half followed ...
SECONDS: Final = 3600.0  # ... and in no less time
CLIP: Final = 3.0  # standard deviations
EXCEED: Final = 0.1  # share of rows whose whitened residual is larger than usual
LEAST_USUAL: Final = 1.2  # standard deviations; a column that hardly moves in training is not told by less
LOOSEST: Final = math.log(2)
AWAY_ROWS, AWAY_SECONDS = 1000.0, 100.0  # an ignored sensor was away for three times as long, at least
AWAY, BACK = 0.95, 0.05  # share of the recent rows in which a sensor is far outside: ignored from, and until
FAR: Final = LINEAR_UP_TO  # scaled units; the range of training is 3.5 of them wide
MOST_IGNORED: Final = 0.25  # share of the sensors; if more have left their range, the plant runs differently
FEWEST: Final = 100  # rows that are looked at, however many others they stand for
CHUNK: Final = 50  # rows that are taken at once


@dataclass(frozen=True, eq=False)
class Basis:
    """What trims of a model are estimated by: its whitening, the `deviation` [D] of residuals, and what is usual.

    A share EXCEED of the held-out whitened residuals exceeds the usual size.
    """

    whitening: Whitening
    deviation: Float32s
    usual: Usual

    @classmethod
    def of(cls, model: LoadedModel) -> "Basis | None":
        """Return what trims of this model are estimated by; None for a model of an earlier release."""
        if model.usual is None:
            return None
        return cls(model.whitening(), model.deviation(), model.usual)


class Follower:
    """The trim of one entity, as of the last rows taken."""

    def __init__(self, basis: Basis, trim: Trim | None = None):
        """Go on from a trim, if there is one."""
        self._basis = basis
        start = trim or Trim.none(len(basis.usual.sizes), len(basis.usual.scale))
        self._shift, self._looseness = start.shift.astype(np.float64), start.looseness.astype(np.float64)
        self._ignored = start.ignored.copy()
        self._away = start.ignored.astype(np.float64)
        # As they were when no sensor was away: its reading spoils the residuals of all others.
        self._calm = self._shift, self._looseness

    @property
    def trim(self) -> Trim:
        """Return the trim."""
        return Trim(self._shift.astype(np.float32), self._looseness.astype(np.float32), self._ignored.copy())

    @property
    def ignored(self) -> Bools:
        """Return [d] which sensors are ignored."""
        return self._ignored

    def take_from(self, model: LoadedModel, x: Float32s, entity: EntityRows, seconds: float = math.inf) -> None:
        """Take rows x [n, D] of the model in, as `take` does."""
        hidden = np.tile(self._ignored, x.shape[1] // len(self._ignored))
        residual = model.residual(np.where(hidden, np.float32(np.nan), x) if hidden.any() else x, entity)
        self.take(model.newest(x, entity), residual, seconds)

    def take(self, newest: Float32s, residual: Float32s, seconds: float = math.inf, stands_for: float = 1.0) -> None:
        """Take rows in: their newest readings [n, d], and residuals [n, D] without any trim.

        NaN is missing. Residuals are those with the sensors missing that are ignored. `seconds` is the time from one
        row to the next; each row `stands_for` so many.
        """
        rate, away_rate = min(stands_for / ROWS, seconds / SECONDS), min(stands_for / AWAY_ROWS, seconds / AWAY_SECONDS)
        rate, away_rate = min(rate, 1 / FEWEST), min(away_rate, 1 / FEWEST)
        usual = self._basis.usual
        is_far = np.abs(newest - usual.middle) > FAR * usual.scale  # false for a missing reading
        for begin in range(0, len(newest), CHUNK):
            rows = slice(begin, begin + CHUNK)
            ignored = self._ignored
            self._range(~np.isnan(newest[rows]), is_far[rows], away_rate)
            if (self._ignored & ~ignored).any():
                self._shift, self._looseness = self._calm
            elif not (self._away[~self._ignored] > BACK).any():
                self._calm = self._shift, self._looseness
            self._learn(residual[rows], rate)

    def _learn(self, residual: Float32s, rate: float) -> None:
        basis, present = self._basis, torch.from_numpy(~np.isnan(residual)).float()
        off = np.nan_to_num(residual - basis.whitening.mean.numpy() - self._shift) * present.numpy()
        limit = CLIP * basis.deviation
        with torch.inference_mode():
            w = basis.whitening(torch.from_numpy(np.nan_to_num(residual - self._shift).astype(np.float32)), present)
        loosened = np.abs(w.numpy()) * np.exp(-self._looseness)
        exceeds = (loosened > basis.usual.sizes) & (present.numpy() > 0)
        self._shift = self._shift + math.log(2) * rate * np.clip(off, -limit, limit).sum(0)
        rises = (exceeds - EXCEED * present.numpy()).sum(0) / (1 - EXCEED)
        self._looseness = np.clip(self._looseness + rate * rises, 0.0, LOOSEST)

    def _range(self, seen: Bools, is_far: Bools, rate: float) -> None:
        """Follow which sensors are far outside their range; a missing reading tells nothing."""
        n = seen.sum(0)
        share = is_far.sum(0) / np.maximum(n, 1)
        keep: Float64s = (1 - rate) ** n
        self._away = self._away * keep + share * (1 - keep)
        away = np.where(self._ignored, self._away > BACK, self._away > AWAY)
        is_plant = away.sum() > MOST_IGNORED * len(away)
        self._ignored = self._ignored & away if is_plant else away
