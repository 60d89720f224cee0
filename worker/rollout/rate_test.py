"""Wald's sequential probability ratio test (1945) for the rate of events.

It decides as early as possible, with error probabilities that are bounded at any time.
"""

import math
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["good", "bad"]
FEWEST = 5  # minimum looks until a decision: a single burst of events, however long, must not decide


@dataclass
class RateTest:
    """Tests whether the rate of events is `good`, or the higher `bad`; `error` is the probability of either error.

    Each look counts only up to a limit, since neighbouring vectors are not independent.
    """

    good: float
    bad: float
    error: float
    evidence: float = 0.0  # the logarithm of the likelihood ratio, of bad over good

    @property
    def _limit(self) -> float:
        return math.log((1 - self.error) / self.error)

    def look(self, events: int, rows: float) -> Outcome | None:
        """Count `rows` more vectors, of which `events` were events; return the outcome, or None if it is open."""
        evidence = events * math.log(self.bad / self.good) - rows * (self.bad - self.good)
        upper = self._limit / FEWEST
        self.evidence += min(max(evidence, -upper), upper)
        if self.evidence >= self._limit * (1 - 1e-9):
            return "bad"
        if self.evidence <= -self._limit * (1 - 1e-9):
            return "good"
        return None
