"""Readings of single tags in JSON: those of a learned layout by a compiled loop, others by ReadingDocuments."""

import re
from datetime import UTC
from typing import Any, Final

import numpy as np
import orjson

from worker.blocks.bytes_column import BytesColumn
from worker.blocks.limits import MAX_ENTITY_BYTES
from worker.decoding.format import FeatureSchema
from worker.decoding.json import readings_loop
from worker.decoding.json.format import load
from worker.decoding.json.layout import Template, layout_of
from worker.decoding.json.readings_loop import QUALITY, TAG, VALUE
from worker.decoding.loop_output import ENTITY, TIME, VALUES, named
from worker.decoding.readings import ParsedReadings, ReadingDocuments
from worker.decoding.shape import CONNECT, at, unwrapped
from worker.native.arrays import Int64s
from worker.native.jit import read_only

_LEARN_AGAIN: Final = 0.25  # share of refused records from which on a new layout is learned
_NOTHING: Final = layout_of([], [], 0, False)


class JsonReadings:
    """Reads the readings of `json`."""

    def __init__(self, schema: FeatureSchema):
        self._documents = ReadingDocuments(schema, _document)
        self._schema = schema
        self._array, _, _ = (schema.value_field or "").rpartition("[]")
        self._is_array = "[]" in (schema.value_field or "")
        # What is good by the settings, and names of features that JSON escapes, are left to ReadingDocuments.
        self._is_known = not schema.good or schema.quality_field is None
        self._features = _Features(schema.features)
        self._layout, self._array_at, self._inner_end, self._inner_closers = _NOTHING, -1, 0, 0
        readings_loop.warm_up()

    def decode(self, values: BytesColumn, records: Int64s, parsed: ParsedReadings) -> None:
        """Append the readings of `records`. A record of which one is refused has none."""
        refused = self._fast(values, records, parsed)
        if len(refused) > _LEARN_AGAIN * len(records) and self._learn(values, refused):
            refused = self._fast(values, refused, parsed)
        if len(refused):
            self._documents.decode(values, refused, parsed)

    def _fast(self, values: BytesColumn, records: Int64s, parsed: ParsedReadings) -> Int64s:
        """Append what the compiled loop can read; return the records that it has refused."""
        layout = self._layout
        if not len(layout.roles) or not len(records):
            return records
        buffer = read_only(np.frombuffer(values.buffer, np.uint8))
        start, length = values.start[records], values.length[records]
        room = len(records) + 1
        if self._is_array:
            inner = layout.sizes[self._array_at + 1 : self._inner_end]
            room += int(length.sum()) // (int(inner.sum()) + len(inner))
        names = np.zeros((len(records), 2), np.int64)
        record, begin, end, time = (np.empty(room, np.int64) for _ in range(4))
        value = np.empty(room, np.float32)
        good, n = readings_loop.parse(
            buffer,
            start,
            length,
            layout.words,
            layout.masks,
            layout.ends,
            layout.sizes,
            layout.roles,
            self._array_at,
            self._inner_end,
            self._inner_closers,
            layout.closers,
            self._schema.zone is UTC,
            names,
            record,
            begin,
            end,
            value,
            time,
        )
        record, value, time = record[:n], value[:n], time[:n]
        columns = self._features.columns(buffer, begin[:n], end[:n])
        too_long = good & (names[:, 1] - names[:, 0] > MAX_ENTITY_BYTES)
        if too_long.any():
            good &= ~too_long
            kept = good[record]
            record, value, time, columns = record[kept], value[kept], time[kept], columns[kept]
        value[columns < 0] = np.nan
        parsed.add(records[record], columns, value, time)
        parsed.entities |= named(values, records[good], names[good])
        left: Int64s = records[~good]
        return left

    def _learn(self, values: BytesColumn, refused: Int64s) -> bool:
        """Learn the layout from one of these records; return whether it is a new one."""
        text = bytes(values.view(int(refused[0])))
        try:
            document: Any = orjson.loads(text)
            before = self._layout
            separators = (", ", ": ") if re.match(rb'\s*\[?\s*{"[^"]*": ', text) else (",", ":")
            self._take(document, separators)
        except (orjson.JSONDecodeError, RecursionError):
            return False
        layout = self._layout
        return not (np.array_equal(layout.words, before.words) and np.array_equal(layout.ends, before.ends))

    def _take(self, document: Any, separators: tuple[str, str]) -> None:
        """Take the layout of documents like this one; none if the loop cannot read them."""
        self._layout, self._array_at, self._inner_end, self._inner_closers = _NOTHING, -1, 0, 0
        payload = unwrapped(document)
        connect = type(document) is dict and document.keys() == CONNECT
        if not self._is_known or (connect and type(document["schema"]) is not dict):
            return
        prefix = "" if payload is document else "payload."
        if not self._is_array:
            inner = self._template(payload if payload is document else document, prefix, separators, within="")
            if inner is not None:
                self._layout = layout_of(inner.texts, inner.roles, inner.closers, whole=True)
                self._inner_end, self._inner_closers = len(inner.roles), 0
            return
        elements = at(payload, self._array) if self._array else payload
        if type(elements) is not list or not elements or type(elements[0]) is not dict:
            return
        inner = self._template(elements[0], "", separators, within=f"{self._array}[].")
        if inner is None:
            return
        if not self._array:
            if payload is not document:
                return
            texts, roles, closers = [b"["], [VALUES], 0
        else:
            outer = self._outer(document, prefix, separators)
            if outer is None:
                return
            texts, roles, closers = outer.texts, outer.roles, outer.closers
        at_array = roles.index(VALUES)
        self._array_at, self._inner_end = at_array, at_array + 1 + len(inner.roles)
        self._inner_closers = inner.closers
        self._layout = layout_of(
            [*texts[: at_array + 1], *inner.texts, *texts[at_array + 1 :]],
            [*roles[: at_array + 1], *inner.roles, *roles[at_array + 1 :]],
            closers,
            whole=True,
        )

    def _template(self, element: Any, prefix: str, separators: tuple[str, str], within: str) -> Template | None:
        """Return the template of an object with a reading; `within` begins the paths of its fields."""
        if type(element) is not dict or not element:
            return None
        schema, roles = self._schema, dict[str, int]()
        for path, role in (
            (schema.tag_field, TAG),
            (schema.value_field, VALUE),
            (schema.quality_field, QUALITY),
            (schema.time_field, TIME),
            (schema.entity_field, ENTITY),
        ):
            if path is not None and ("[]" in path) == bool(within):
                name = prefix + path.removeprefix(within)
                if name in roles:  # one field in two roles
                    return None
                roles[name] = role
        template = Template(roles, 0, separators)
        template.add(element)
        is_usable = template.is_usable and {TAG, VALUE} <= set(template.roles)
        return template if is_usable else None

    def _outer(self, document: dict[str, Any], prefix: str, separators: tuple[str, str]) -> Template | None:
        """Return the template of the object around an array of readings."""
        schema, roles = self._schema, {prefix + self._array: VALUES}
        for path, role in ((schema.time_field, TIME), (schema.entity_field, ENTITY), (schema.quality_field, QUALITY)):
            if path is not None and "[]" not in path:
                if role == QUALITY or prefix + path in roles:
                    return None
                roles[prefix + path] = role
        template = Template(roles, 0, separators)
        template.add(document)
        return template if template.is_usable and template.roles.count(VALUES) == 1 else None


def _document(value: memoryview) -> Any:
    return load(bytes(value))[0]


class _Features:
    """Finds features by the bytes of their names."""

    def __init__(self, features: Any):
        names = [name.encode() for name in features]
        self._text = np.frombuffer(b"".join(names) or b"\0", np.uint8)
        self._ends = np.cumsum([len(name) for name in names] or [0], dtype=np.int64)
        slots = 1 << (4 * len(names) + 1).bit_length()
        self._table, self._columns = np.zeros(slots, np.uint64), np.zeros(slots, np.int64)
        for j, name in enumerate(names):
            h = int(readings_loop.hash_of(read_only(np.frombuffer(name or b"\0", np.uint8)), 0, len(name)))
            slot = h & (slots - 1)
            while self._table[slot]:
                slot = (slot + 1) & (slots - 1)
            self._table[slot], self._columns[slot] = h, j

    def columns(self, buffer: Any, begin: Int64s, end: Int64s) -> Int64s:
        """Return the columns [n] of the tags that lie there, -1 for others."""
        out = np.empty(len(begin), np.int64)
        readings_loop.columns(buffer, begin, end, self._table, self._columns, read_only(self._text), self._ends, out)
        return out
