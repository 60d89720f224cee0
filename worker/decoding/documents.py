"""The documents that the formats `json` and `avro` allow. This is the reference for what is valid.

A document is an array of numbers, an array of such arrays, an object with the feature names as keys, or an object whose
`values` is any of these. null, or an absent key, is a missing reading. Readings are numbers. Strings and booleans are
refused, unless OFFNORMAL_INPUT__COERCE is set (coercion.py).
"""

from array import array
from collections.abc import Callable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.blocks.bytes_column import BytesColumn
from worker.blocks.limits import MAX_ENTITY_BYTES
from worker.blocks.vector_block import Reject
from worker.decoding.coercion import SHOWN, coerced
from worker.decoding.event_time import milliseconds
from worker.decoding.format import FeatureSchema, Parsed, without_infinite
from worker.decoding.reject_reasons import BAD_ENTITY, UNKNOWN_KEY, WRONG_LENGTH, WRONG_TYPE, Refused
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
        self._known = {*self._features, schema.entity_field, schema.time_field}
        self._nested = "values" not in self._features
        self._has_fields = schema.entity_field is not None or schema.time_field is not None
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
        times: dict[int, int] = {}
        for r in records.tolist():
            try:
                doc, has_booleans = load(bytes(values.view(r)))
                parsed_rows = self._rows(doc)
                for row in parsed_rows:
                    if len(row) != self._width:
                        raise Refused(WRONG_LENGTH, f"{len(row)} readings, not {self._width}")
                if self._has_fields and type(doc) is dict:
                    self._read_fields(r, doc, entities, times)
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
            return [
                without_infinite(
                    self._one_by_one(
                        rows=rows, good=good, counts=counts, rejects=rejects, entities=entities, times=times
                    ),
                    self._features,
                )
            ]
        parsed = Parsed(
            records=np.array(good, np.int64),
            counts=np.array(counts, np.int64),
            x=x,
            rejects=rejects,
            entities=entities,
            times=times,
        )
        return [without_infinite(parsed, self._features)]

    def _rows(self, doc: Any) -> Sequence[Row]:
        """Return the rows of one document. Raises Refused."""
        if type(doc) is dict:
            if self._strict:
                self._refuse_unknown(doc)
            inner = doc.get("values") if self._nested else None
            if type(inner) is list:
                return self._rows(inner)
            if type(inner) is dict:
                doc = inner
                if self._strict:
                    self._refuse_unknown(doc)
            try:
                return (self._pick(doc),)
            except KeyError:
                return (tuple(map(doc.get, self._features)),)
        if type(doc) is list:
            if not doc:
                raise Refused(WRONG_LENGTH, "an empty array")
            if type(doc[0]) is not list:
                return (doc,)
            if any(type(row) is not list for row in doc):
                raise Refused(WRONG_TYPE, "an array of arrays holds something else")
            return doc
        raise Refused(WRONG_TYPE, f"neither an array nor an object, but {type(doc).__name__}")

    def _refuse_unknown(self, doc: dict[str, Any]) -> None:
        extra = [key for key in doc if key not in self._known and key != "values"]
        if extra:
            raise Refused(UNKNOWN_KEY, f"not a feature: {', '.join(extra[:5])}")

    def _read_fields(self, r: int, doc: dict[str, Any], entities: dict[int, str], times: dict[int, int]) -> None:
        if self._time_field is not None and (value := doc.get(self._time_field)) is not None:
            times[r] = milliseconds(value, self._zone)
        if self._entity_field is not None and (value := doc.get(self._entity_field)) is not None:
            if type(value) not in (str, int):
                raise Refused(BAD_ENTITY, f"{self._entity_field} is neither a string nor an integer")
            entities[r] = name = str(value)
            if len(name) * 4 > MAX_ENTITY_BYTES and len(name.encode("utf-8", "replace")) > MAX_ENTITY_BYTES:
                raise Refused(BAD_ENTITY, f"{self._entity_field} is longer than {MAX_ENTITY_BYTES} bytes")

    def _one_by_one(
        self,
        rows: list[Row],
        good: list[int],
        counts: list[int],
        rejects: list[Reject],
        entities: dict[int, str],
        times: dict[int, int],
    ) -> Parsed:
        """Parse documents one by one, so that an invalid one does not affect the others.

        Used if a block has missing readings, or a value that is no number.
        """
        kept: list[Float32s] = [np.empty((0, self._width), np.float32)]
        kept_records, kept_counts, first = [], [], 0
        for r, count in zip(good, counts, strict=True):
            own_rows = rows[first : first + count]
            first += count
            try:
                _numbers_only(own_rows, self._features)
                kept.append(_float32(np.array(own_rows, np.float64)))
            except Refused as error:
                rejects.append(Reject(r, error.reason, str(error)))
            else:
                kept_records.append(r)
                kept_counts.append(count)
        return Parsed(
            records=np.array(kept_records, np.int64),
            counts=np.array(kept_counts, np.int64),
            x=np.concatenate(kept),
            rejects=rejects,
            entities=entities,
            times=times,
        )


def _matrix(rows: list[Row], width: int) -> Float32s:
    """Return [n, d] of rows that all have d readings. Raises Refused if a reading is null or no number.

    It converts with array.array, which accepts only numbers (and booleans). numpy would parse a string as the number
    that it spells.
    """
    try:
        flat = array("d", list(chain.from_iterable(rows)))
    except (TypeError, OverflowError) as error:
        raise Refused(WRONG_TYPE, str(error)) from None
    return _float32(np.frombuffer(flat, np.float64).reshape(-1, width))


def _float32(wide: npt.NDArray[Any]) -> Float32s:
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes infinite, and a reject
        return wide.astype(np.float32)


_NUMBERS = {int, float, type(None)}


def _numbers_only(rows: Sequence[Row], features: Sequence[str]) -> None:
    for row in rows:
        if not _NUMBERS.issuperset(map(type, row)):
            name, value = next((n, v) for n, v in zip(features, row, strict=True) if type(v) not in _NUMBERS)
            shown = f"{value!r:.{SHOWN}}"
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
