"""What every input format has in common: the parsed rows of one record, and how a record fails.

A format is a class with `decode(values, records)`; `Decoder` joins what it has parsed to a block.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import numpy as np

from worker.vectors.block import BytesColumn, Float32s, Int64s, Reject

UNPARSEABLE: Final = "unparseable"
WRONG_LENGTH: Final = "wrong-length"
WRONG_TYPE: Final = "wrong-type"
INFINITE: Final = "infinite"
UNKNOWN_KEY: Final = "unknown-key"
BAD_TIME: Final = "bad-time"
BAD_ENTITY: Final = "bad-entity"
UNKNOWN_SCHEMA: Final = "unknown-schema"
UNKNOWN_CONTENT_TYPE: Final = "unknown-content-type"
UNREADABLE: Final = "unreadable-batch"

RECORD_BATCH: Final = "application/vnd.offnormal.record-batch"  # what could not be read, as if it was one record
NO_TIME: Final = np.iinfo(np.int64).min
LAST_SECOND: Final = 10**11  # from here on a number is milliseconds
LAST_TIME: Final = 10**14
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
LONGEST_ENTITY: Final = 1024  # bytes: the name goes into every event, several times


class Refused(Exception):
    """This record is no vector: a reason and the error in words."""

    def __init__(self, reason: str, error: str):
        super().__init__(error)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Parsed:
    """Rows of the records that parsed: `x` [n, d], and `counts`, the number of rows of each of `records`. Their event
    times are told by record, or for each row (`row_times` [n], NO_TIME where there is none).
    """

    records: Int64s
    counts: Int64s
    x: Float32s
    rejects: Sequence[Reject] = ()
    entities: Mapping[int, str] = field(default_factory=dict)
    times: Mapping[int, int] = field(default_factory=dict)
    row_times: Int64s | None = None


class Format(Protocol):
    def decode(self, values: BytesColumn, records: Int64s) -> list[Parsed]:
        """Parses the values of `records` (indices, none of them null), in whatever parts, without infinite readings.
        Never raises over their content.
        """
        ...

    def document(self, value: memoryview) -> Any:
        """What a record says, as JSON would have it. Raises Refused."""
        ...


def without_infinite(parsed: Parsed) -> Parsed:
    """A record with an infinite reading (in float32) becomes a reject, whole: a record is atomic."""
    infinite = np.isinf(parsed.x)
    if not infinite.any():
        return parsed
    bad_row = infinite.any(axis=1)
    record_of_row = np.repeat(np.arange(len(parsed.records)), parsed.counts)
    bad = np.zeros(len(parsed.records), bool)
    bad[record_of_row[bad_row]] = True
    rejects = [Reject(int(r), INFINITE, "a reading is infinite in float32") for r in parsed.records[bad]]
    return Parsed(
        parsed.records[~bad],
        parsed.counts[~bad],
        parsed.x[~bad[record_of_row]],
        [*parsed.rejects, *rejects],
        parsed.entities,
        parsed.times,
        None if parsed.row_times is None else parsed.row_times[~bad[record_of_row]],
    )


def milliseconds(value: Any) -> int:
    """An event time. A number is seconds since the epoch below 1e11 (the year 5138), else milliseconds; a string is
    ISO 8601. Raises Refused.
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
    if type(value) is datetime and 0 <= (told := _of_moment(value)) < LAST_TIME:
        return told
    raise Refused(BAD_TIME, f"{str(value)[:40]!r} is no time")


def moment(ms: int) -> datetime:
    """Of milliseconds since the epoch: no number is taken for seconds then."""
    return _EPOCH + timedelta(milliseconds=ms)


def _of_moment(told: datetime) -> int:
    return ((told if told.tzinfo else told.replace(tzinfo=UTC)) - _EPOCH) // timedelta(milliseconds=1)
