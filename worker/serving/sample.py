"""A sample of a batch, for drift detection and for trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from worker.blocks import BytesColumn, TopicSet, VectorBlock
from worker.blocks.entity_hash import hashes
from worker.models.entities import EntityRows
from worker.native.arrays import Bools, Float32s, Float64s, Int64s, UInt64s
from worker.serving.loaded_model import LoadedModel

ROWS: Final = 256  # of a batch, if that is enough ...
OF_SUMMARY: Final = 32  # ... for so many of each of the model's summaries

Entity = tuple[
    int, str | None
]  # number of its partition, and name: as everywhere, an entity is what it is within its partition


@dataclass(frozen=True, eq=False)
class Sample:
    """k of a batch's vectors, spread evenly.

    `x` [k, d] are the vectors and `scores` [k] their scores by `resident`. `time` [k] is the event time in ms.
    `stands_for` [k] is how many vectors each one represents. `entity` [k] is the hash of the entity
    (worker/blocks/entity_hash.py), which `names` maps to its name. `place` [k, 3] is partition, offset and row of the
    `topics`. `scored` [k, D] is what was scored, by the rows `rows_of` of the model's tables.
    """

    resident: LoadedModel
    x: Float32s
    scores: Float32s
    time: Int64s
    stands_for: Float64s
    entity: UInt64s
    names: Mapping[int, Entity]
    topics: TopicSet
    place: Int64s
    scored: Float32s
    rows_of: EntityRows

    @classmethod
    def of(
        cls,
        block: VectorBlock,
        scores: Float32s,
        scored: Float32s,
        rows_of: EntityRows,
        resident: LoadedModel,
        share: float = 0.0,
    ) -> "Sample | None":
        """Return a sample of a block of at least one vector; `share` is the least share of the vectors it has.

        Vectors without any reading are left out. Returns None where all are.
        """
        n, reference = len(block), resident.reference
        wanted = ROWS if reference is None else max(ROWS, OF_SUMMARY * n // reference.rows)
        rows = spread(n, -(-n // max(min(n // wanted, int(1 / share) if share else n), 1)))
        stands_for = n / len(rows)
        # A record that has no feature at all is not of this model: it tells nothing of its sensors.
        rows = rows[~np.isnan(block.x[rows]).all(axis=1)]
        if not len(rows):
            return None
        record = block.record[rows]
        sampled, inverse = np.unique(record, return_inverse=True)
        records = block.records.take(sampled)
        named = block.entities
        own = [named[r].encode() if r in named else block.records.keys[r] for r in sampled.tolist()] if named else None
        entity = hashes(records, records.keys if own is None else BytesColumn.of(own))[inverse]
        unique, first = np.unique(entity, return_index=True)
        x = block.x[rows]  # a copy: the batch's bytes must not be held for this
        return cls(
            resident=resident,
            x=x,
            scores=scores[rows],
            time=block.time[rows],
            stands_for=np.full(len(rows), stands_for),
            entity=entity,
            names={
                hash: (int(block.records.partition[record[i]]), block.entity_of_record(int(record[i])))
                for hash, i in zip(unique.tolist(), first.tolist(), strict=True)
            },
            topics=block.records.topics,
            place=np.column_stack((block.records.partition[record], block.records.offset[record], block.row[rows])),
            scored=x if scored is block.x else scored[rows],
            rows_of=rows_of.take(rows),
        )

    @classmethod
    def concat(cls, samples: Sequence["Sample"]) -> "Sample":
        """Join samples of one model, in order."""
        if len(samples) == 1:
            return samples[0]
        first = samples[0]
        return cls(
            resident=first.resident,
            x=np.concatenate([s.x for s in samples]),
            scores=np.concatenate([s.scores for s in samples]),
            time=np.concatenate([s.time for s in samples]),
            stands_for=np.concatenate([s.stands_for for s in samples]),
            entity=np.concatenate([s.entity for s in samples]),
            names={hash: name for s in samples for hash, name in s.names.items()},
            topics=first.topics,
            place=np.concatenate([s.place for s in samples]),
            scored=np.concatenate([s.scored for s in samples]),
            rows_of=EntityRows.concat([s.rows_of for s in samples]),
        )

    @property
    def over(self) -> Bools:
        """Return [k] whether the model flags each vector."""
        is_over: Bools = self.scores >= self.resident.threshold
        return is_over

    def __len__(self) -> int:
        return len(self.x)


def spread(n: int, most: int) -> Int64s:
    """Return at most `most` of n rows, evenly spread, but not at one stride: machines may take turns."""
    if n <= most:
        return np.arange(n)
    k = np.arange(most)
    rows: Int64s = ((k + k * _GOLDEN % 1) * (n / most)).astype(np.int64)
    return rows


_GOLDEN: Final = (5**0.5 - 1) / 2  # multiples of it, taken modulo 1, never come close to a pattern
