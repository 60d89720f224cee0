"""Wald's sequential probability ratio test (1945) for the rate of events: it says as soon as it knows, with errors that
are bounded whenever one looks.
"""

import math
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["good", "bad"]
FEWEST = 5  # looks: one burst of events, however long, is one look's


@dataclass
class RateTest:
    """Is the rate of events `good`, or is it `bad`, which is higher? `error` is the probability of either error.

    What one look says counts only so much: neighbouring vectors are not independent.
    """

    good: float
    bad: float
    error: float
    evidence: float = 0.0  # the logarithm of the likelihood ratio, of bad over good

    @property
    def _limit(self) -> float:
        return math.log((1 - self.error) / self.error)

    def look(self, events: int, rows: float) -> Outcome | None:
        """After `rows` vectors more, of which `events` were; None while it is not decided."""
        told = events * math.log(self.bad / self.good) - rows * (self.bad - self.good)
        most = self._limit / FEWEST
        self.evidence += min(max(told, -most), most)
        if self.evidence >= self._limit * (1 - 1e-9):
            return "bad"
        if self.evidence <= -self._limit * (1 - 1e-9):
            return "good"
        return None
