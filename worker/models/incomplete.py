"""Rows with missing readings: what the model itself expects is filled in, and the score is made as rare as it is.

An autoencoder that sees 0 for a missing reading reconstructs the other readings worse, the more are missing. So what it
reconstructs is put in the place of what is missing, and it looks again. (With half of the readings missing, held-out
normal rows then have 1 to 6 times the requested false-alarm rate, where it was 3 to 67 times; see
training/EXPERIMENTS.md.)

What remains: a mean over fewer readings scatters more, and fewer readings tell less. So held-out rows are scored with
more of their readings taken away, at several shares. Their quantiles lead from the score of an incomplete row to that
of a complete one that is as rare. All that comes after (thresholds, p-values, ranking) knows one scale only.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from worker.models.base import Autoencoder
from worker.native.arrays import Float32s, Float64s

ROUNDS: Final = 4  # of filling in; each costs a pass of the incomplete rows through the autoencoder
SHARES: Final = (0.1, 0.3, 0.5, 0.7)  # of the readings that are taken away to calibrate by, beside a single one
_QUANTILES: Final = 24
_RAREST: Final = 5  # rows above the last quantile: beyond, scores are scaled like it
_LEAST, _APART = 1e-6, 1e-5  # of quantiles, and of one to the next as a share of it: these are divided by


def filled(autoencoder: Autoencoder, z: Tensor, present: Tensor) -> Tensor:
    """Return scaled rows z [n, D] with what is expected where `present` [n, D] is 0."""
    incomplete = (present.sum(1) < present.shape[1]).nonzero().squeeze(1)
    if not len(incomplete):
        return z
    known, seen = z[incomplete], present[incomplete]
    rows = known
    for _ in range(ROUNDS):
        rows = known * seen + autoencoder(rows) * (1 - seen)
    out = z.clone()
    out[incomplete] = rows
    return out


class IncompleteScores(nn.Module):
    """Puts scores of incomplete rows on the scale of complete ones.

    `shares` [l] of missing readings are in ascending order. `quantiles` [l, q] are scores of normal rows with about
    that share missing, at the same q probabilities, in ascending order. Rows with no more than the first share missing
    keep their scores.
    """

    def __init__(self, shares: Tensor, quantiles: Tensor):
        super().__init__()
        self.register_buffer("shares", shares)
        self.register_buffer("quantiles", quantiles)

    shares: Tensor
    quantiles: Tensor

    @classmethod
    def none(cls) -> "IncompleteScores":
        """Return one that leaves all scores as they are."""
        return cls(torch.zeros(1), torch.ones(1, 1))

    @classmethod
    def fit(cls, shares: Sequence[float], scores: Sequence[Float64s]) -> "IncompleteScores":
        """Fit to finite scores of the same normal rows at ascending shares.

        Levels without scores are left out, and those whose share is not above the one before: of few rows, as many
        readings may have been taken away at two levels, or none.
        """
        levels: list[tuple[float, Float64s]] = []
        for share, level in zip(shares, scores, strict=True):
            if len(level) and (not levels or share > levels[-1][0] + _LEAST):
                levels.append((share, level))
        if len(levels) < 2:
            return cls.none()
        fewest = min(len(level) for _, level in levels)
        above = np.geomspace(1.0, min(_RAREST / fewest, 0.5), _QUANTILES)
        table = np.array([np.quantile(level, 1 - above) for _, level in levels])
        table = np.maximum.accumulate(np.maximum(table, _LEAST), axis=1) * (1 + _APART * np.arange(_QUANTILES))
        return cls(torch.tensor([share for share, _ in levels]).float(), torch.from_numpy(table).float())

    def forward(self, scores: Tensor, missing: Tensor) -> Tensor:
        """Return the scores [n] on the scale of complete rows; `missing` [n] are shares. NaN stays NaN."""
        shares, table = self.shares, self.quantiles
        if len(shares) < 2:
            return scores
        level = (torch.searchsorted(shares, missing, right=True) - 1).clamp(0, len(shares) - 2)
        weight = ((missing - shares[level]) / (shares[level + 1] - shares[level])).clamp(0, 1)[:, None]
        own = torch.lerp(table[level], table[level + 1], weight)  # the quantiles at the row's own share
        bin_ = (torch.searchsorted(own, scores[:, None]) - 1).clamp(0, table.shape[1] - 2)
        low, high = own.gather(1, bin_).squeeze(1), own.gather(1, bin_ + 1).squeeze(1)
        complete = table[0].expand_as(own)
        to_low, to_high = complete.gather(1, bin_).squeeze(1), complete.gather(1, bin_ + 1).squeeze(1)
        inside = torch.lerp(to_low, to_high, (scores - low) / (high - low))
        scaled = torch.where(scores < own[:, 0], scores * complete[:, 0] / own[:, 0], inside)
        scaled = torch.where(scores > own[:, -1], scores * complete[:, -1] / own[:, -1], scaled)
        return torch.where(missing > shares[0], scaled, scores)


def taken_away(rows: Float32s, share: float, rng: np.random.Generator) -> Float32s:
    """Return rows [n, D] of which about a share of the readings is taken away; one of each row if `share` is 0."""
    n, width = rows.shape
    if share:
        away = rng.random(rows.shape) < share
    else:
        away = np.zeros(rows.shape, bool)
        away[np.arange(n), rng.integers(width, size=n)] = True
    return np.where(away, np.float32(np.nan), rows)
