"""The scores of held-out rows, by which a model is calibrated: as the rows are, and with readings taken away."""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch

from training.rows.thinning import spread_evenly
from worker.following.follower import EXCEED, LEAST_USUAL
from worker.models import Attribution, Autoencoder, Scaler, ScoringModule, Whitening
from worker.models.incomplete import SHARES, IncompleteScores, filled, taken_away
from worker.models.usual import Usual
from worker.models.wavelet import newest
from worker.native.arrays import Float32s, Float64s, Int64s

Calibrating = Callable[[int, int], None]  # how many parts of the calibration are done, of how many

FOLDS: Final = 5  # of the held-out rows
# Held-out rows that are scored with readings taken away. To fill in their residuals costs D^2 operations a row.
CELLS: Final = 400_000_000
FEWEST, MOST = 500, 5000
_SIZED: Final = 20_000_000  # whitened residuals whose sizes are sorted ...
_LEAST_SIZED: Final = 1000  # ... and rows of them


def scoring_module(
    scaler: Scaler, autoencoder: Autoencoder, rows: Float32s, held_out: Float32s, calibrating: Calibrating
) -> tuple[ScoringModule, Float64s]:
    """Return the module, and the scores [m] of the held-out rows for the calibration.

    The whitening is fitted to all rows, since a covariance needs many. The attribution is fitted to the held-out rows,
    since it needs the residuals of unseen data, not of data that the autoencoder has memorised. A row that the
    whitening was fitted to scores lower than a new row. For the calibration, each fold of the held-out rows is
    therefore scored with a whitening that was fitted without it: as it is, and with readings taken away.
    """
    incomplete = IncompleteScores.none()

    def scoring(whitening: Whitening) -> ScoringModule:
        module = ScoringModule(scaler, autoencoder, whitening, attribution, incomplete)
        return module.eval().requires_grad_(False)

    with torch.no_grad():
        z, present = scaled(scaler, np.concatenate((rows, held_out)))
        z = filled(autoencoder, z, present)
        residual = (z - autoencoder(z)) * present
        late = slice(len(rows), None)
        attribution = Attribution.fit(residual[late], z[late], present[late])
        levels = _Levels(held_out)
        folds = np.array_split(np.arange(len(held_out)), min(FOLDS, len(held_out)))
        for k, fold in enumerate(folds):
            calibrating(k, len(folds) + 1)
            is_other = torch.ones(len(z), dtype=torch.bool)
            is_other[len(rows) + fold] = False
            levels.score(scoring(Whitening.fit(residual[is_other], present[is_other])), fold)
        calibrating(len(folds), len(folds) + 1)
        incomplete = levels.fitted()
        module = scoring(Whitening.fit(residual, present))
        calibrating(len(folds) + 1, len(folds) + 1)
        scores = incomplete(torch.from_numpy(levels.scores), torch.from_numpy(levels.missing))
    return module, scores.numpy().astype(np.float64)


class _Levels:
    """The scores of held-out rows [m, D] as they are, and of some of them with more and more readings taken away."""

    def __init__(self, held_out: Float32s):
        m, width = held_out.shape
        self.scores = np.full(m, np.nan, np.float32)
        self.missing = np.isnan(held_out).mean(1, dtype=np.float32)
        self._held_out = held_out
        self._some = spread_evenly(m, min(max(CELLS // width**2, FEWEST), MOST))
        rng = np.random.default_rng(0)
        shares = [share for share in (0.0, *SHARES) if share or width > 1 / SHARES[0]]
        self._rows = [taken_away(held_out[self._some], share, rng) for share in shares]
        self._scores = [np.full(len(self._some), np.nan, np.float32) for _ in shares]

    def score(self, module: ScoringModule, fold: Int64s) -> None:
        """Score a fold of the rows by a module that was fitted without it."""
        self.scores[fold] = module(torch.from_numpy(self._held_out[fold])).numpy()
        mine = (self._some >= fold[0]) & (self._some <= fold[-1])
        for rows, scores in zip(self._rows, self._scores, strict=True):
            scores[mine] = module(torch.from_numpy(rows[mine])).numpy()

    def fitted(self) -> IncompleteScores:
        """Return what the scores of incomplete rows are to be put in proportion by."""
        shares = [float(self.missing[self._some].mean()), *(float(np.isnan(rows).mean()) for rows in self._rows)]
        scores = [self.scores[self._some], *self._scores]
        return IncompleteScores.fit(shares, [level[np.isfinite(level)].astype(np.float64) for level in scores])


def usual_of(module: ScoringModule, rows: Float32s, held_out: Float32s, features: int, window: int) -> Usual:
    """Return what is usual: in the whitened residuals of the held-out rows [m, D], and in the readings of all rows."""
    some = held_out[spread_evenly(len(held_out), max(_LEAST_SIZED, _SIZED // held_out.shape[1]))]
    with torch.inference_mode():
        residual, present = module.residual(torch.from_numpy(np.ascontiguousarray(some)))
        sizes = module.whitening(residual, present).abs()
        if present is not None:
            sizes = sizes.masked_fill(present == 0, torch.nan)
        known = torch.nanquantile(sizes, 1 - EXCEED, dim=0).nan_to_num(LEAST_USUAL).clamp(min=LEAST_USUAL)
    if window == 1:
        scaler = module.scaler
    else:
        readings = newest(torch.from_numpy(np.concatenate((rows, held_out))), window).numpy()
        scaler = Scaler.fit(readings, features)
    return Usual(known.numpy(), scaler.location.numpy().copy(), scaler.scale.numpy().copy())


def scaled(scaler: Scaler, rows: Float32s) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scaled rows [n, D], and 1 or 0 [n, D] for present or missing."""
    z, present = scaler(torch.from_numpy(np.ascontiguousarray(rows)))
    return z, torch.ones_like(z) if present is None else present
