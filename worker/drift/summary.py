"""Summaries: what some hundreds of vectors, one after another, have in common."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from worker.models.reference import Float64s


@dataclass(frozen=True, eq=False)
class Summary:
    """Of `rows` vectors from event time `begin` to `end` (ms): of each feature the `mean`, the standard `deviation`,
    the lowest and highest reading (NaN where none was there), and the share that was `present`; of the scored vectors
    the mean `p_value` and the share `over` budget (NaN where none was scored).
    """

    rows: float
    begin: int
    end: int
    mean: Float64s
    deviation: Float64s
    low: Float64s
    high: Float64s
    present: Float64s
    p_value: float
    over: float


class Tally:
    """Adds up vectors until a summary is full."""

    def __init__(self, d: int):
        self._d = d
        self._clear()

    def _clear(self) -> None:
        self.rows = 0.0
        self._read = 0  # vectors that were looked at
        self._begin, self._end = 2**63 - 1, 0
        self._count, self._sum, self._squares = np.zeros(self._d), np.zeros(self._d), np.zeros(self._d)
        self._shift = np.full(self._d, np.nan)  # variances are those around the first reading: no digits cancel
        self._low, self._high = np.full(self._d, np.inf), np.full(self._d, -np.inf)
        self._scored, self._p_value, self._over = 0, 0.0, 0

    def add(
        self,
        x: Float64s,
        p_values: Float64s,
        over: npt.NDArray[np.bool_],
        time: npt.NDArray[np.int64],
        rows: float,
    ) -> None:
        """Vectors x [k, d], at least one, NaN where missing, that stand for `rows`; p-values [k], NaN without a
        score.
        """
        there = ~np.isnan(x)
        first = np.take_along_axis(x, there.argmax(0)[None], 0)[0]
        self._shift = np.where(np.isnan(self._shift), first, self._shift)
        shifted = np.where(there, x - self._shift, 0.0)
        self._count += there.sum(0)
        self._sum += shifted.sum(0)
        self._squares += np.square(shifted).sum(0)
        self._low = np.minimum(self._low, np.where(there, x, np.inf).min(0))
        self._high = np.maximum(self._high, np.where(there, x, -np.inf).max(0))
        scored = ~np.isnan(p_values)
        self._scored += int(scored.sum())
        self._p_value += float(p_values[scored].sum())
        self._over += int(over.sum())
        self._begin, self._end = min(self._begin, int(time.min())), max(self._end, int(time.max()))
        self._read += len(x)
        self.rows += rows

    def take(self) -> Summary:
        """The summary of what was added; begins anew."""
        read, count = self._count > 0, np.maximum(self._count, 1)
        mean = self._sum / count
        made = Summary(
            rows=self.rows,
            begin=self._begin,
            end=self._end,
            mean=np.where(read, mean + np.nan_to_num(self._shift), np.nan),
            deviation=np.where(read, np.sqrt(np.maximum(self._squares / count - mean**2, 0)), np.nan),
            low=np.where(read, self._low, np.nan),
            high=np.where(read, self._high, np.nan),
            present=self._count / max(self._read, 1),
            p_value=self._p_value / self._scored if self._scored else np.nan,
            over=self._over / self._scored if self._scored else np.nan,
        )
        self._clear()
        return made
