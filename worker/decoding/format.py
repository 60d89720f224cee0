"""What every input format has in common: the parsed rows of one record, and how a record fails.

A format is a class with `decode(values, records)`; `Decoder` joins what it has parsed to a block.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from worker.blocks.bytes_column import BytesColumn
from worker.blocks.vector_block import Reject
from worker.decoding.reject_reasons import BAD_TIME, INFINITE, Refused
from worker.native.arrays import Float32s, Int64s
from worker.schema_registry import SchemaRegistry

NO_TIME: Final = np.iinfo(np.int64).min
LAST_SECOND: Final = 10**11  # from here on a number is milliseconds
LAST_TIME: Final = 10**14
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


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


class FeatureSchema(NamedTuple):
    """What is read of a record: the features, and the fields that name the entity and the time.

    `strict` refuses fields that are none of these. `registry` has the schemas of formats that need one.
    """

    features: Sequence[str]
    entity_field: str | None
    time_field: str | None
    strict: bool
    registry: SchemaRegistry | None


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


def without_infinite(parsed: Parsed) -> Parsed:
    """Reject a record with an infinite reading (in float32) as a whole, since a record is atomic."""
    infinite = np.isinf(parsed.x)
    if not infinite.any():
        return parsed
    bad_row = infinite.any(axis=1)
    record_of_row = np.repeat(np.arange(len(parsed.records)), parsed.counts)
    bad = np.zeros(len(parsed.records), bool)
    bad[record_of_row[bad_row]] = True
    rejects = [Reject(int(r), INFINITE, "a reading is infinite in float32") for r in parsed.records[bad]]
    return Parsed(
        records=parsed.records[~bad],
        counts=parsed.counts[~bad],
        x=parsed.x[~bad[record_of_row]],
        rejects=[*parsed.rejects, *rejects],
        entities=parsed.entities,
        times=parsed.times,
        row_times=None if parsed.row_times is None else parsed.row_times[~bad[record_of_row]],
    )


def milliseconds(value: Any) -> int:
    """Return an event time in ms. Raises Refused.

    A number is seconds since the epoch below 1e11 (the year 5138), else milliseconds. A string is ISO 8601.
    """
    if type(value) in (int, float) and math.isfinite(value) and 0 <= value < LAST_TIME:
        return int(value * 1000) if value < LAST_SECOND else int(value)
    if type(value) is str:
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            pass
        else:
            return _of_moment(value)
    if type(value) is datetime and 0 <= (time_ms := _of_moment(value)) < LAST_TIME:
        return time_ms
    raise Refused(BAD_TIME, f"{str(value)[:40]!r} is not a valid time")


def moment(ms: int) -> datetime:
    """Return the time of a number of milliseconds since the epoch, which is never taken for seconds."""
    return _EPOCH + timedelta(milliseconds=ms)


def _of_moment(moment: datetime) -> int:
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // timedelta(milliseconds=1)
