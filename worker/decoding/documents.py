"""The documents that `json`, `avro` and `protobuf` allow. This is the reference for what is valid.

A document is an array of numbers, an object with the features as its fields, an array of either, or an object whose
`values` is any of these; shape.py finds the rows in other documents. null, or an absent field, is a missing reading.
Readings are numbers. Strings and booleans are refused, unless OFFNORMAL_INPUT__COERCE is set (coercion.py).
"""

from array import array
from collections.abc import Callable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.blocks.bytes_column import BytesColumn
from worker.blocks.vector_block import Reject
from worker.decoding.coercion import SHOWN, coerced
from worker.decoding.dead_letter_reasons import INFINITE, UNKNOWN_KEY, WRONG_LENGTH, WRONG_TYPE, Refused
from worker.decoding.event_time import NO_TIME, milliseconds
from worker.decoding.format import FeatureSchema, Parsed, without_infinite
from worker.decoding.shape import Rows, Shape, at, entity_of, flat
from worker.native.arrays import Float32s, Int64s

Row = Sequence[Any]
# The bytes of a record -> the document, and whether there may be a boolean in it. Raises Refused.
Load = Callable[[bytes], tuple[Any, bool]]


class Documents:
    """Reads documents, each as an object of Python."""

    def __init__(self, schema: FeatureSchema):
        self._zone, self._coerce, self._strict = schema.zone, schema.coerce, schema.strict
        self._features, self._width = tuple(schema.features), len(schema.features)
        self._entity_field, self._time_field = schema.entity_field, schema.time_field
        inner = f"{schema.values_field}."
        fields = [path for path in (schema.entity_field, schema.time_field) if path is not None]
        self._known = {*self._features, *fields, *(path.removeprefix(inner) for path in fields)}
        self._shape = Shape(schema)
        # itemgetter of one name gives no tuple
        self._pick: Callable[[Any], Row] = (
            itemgetter(*self._features) if self._width > 1 else lambda doc: tuple(doc[name] for name in self._features)
        )

    def decode(self, values: BytesColumn, records: Int64s, load: Load) -> list[Parsed]:
        """Parse the values of `records`; `load` makes a document of bytes, or raises Refused."""
        rows: list[Row] = []
        good: list[int] = []
        counts: list[int] = []
        rejects: list[Reject] = []
        entities: dict[int, str] = {}
        times: dict[int, list[int]] = {}  # of each row
        for r in records.tolist():
            try:
                doc, has_booleans = load(bytes(values.view(r)))
                found = self._shape.rows(doc)
                if self._strict:
                    self._refuse_unknown(found)
                parsed_rows: Sequence[Row] = [self._row(readings) for readings in found.readings]
                if self._time_field is not None:
                    self._read_times(r, found, times)
                if self._entity_field is not None:
                    self._read_entity(r, found, entities)
                if self._coerce:
                    parsed_rows = [_coerced(row, self._features) for row in parsed_rows]
                elif has_booleans:  # the array would take true for 1.0, so such rows have to be checked one by one
                    _numbers_only(parsed_rows, self._features)
            except Refused as error:
                rejects.append(Reject(r, error.reason, str(error)))
            else:
                good.append(r)
                counts.append(len(parsed_rows))
                rows.extend(parsed_rows)
        try:
            x = _matrix(rows, self._width)
        except Refused:
            good, counts, x = self._one_by_one(rows, good, counts, rejects)
        row_times = None
        if any(len(times.get(r, ())) > 1 for r in good):
            of_rows = [times.get(r, [NO_TIME] * count) for r, count in zip(good, counts, strict=True)]
            row_times = np.array(list(chain.from_iterable(of_rows)), np.int64)
        parsed = Parsed(
            records=np.array(good, np.int64),
            counts=np.array(counts, np.int64),
            x=x,
            rejects=rejects,
            entities={r: entities[r] for r in good if r in entities},
            times={r: times[r][0] for r in good if len(times.get(r, ())) == 1 and times[r][0] != NO_TIME},
            row_times=row_times,
        )
        return [without_infinite(parsed, self._features)]

    def _row(self, readings: Any) -> Row:
        """Return one row, of an array or an object. Raises Refused."""
        if type(readings) is list:
            if len(readings) != self._width:
                raise Refused(WRONG_LENGTH, f"{len(readings)} readings, not {self._width}")
            return readings
        try:
            return self._pick(readings)
        except KeyError:
            return tuple(at(readings, name) for name in self._features)

    def _refuse_unknown(self, found: Rows) -> None:
        """Refuse fields beside the readings, and beside the object that holds them in its `values`."""
        objects = [readings for readings in found.readings if type(readings) is dict]
        if self._shape.prefix == "" and type(found.document) is dict:
            objects.append({key: value for key, value in found.document.items() if key != "values"})
        extra = [key for fields in objects for key in flat(fields) if key not in self._known]
        if extra:
            raise Refused(UNKNOWN_KEY, f"not a feature: {', '.join(extra[:5])}")

    def _read_times(self, r: int, found: Rows, times: dict[int, list[int]]) -> None:
        """Read the event time of each row; of readings that make one row, the latest. Raises Refused."""
        values = self._shape.fields(found, self._time_field or "")
        if all(value is values[0] for value in values):  # one time for all rows
            values = values[:1]
        read = [NO_TIME if value is None else milliseconds(value, self._zone) for value in values]
        if any(time != NO_TIME for time in read):
            times[r] = read if len(read) == len(found.readings) else [max(read)]

    def _read_entity(self, r: int, found: Rows, entities: dict[int, str]) -> None:
        """Read the one entity of all rows. Raises Refused."""
        entity = entity_of(self._shape, found, self._entity_field or "")
        if entity is not None:
            entities[r] = entity

    def _one_by_one(
        self, rows: list[Row], good: list[int], counts: list[int], rejects: list[Reject]
    ) -> tuple[list[int], list[int], Float32s]:
        """Parse documents one by one, so that an invalid one does not affect the others.

        Used if a block has missing readings, or a value that is no number. Returns the good records, their counts of
        rows, and the rows.
        """
        kept: list[Float32s] = [np.empty((0, self._width), np.float32)]
        kept_records, kept_counts, first = [], [], 0
        for r, count in zip(good, counts, strict=True):
            own_rows = rows[first : first + count]
            first += count
            try:
                _numbers_only(own_rows, self._features)
                kept.append(_float32(np.array(own_rows, np.float64).reshape(-1, self._width)))
            except Refused as error:
                rejects.append(Reject(r, error.reason, str(error)))
            except OverflowError:  # an integer of hundreds of digits
                rejects.append(Reject(r, INFINITE, "a reading is infinite in float32"))
            else:
                kept_records.append(r)
                kept_counts.append(count)
        return kept_records, kept_counts, np.concatenate(kept)


def _matrix(rows: list[Row], width: int) -> Float32s:
    """Return [n, d] of rows that all have d readings. Raises Refused if a reading is null or no number.

    It converts with array.array, which accepts only numbers (and booleans). numpy would parse a string as the number
    that it spells.
    """
    try:
        flat = array("d", list(chain.from_iterable(rows)))
    except (TypeError, OverflowError) as error:
        raise Refused(WRONG_TYPE, str(error)) from None
    return _float32(np.frombuffer(flat, np.float64).reshape(len(rows), width))


def _float32(wide: npt.NDArray[Any]) -> Float32s:
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes infinite, and a reject
        return wide.astype(np.float32)


_NUMBERS = {int, float, type(None)}


def _numbers_only(rows: Sequence[Row], features: Sequence[str]) -> None:
    for row in rows:
        if not _NUMBERS.issuperset(map(type, row)):
            name, value = next((n, v) for n, v in zip(features, row, strict=True) if type(v) not in _NUMBERS)
            try:
                shown = f"{value!r:.{SHOWN}}"
            except RecursionError:  # arrays in arrays
                shown = "nested too deep to show"
            raise Refused(WRONG_TYPE, f"{name[:100]}: the reading is no number but {type(value).__name__} {shown}")


def _coerced(row: Row, features: Sequence[str]) -> Row:
    if _NUMBERS.issuperset(map(type, row)):
        return row
    numbers = []
    for name, value in zip(features, row, strict=True):
        try:
            numbers.append(coerced(value))
        except Refused as error:
            raise Refused(error.reason, f"{name[:100]}: {error}") from None
    return numbers
