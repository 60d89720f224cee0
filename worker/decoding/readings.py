"""Documents that hold readings of single tags: {"tag": "temperature", "value": 20.1}, or an array of such objects.

Each reading has its tag, its value, and perhaps its time and quality. A reading of bad quality counts as missing from
its time on. Of a tag that is no feature only the time is read.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from worker.blocks.bytes_column import BytesColumn
from worker.blocks.reading_block import ReadingBlock
from worker.blocks.record_block import RecordBlock
from worker.blocks.vector_block import Reject
from worker.decoding.coercion import SHOWN, coerced
from worker.decoding.dead_letter_reasons import INFINITE, WRONG_TYPE, Refused
from worker.decoding.event_time import NO_TIME, milliseconds
from worker.decoding.format import FeatureSchema
from worker.decoding.shape import Rows, Shape, entity_of
from worker.native.arrays import Float32s, Int64s

# A part of a record's value -> its document. Raises Refused, SchemaRegistryError.
Document = Callable[[memoryview], Any]
_OTHER_TAG: Final = -1
_GOOD_NUMBERS: Final = frozenset(map(str, range(192, 256)))  # OPC's
_LARGEST: Final = float(np.finfo(np.float32).max)


class _Part(NamedTuple):
    record: Int64s
    column: Int64s
    value: Float32s
    time: Int64s


class ParsedReadings:
    """Readings in columns, as in ReadingBlock; the time of a reading is NO_TIME if it has none of its own."""

    def __init__(self, rejects: list[Reject]):
        self._parts: list[_Part] = []
        self.entities: dict[int, str] = {}
        self.rejects = rejects

    def add(self, record: Int64s, column: Int64s, value: Float32s, time: Int64s) -> None:
        """Append readings, those of one record together and in their order."""
        self._parts.append(_Part(record, column, value, time))

    def block(self, records: RecordBlock, header_times: Mapping[int, int], nulls: int) -> ReadingBlock:
        """Return the readings as a block; those without a time have that of their record or its header."""
        record, column, value, time = self._joined()
        has_time = time != NO_TIME
        record_times = records.timestamp
        if header_times:
            record_times = record_times.copy()
            record_times[list(header_times)] = list(header_times.values())
        return ReadingBlock(
            records=records,
            record=record,
            column=column,
            value=value,
            time=np.where(has_time, time, record_times[record]),
            entities=self.entities,
            rejects=sorted(self.rejects, key=lambda reject: reject.record),
            nulls=nulls,
            timed=len(np.unique(record[has_time])),
        )

    def _joined(self) -> _Part:
        """Return the parts as one, in the order of the records."""
        if len(self._parts) == 1:
            return self._parts[0]
        none = _Part(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64))
        parts = [none, *self._parts]
        record = np.concatenate([part.record for part in parts])
        order = np.argsort(record, kind="stable")
        return _Part(
            record[order],
            np.concatenate([part.column for part in parts])[order],
            np.concatenate([part.value for part in parts])[order],
            np.concatenate([part.time for part in parts])[order],
        )


class ReadingsFormat(Protocol):
    """Reads the readings of one format, for one feature schema."""

    def decode(self, values: BytesColumn, records: Int64s, parsed: ParsedReadings) -> None:
        """Append the readings of `records` (indices, none of them null). Never raises over content."""
        ...


class ReadingDocuments:
    """Reads the readings of documents, each as an object of Python."""

    def __init__(self, schema: FeatureSchema, document: Document):
        self._shape, self._document = Shape(schema), document
        self._columns = {name: j for j, name in enumerate(schema.features)}
        self._zone, self._coerce, self._good = (
            schema.zone,
            schema.coerce,
            frozenset(quality.lower() for quality in schema.good),
        )
        self._entity_field, self._time_field = schema.entity_field, schema.time_field
        self._quality_field = schema.quality_field

    def decode(self, values: BytesColumn, records: Int64s, parsed: ParsedReadings) -> None:
        """Append the readings of `records`. A record of which one is refused has none."""
        record, column, value, time = list[int](), list[int](), list[float](), list[int]()
        for r in records.tolist():
            try:
                found = self._shape.tagged_rows(self._document(values.view(r)))
                columns, numbers = self._numbers(found)
                times = self._times(found)
                entity = None if self._entity_field is None else entity_of(self._shape, found, self._entity_field)
            except Refused as error:
                parsed.rejects.append(Reject(r, error.reason, str(error)))
                continue
            record += [r] * len(columns)
            column += columns
            value += numbers
            time += times
            if entity is not None:
                parsed.entities[r] = entity
        found_in, of_tag, times_ms = (np.array(numbers, np.int64) for numbers in (record, column, time))
        parsed.add(found_in, of_tag, np.array(value, np.float32), times_ms)

    def _numbers(self, found: Rows) -> tuple[list[int], list[float]]:
        """Return the columns and values of the readings. Raises Refused."""
        columns, numbers = [], []
        is_good: Sequence[bool] = ()
        if self._quality_field is not None:
            is_good = [self._is_good(quality) for quality in self._shape.fields(found, self._quality_field)]
        for k, (tag, value) in enumerate(self._shape.tags(found)):
            column = self._columns.get(tag, _OTHER_TAG)
            columns.append(column)
            if column == _OTHER_TAG or (is_good and not is_good[k]):
                numbers.append(math.nan)
            else:
                numbers.append(self._number(tag, value))
        return columns, numbers

    def _number(self, tag: str, value: Any) -> float:
        """Return the value of a reading. Raises Refused."""
        if type(value) is float and -_LARGEST <= value <= _LARGEST:
            return value
        try:
            number = coerced(value) if self._coerce else value
        except Refused as error:
            raise Refused(error.reason, f"{tag[:100]}: {error}") from None
        if number is None:
            return math.nan
        if type(number) not in (int, float):
            shown = type(value).__name__ if type(value) in (list, dict) else f"{value!r:.{SHOWN}}"
            raise Refused(WRONG_TYPE, f"{tag[:100]}: the reading is no number but {shown}")
        if not (-_LARGEST <= number <= _LARGEST or number != number):
            raise Refused(INFINITE, f"{tag[:100]}: the reading is infinite in float32")
        return float(number)

    def _times(self, found: Rows) -> list[int]:
        """Return the time of each reading, NO_TIME where there is none. Raises Refused."""
        if self._time_field is None:
            return [NO_TIME] * len(found.elements)
        values = self._shape.fields(found, self._time_field)
        return [NO_TIME if value is None else milliseconds(value, self._zone) for value in values]

    def _is_good(self, quality: Any) -> bool:
        """Return whether a reading counts. Senders leave the quality out where it is good."""
        if type(quality) is dict:  # OPC UA: {"Code": 0, "Symbol": "Good"}
            symbol, code = quality.get("Symbol"), quality.get("Code")
            quality = symbol if symbol is not None else "good" if code == 0 else code
        if quality is None:
            return True
        if type(quality) in (list, dict):
            return False
        text = str(quality).lower()
        if self._good:
            return text in self._good
        if text.startswith("good") or text in ("true", "ok"):
            return True
        return bool(192 <= quality < 256) if type(quality) in (int, float) else text in _GOOD_NUMBERS
