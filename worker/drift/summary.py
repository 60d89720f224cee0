"""Summaries: what some hundreds of vectors, one after another, have in common."""

from dataclasses import dataclass

import numpy as np

from worker.native.arrays import Bools, Float64s, Floats, Int64s
from worker.native.jit import compiled, read_only


@dataclass(frozen=True, eq=False)
class Summary:
    """A summary of `rows` vectors from event time `begin` to `end` (ms).

    Of each feature: the `mean`, the standard `deviation`, the lowest and highest reading (NaN without any), and the
    share that was `present`. Of the scored vectors: the mean `p_value` and the share `over` budget (NaN without any).
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


@compiled
def _add_up(x, count, total, squares, shift, low, high):  # type: ignore[no-untyped-def]
    """Add rows x [k, d], NaN where missing, to the sums [d]; `shift` is the first reading of each feature."""
    for i in range(len(x)):
        for j in range(len(count)):
            v = np.float64(x[i, j])
            if v != v:
                continue
            if count[j] == 0:
                shift[j] = v
            count[j] += 1
            total[j] += v - shift[j]
            squares[j] += (v - shift[j]) ** 2
            low[j] = min(low[j], v)
            high[j] = max(high[j], v)


class Tally:
    """Adds up vectors until a summary is full."""

    def __init__(self, d: int):
        self._d = d
        self._clear()

    def _clear(self) -> None:
        d = self._d
        self.rows = 0.0
        self._read = 0  # vectors that were looked at
        self._begin, self._end = 2**63 - 1, 0
        self._count, self._sum, self._squares = np.zeros(d), np.zeros(d), np.zeros(d)
        self._shift = np.zeros(d)  # sums are relative to the first reading, so that variances do not lose digits
        self._low, self._high = np.full(d, np.inf), np.full(d, -np.inf)
        self._scored, self._p_value, self._over = 0, 0.0, 0

    def add(
        self,
        x: Floats,
        p_values: Float64s,
        over: Bools,
        time: Int64s,
        rows: float,
    ) -> None:
        """Add vectors x [k, d], at least one, NaN where missing, that stand for `rows`.

        p-values [k] are NaN without a score.
        """
        _add_up(read_only(x), self._count, self._sum, self._squares, self._shift, self._low, self._high)
        scored = ~np.isnan(p_values)
        self._scored += int(np.count_nonzero(scored))
        self._p_value += float(p_values[scored].sum())
        self._over += int(np.count_nonzero(over))
        self._begin, self._end = min(self._begin, int(time.min())), max(self._end, int(time.max()))
        self._read += len(x)
        self.rows += rows

    def take(self) -> Summary:
        """Return the summary of what was added, and begin anew."""
        read, count = self._count > 0, np.maximum(self._count, 1)
        mean = self._sum / count
        summary = Summary(
            rows=self.rows,
            begin=self._begin,
            end=self._end,
            mean=np.where(read, mean + self._shift, np.nan),
            deviation=np.where(read, np.sqrt(np.maximum(self._squares / count - mean**2, 0)), np.nan),
            low=np.where(read, self._low, np.nan),
            high=np.where(read, self._high, np.nan),
            present=self._count / max(self._read, 1),
            p_value=self._p_value / self._scored if self._scored else np.nan,
            over=self._over / self._scored if self._scored else np.nan,
        )
        self._clear()
        return summary
