"""Scaling of the readings by their range, and the soft limit that keeps a wild reading from drowning the others."""

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from worker.native.arrays import Float32s

# Up to this value a scaled reading is unchanged; beyond it, it grows logarithmically. Far readings stay ordered and
# finite, and a handful of rows does not dominate the training.
LINEAR_UP_TO: Final = 30.0
LARGEST: Final = 3e38  # within float32
_UNIFORM: Final = 12**0.5  # the range of a uniform distribution in standard deviations
# A reading so many (winsorised) standard deviations from the median does not set the range: it is garbage, not a peak.
_GARBAGE: Final = 1000.0
_ROUNDING: Final = 4 * 1.2e-7  # a spread below so much of the reading itself is float32's rounding


def _soften(t: Tensor) -> Tensor:
    # A large reading over a small scale is infinite in float32; its logarithm need not be.
    return t.sign() * (LINEAR_UP_TO + torch.log1p((t.abs() - LINEAR_UP_TO).clamp(min=0, max=LARGEST)))


class Scaler(nn.Module):
    """z = soft((x - middle) / scale): middle of the training readings' range, and the range over the square root of 12.

    The middle is used because 0 stands for a missing reading: for a switch that is mostly off, the middle is neither on
    nor off. The range is used because a sensor that mostly rests and sometimes peaks must not be far out at each peak,
    as it would be by its standard deviation or interquartile range. A constant feature's scale is a hundredth of its
    value, or 1.
    """

    def __init__(self, location: Tensor, scale: Tensor):
        super().__init__()
        self.register_buffer("location", location)
        self.register_buffer("scale", scale)

    location: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, x: Float32s, features: int | None = None) -> "Scaler":
        """Fit to training rows [n, D], NaN where missing.

        A column without any reading has the scale of the first column of its feature: with windows, sensors with many
        gaps have such differences. D is a multiple of the number of `features`, by default that number.
        """
        wide = x.astype(np.float64)
        is_empty = np.isnan(wide).all(0)
        wide[:, is_empty] = 0.0
        low, median, high = np.nanquantile(wide, (0.01, 0.5, 0.99), axis=0)
        spread = np.nanstd(np.clip(wide, low, high), axis=0)
        reach = np.where(spread > 0, _GARBAGE * spread, np.inf)
        lower = np.maximum(np.nanmin(wide, axis=0), median - reach)
        upper = np.minimum(np.nanmax(wide, axis=0), median + reach)
        location, scale = (lower + upper) / 2, (upper - lower) / _UNIFORM
        constant = scale <= np.maximum(np.abs(location) * _ROUNDING, 1e-30)
        scale = np.where(constant, np.where(location == 0, 1.0, np.abs(location) * 0.01), scale)
        scale[is_empty] = scale[np.flatnonzero(is_empty) % (features or len(scale))]
        held = (np.clip(v, -LARGEST, LARGEST).astype(np.float32) for v in (location, scale))
        return cls(*map(torch.from_numpy, held))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return z [n, d], 0 where a reading is missing, and `present` [n, d], 1 or 0; None if all are present."""
        t = (x - self.location).div_(self.scale)
        if t.device.type == "cpu" and len(t):
            # On the CPU extra passes cost more than this check: most batches are complete, and few readings are far.
            low, high = torch.aminmax(t)
            largest = torch.maximum(-low, high)
            if largest <= LINEAR_UP_TO:  # false for NaN
                return t, None
            if not largest.isnan():
                is_beyond = t.abs() > LINEAR_UP_TO
                t[is_beyond] = _soften(t[is_beyond])
                return t, None
        missing = torch.isnan(x)
        t = torch.where(missing, 0.0, t)
        return torch.where(t.abs() > LINEAR_UP_TO, _soften(t), t), (~missing).to(t.dtype)

    def inverse(self, z: Tensor) -> Tensor:
        """Return z in the readings' units again."""
        excess = z.abs() - LINEAR_UP_TO
        t = torch.where(excess > 0, z.sign() * (LINEAR_UP_TO + torch.expm1(excess.clamp(min=0, max=80))), z)
        return (t * self.scale + self.location).clamp(-LARGEST, LARGEST)  # finite, whatever the decoder says
