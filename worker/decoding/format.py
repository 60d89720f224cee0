"""What every input format has in common: the parsed rows of one record, and how a record fails.

A format is a class with `decode(values, records)`; `Decoder` joins what it has parsed to a block.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from typing import Any, NamedTuple, Protocol

import numpy as np

from worker.blocks.bytes_column import BytesColumn
from worker.blocks.vector_block import Reject
from worker.decoding.dead_letter_reasons import INFINITE
from worker.native.arrays import Bools, Float32s, Int64s
from worker.schema_registry import SchemaRegistry


@dataclass(frozen=True, slots=True)
class Parsed:
    """Rows of the records that parsed: `x` [n, d], and `counts`, the number of rows of each of `records`.

    Event times are given by record, or for each row (`row_times` [n], NO_TIME where there is none).
    """

    records: Int64s
    counts: Int64s
    x: Float32s
    rejects: Sequence[Reject] = ()
    entities: Mapping[int, str] = field(default_factory=dict)
    times: Mapping[int, int] = field(default_factory=dict)
    row_times: Int64s | None = None

    def without(self, bad: Bools, rejects: Sequence[Reject]) -> "Parsed":
        """Return this without the `bad` records [n], for which there are `rejects`."""
        if not bad.any():
            return self
        kept_rows = np.repeat(~bad, self.counts)
        dropped = set(self.records[bad].tolist())
        return Parsed(
            records=self.records[~bad],
            counts=self.counts[~bad],
            x=self.x[kept_rows],
            rejects=[*self.rejects, *rejects],
            entities={r: entity for r, entity in self.entities.items() if r not in dropped},
            times={r: time for r, time in self.times.items() if r not in dropped},
            row_times=None if self.row_times is None else self.row_times[kept_rows],
        )


class FeatureSchema(NamedTuple):
    """What is read of a record: the features, and the fields that hold the readings, the entity and the time.

    Fields are paths (shape.py). `values_field` has the readings, if the record itself has not; or `tag_field` and
    `value_field` have the name and the value of each reading, and `quality_field` says whether it is `good`. `strict`
    refuses fields that are none of these. `registry` has the schemas of formats that need one. `zone` is the time zone
    of times without an offset. With `coerce`, text and booleans may be numbers.
    """

    features: Sequence[str]
    entity_field: str | None = None
    time_field: str | None = None
    strict: bool = False
    registry: SchemaRegistry | None = None
    zone: tzinfo = UTC
    coerce: bool = False
    values_field: str | None = None
    tag_field: str | None = None
    value_field: str | None = None
    quality_field: str | None = None
    good: Sequence[str] = ()


class Format(Protocol):
    """Reads one format, for one feature schema."""

    def decode(self, values: BytesColumn, records: Int64s) -> list[Parsed]:
        """Parse the values of `records` (indices, none of them null), without infinite readings.

        Never raises over content. The parts may be in any order.
        """
        ...

    def document(self, value: memoryview) -> Any:
        """Return a record's content as JSON would have it. Raises Refused."""
        ...


def without_infinite(parsed: Parsed, features: Sequence[str]) -> Parsed:
    """Reject a record with an infinite reading (in float32) as a whole, since a record is atomic."""
    infinite = np.isinf(parsed.x)
    if not infinite.any():
        return parsed
    bad_row = infinite.any(axis=1)
    record_of_row = np.repeat(np.arange(len(parsed.records)), parsed.counts)
    bad = np.zeros(len(parsed.records), bool)
    bad[record_of_row[bad_row]] = True
    rows, first = np.unique(record_of_row[bad_row], return_index=True)
    columns = infinite[bad_row][first].argmax(axis=1)
    rejects = [
        Reject(int(parsed.records[row]), INFINITE, f"{features[column][:100]}: the reading is infinite in float32")
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    return parsed.without(bad, rejects)
