"""Format `json`.

Most records of a topic are written by one program, so their keys have the same order and spacing. A compiled loop
(loop.py) reads such records, and plain arrays. It learns the bytes between the values from one record, and compares
them byte for byte. Nested objects are a part of these bytes. All other records are left to
worker/decoding/documents.py, the reference for what is valid. These have escapes, other scripts, another key order,
rows in arrays, a number that is hard to round, or an error.

Confluent's JSON Schema serializer writes a zero byte and the schema's id before the document. No JSON begins with that.
"""

import json
import re
from typing import Any, Final

import numpy as np
import orjson

from worker.blocks.bytes_column import BytesColumn
from worker.decoding.dead_letter_reasons import UNPARSEABLE, Refused
from worker.decoding.documents import Documents
from worker.decoding.format import FeatureSchema, Parsed
from worker.decoding.json.layout import Layout, Template, layout_of
from worker.decoding.json.loop import parse
from worker.decoding.loop_output import ENTITY, REFUSED, TIME, VALUES, Taken
from worker.decoding.shape import CONNECT, Shape, at, unwrapped
from worker.native.arrays import Bools, Int64s
from worker.native.jit import read_only

_FRAME: Final = 5  # bytes before a document: a zero byte, and the id of its schema
_LEARN_AGAIN: Final = 0.25  # share of refused records from which on a new layout is learned


class Json:
    """Reads `json`: records of a learned layout by a compiled loop, others by Documents."""

    def __init__(self, schema: FeatureSchema):
        self._any, self._shape = Documents(schema), Shape(schema)
        self._features = tuple(schema.features)
        self._entity_field, self._time_field, self._strict = schema.entity_field, schema.time_field, schema.strict
        self._layout = layout_of([], [], 0, False)

    @classmethod
    def of(cls, schema: FeatureSchema) -> "Json":
        """Return a reader for the feature schema."""
        return cls(schema)

    def decode(self, values: BytesColumn, records: Int64s) -> list[Parsed]:
        """Parse the values of `records`, as Format says."""
        parsed, refused = self._fast(values, records)
        parts, unframed = [parsed], values
        if len(refused) and (is_framed := _is_framed(values, refused)).any():
            unframed = _unframed(values, refused[is_framed])
            parsed, still_refused = self._fast(unframed, refused[is_framed])
            parts.append(parsed)
            refused = np.sort(np.concatenate([refused[~is_framed], still_refused]))
        if len(refused) > _LEARN_AGAIN * len(records) and self._learn(unframed, refused):
            parsed, refused = self._fast(unframed, refused)
            parts.append(parsed)
        if len(refused):
            parts += self._any.decode(values, refused, load)
        return [part for part in parts if len(part.records) or part.rejects] or parts[:1]

    def document(self, value: memoryview) -> Any:
        """Return the document. Raises Refused."""
        return load(bytes(value))[0]

    def _fast(self, values: BytesColumn, records: Int64s) -> tuple[Parsed, Int64s]:
        """Return what the compiled loop has parsed, and the records that it has refused."""
        layout = self._layout
        if self._shape.prefix is None:  # it knows no rows in arrays
            records, left = records[:0], records
            return Parsed(records, records, np.empty((0, len(self._features)), np.float32)), left
        output = Taken(len(records), len(self._features), layout.whole)
        good = parse(
            read_only(np.frombuffer(values.buffer, np.uint8)),
            values.start[records],
            values.length[records],
            layout.words,
            layout.masks,
            layout.ends,
            layout.sizes,
            layout.roles,
            layout.closers,
            output.x,
            output.times,
            output.names,
        )
        return output.parsed(values, records, good)

    def _learn(self, values: BytesColumn, refused: Int64s) -> bool:
        """Learn the layout of objects from one of these records; return whether it is a new one."""
        text = bytes(values.view(int(refused[0])))
        try:
            doc: Any = orjson.loads(text)
        except orjson.JSONDecodeError:
            return False
        separators = (", ", ": ") if re.match(rb'\s*{"[^"]*": ', text) else (",", ":")
        try:
            layout, before = self._layout_of(doc, separators), self._layout
        except RecursionError:  # what is nested so deep is left to Documents
            return False
        self._layout = layout
        return not (np.array_equal(layout.words, before.words) and np.array_equal(layout.ends, before.ends))

    def _layout_of(self, document: Any, separators: tuple[str, str]) -> Layout:
        """Return the layout of documents like this one; an empty one if the loop cannot read them."""
        nothing = layout_of([], [], 0, False)
        payload, prefix = unwrapped(document), self._shape.prefix
        if type(payload) is not dict or prefix is None:
            return nothing
        if document.keys() == CONNECT and type(document["schema"]) is not dict:  # null makes it another document
            return nothing
        outer = "" if payload is document else "payload."
        inner = payload.get("values") if "values" not in self._features and not prefix else None
        if type(inner) is dict:
            prefix = "values."
        elif prefix and not self._has_readings(payload):
            return nothing
        roles = {} if type(inner) is list else {outer + prefix + name: j for j, name in enumerate(self._features)}
        for field, role in ((self._time_field, TIME), (self._entity_field, ENTITY)):
            if field is not None:
                roles[outer + field] = REFUSED if outer + field in roles else role
        if type(inner) is list:
            roles[outer + "values"] = REFUSED if outer + "values" in roles else VALUES
        template = Template(roles, len(outer + prefix), separators)
        template.add(document)
        if not template.is_usable or (self._strict and template.skips):
            return nothing
        whole = type(inner) is list or set(range(len(self._features))) <= set(template.roles)
        return layout_of(template.texts, template.roles, template.closers, whole)

    def _has_readings(self, payload: dict[str, Any]) -> bool:
        """Return whether the readings are an object of their own, and not the `values` of one."""
        inner = at(payload, (self._shape.prefix or "")[:-1])
        if type(inner) is not dict or not inner:
            return False
        return "values" in self._features or type(inner.get("values")) not in (list, dict)


def _is_framed(values: BytesColumn, records: Int64s) -> Bools:
    """Return [n] whether the values begin with a zero byte, and are long enough for what follows it."""
    long = values.length[records] > _FRAME
    first = np.zeros(len(records), bool)
    first[long] = np.frombuffer(values.buffer, np.uint8)[values.start[records][long]] == 0
    return first


def _unframed(values: BytesColumn, records: Int64s) -> BytesColumn:
    start, length = values.start.copy(), values.length.copy()
    start[records] += _FRAME
    length[records] -= _FRAME
    return BytesColumn(values.buffer, start, length)


def load(text: bytes) -> tuple[Any, bool]:
    """Return the document, without a frame, and whether there may be a boolean in it. Raises Refused."""
    if text[:1] == b"\0" and len(text) > _FRAME:
        text = text[_FRAME:]
    try:
        return orjson.loads(text), b"true" in text or b"false" in text
    except orjson.JSONDecodeError as error:
        document = _with_nan(text)
        if document is None:
            raise Refused(UNPARSEABLE, str(error)) from None
        return document, b"true" in text or b"false" in text


def _with_nan(text: bytes) -> Any:
    """Return a document that holds NaN or Infinity, as Python and JavaScript write them; None if it is none.

    They are no JSON, but json.dumps, pandas and others write them for readings that are missing or infinite.
    """
    if b"NaN" not in text and b"Infinity" not in text:
        return None
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError):
        return None
