"""The reference of drift detection: training's statistics of normal operation, which travel in the artefact."""

from dataclasses import dataclass
from functools import cached_property

from worker.native.arrays import Float64s

MOST_ENTITIES = 1000


@dataclass(frozen=True, eq=False)
class Reference:
    """Statistics of d features over summaries of `rows` vectors, enough for summaries to be nearly independent.

    `location` [1 + e, d] are the mean readings of the fleet and of the `entities`. `deviation` [d] is the standard
    deviation of a reading around its entity's mean. `spread` [d] is that of a summary's mean, including the dependence
    between summaries. `present` [d] is the share of readings that were there. `still` [d] is the longest run of
    summaries in which an entity's reading did not change. `p_values` [m] are the mean p-values of stretches of held-out
    vectors, in time order.
    """

    rows: int
    entities: tuple[str, ...]
    location: Float64s
    deviation: Float64s
    spread: Float64s
    present: Float64s
    still: Float64s
    p_values: Float64s

    @cached_property
    def _row(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.entities, 1)}

    def row(self, entity: str | None) -> int | None:
        """Return the entity's row of `location`; None if it was not among the entities of the training."""
        return self._row.get(entity) if self._row and entity is not None else None if self._row else 0
