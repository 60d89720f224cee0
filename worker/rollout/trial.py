"""One trial: two models score the same vectors, and vectors that only the newer one flags count against it."""

from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from worker.models.entities import EntityRows
from worker.native.arrays import Bools, Float32s, Float64s
from worker.rollout.rate_test import Outcome, RateTest
from worker.serving.loaded_model import LoadedModel
from worker.serving.sample import Sample

Kind = Literal["shadow", "probation"]

# The rate of vectors that only the newer model flags, in multiples of its promised rate: if it is sound, and if not.
GOOD: Final = 1.0
BAD: Final[dict[Kind, float]] = {"shadow": 4.0, "probation": 10.0}
ERROR: Final[dict[Kind, float]] = {"shadow": 0.01, "probation": 0.001}
LEAST_ROWS: Final = 500  # of a look, where the model has no reference that says


@dataclass
class Trial:
    """`newer` is on trial, `older` is what it would replace or has replaced; one of them is in service."""

    kind: Kind
    newer: LoadedModel
    older: LoadedModel
    rows: float = 0.0
    by_newer: float = 0.0  # rows over budget, each counted for those it stands for
    by_older: float = 0.0
    by_both: float = 0.0
    _only: int = 0
    _looked_at: int = 0
    _stood_for: float = 0.0
    _test: RateTest = field(init=False)

    def __post_init__(self) -> None:
        self._test = self._new_test()

    def _new_test(self) -> RateTest:
        budget = self.newer.budget
        good, bad = min(GOOD * budget, 0.2), min(BAD[self.kind] * budget, 0.5)
        return RateTest(good, bad, ERROR[self.kind])

    @property
    def other(self) -> LoadedModel:
        """Return the model that is not in service."""
        return self.newer if self.kind == "shadow" else self.older

    def take(self, sample: Sample) -> tuple[Outcome | None, Float32s, Bools]:
        """Return the outcome so far, the other model's scores [k] of the sample, and which of the rows it names [k].

        The model in service has scored the sample.
        """
        second_scores = self.other.score(sample.scored, self._rows_of(sample))
        named_by_other = np.asarray(second_scores >= self.other.threshold)
        named = sample.over
        newer, older = (named_by_other, named) if self.kind == "shadow" else (named, named_by_other)
        weight = sample.stands_for
        self.rows += float(weight.sum())
        self.by_newer += float(weight[newer].sum())
        self.by_older += float(weight[older].sum())
        self.by_both += float(weight[newer & older].sum())
        return self._looked(newer & ~older, weight), second_scores, named_by_other

    def _looked(self, only: Bools, weight: Float64s) -> Outcome | None:
        """Feed the test with the rows [k] that only the newer model flags.

        Each look covers as many vectors as one of the model's summaries.
        """
        reference, begin = self.newer.reference, 0
        size = LEAST_ROWS if reference is None else reference.rows
        reached = self._stood_for + np.cumsum(weight)
        while begin < len(only):
            end = int(np.searchsorted(reached, size)) + 1
            self._only += int(only[begin:end].sum())
            self._looked_at += len(only[begin:end])
            if end > len(only):
                self._stood_for = float(reached[-1])
                return None
            outcome = self._test.look(self._only, self._looked_at)
            self._only = self._looked_at = 0
            reached = reached - reached[end - 1]
            self._stood_for, begin = 0.0, end
            # Rolling a champion back to one that flags even more vectors would not help.
            if self.kind == "probation" and outcome is not None and (outcome == "good" or self._is_quieter):
                self._test = self._new_test()  # it goes on as long as the probation does
            elif outcome is not None:
                return outcome
        return None

    @property
    def _is_quieter(self) -> bool:
        return self.by_newer <= self.by_older

    def _rows_of(self, sample: Sample) -> EntityRows:
        names = [sample.names[hash][1] for hash in sample.entity.tolist()] if self.other.card.entities else None
        return self.other.entity_rows(names, sample.entity)

    def figures(self) -> dict[str, float]:
        """Return the figures of the trial so far, by name."""
        rows = max(self.rows, 1.0)
        named = self.by_newer + self.by_older - self.by_both
        return {
            "rows": round(self.rows),
            "rate": self.by_newer / rows,
            "rate_of_older": self.by_older / rows,
            "promised": self.newer.budget,
            "agreement": self.by_both / named if named else 1.0,
        }
