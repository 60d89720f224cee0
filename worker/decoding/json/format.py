"""Format `json`.

Most records of a topic are written by one program, so their keys have the same order and spacing. A compiled loop
(loop.py) reads such records, and plain arrays. It learns the bytes between the values from one record, and compares
them byte for byte. All other records are left to worker/decoding/documents.py, the reference for what is valid. These
have escapes, other scripts, another key order, nesting, a number that is hard to round, or an error.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from worker.blocks.bytes_column import BytesColumn
from worker.decoding.documents import Documents
from worker.decoding.format import FeatureSchema, Parsed
from worker.decoding.json.loop import parse
from worker.decoding.loop_output import ENTITY, REFUSED, SKIP, TIME, VALUES, Taken
from worker.decoding.reject_reasons import UNPARSEABLE, Refused
from worker.native.arrays import Int64s, UInt64s
from worker.native.jit import read_only

_LEARN_AGAIN: Final = 0.25  # share of refused records from which on a new layout is learned


class _Layout(NamedTuple):
    """The layout of objects.

    `words` are the bytes before the value of each key, padded to whole words. Key k's words end at `ends[k]`. `masks`
    marks the bytes of a word that count, `sizes` are the lengths in bytes, and `roles` is the role of each key.
    """

    words: UInt64s
    masks: UInt64s
    ends: Int64s
    sizes: UInt64s
    roles: Int64s
    whole: bool  # every feature is there


class Json:
    """Reads `json`: records of a learned layout by a compiled loop, others by Documents."""

    def __init__(self, schema: FeatureSchema):
        self._any = Documents(schema)
        self._features = tuple(schema.features)
        self._columns = {name: j for j, name in enumerate(self._features)}
        self._entity_field, self._time_field, self._strict = schema.entity_field, schema.time_field, schema.strict
        self._layout = self._layout_of(())

    @classmethod
    def of(cls, schema: FeatureSchema) -> "Json":
        """Return a reader for the feature schema."""
        return cls(schema)

    def decode(self, values: BytesColumn, records: Int64s) -> list[Parsed]:
        """Parse the values of `records`, as Format says."""
        parsed, refused = self._fast(values, records)
        if len(refused) > _LEARN_AGAIN * len(records) and self._learn(values, refused):
            parsed, refused = self._fast(values, records)
        return [parsed] if not len(refused) else [parsed, *self._any.decode(values, refused, load)]

    def document(self, value: memoryview) -> Any:
        """Return the document. Raises Refused."""
        return load(bytes(value))[0]

    def _fast(self, values: BytesColumn, records: Int64s) -> tuple[Parsed, Int64s]:
        """Return what the compiled loop has parsed, and the records that it has refused."""
        layout = self._layout
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
        if type(doc) is not dict:
            return False
        separators = (", ", ": ") if re.match(rb'\s*{"[^"]*": ', text) else (",", ":")
        layout, before = self._layout_of(tuple(doc), separators), self._layout
        self._layout = layout
        return not (np.array_equal(layout.words, before.words) and np.array_equal(layout.ends, before.ends))

    def _layout_of(self, keys: Sequence[str], separators: tuple[str, str] = (",", ":")) -> _Layout:
        if "values" in keys and "values" not in self._columns:
            roles = [VALUES if key == "values" else self._role(key, {}) for key in keys]
            whole = True
        else:
            roles = [self._role(key, self._columns) for key in keys]
            whole = set(self._features) <= set(keys) or not keys
        if self._strict and SKIP in roles:
            return self._layout_of(())
        comma, colon = separators
        texts = [
            (comma if k else "{").encode() + orjson.dumps(key) + colon.encode() + (b"[" if role == VALUES else b"")
            for k, (key, role) in enumerate(zip(keys, roles, strict=True))
        ]
        return _Layout(
            words=_words(texts),
            masks=_words([b"\xff" * len(text) for text in texts]),
            ends=np.cumsum([-(-len(text) // 8) for text in texts], dtype=np.int64),
            sizes=np.array([len(text) for text in texts], np.uint64),
            roles=np.array(roles, np.int64),
            whole=whole,
        )

    def _role(self, key: str, columns: dict[str, int]) -> int:
        roles = [columns[key]] if key in columns else []
        roles += [TIME] if key == self._time_field else []
        roles += [ENTITY] if key == self._entity_field else []
        return REFUSED if len(roles) > 1 else roles[0] if roles else SKIP


def load(text: bytes) -> tuple[Any, bool]:
    """Return the document, and whether there may be a boolean in it. Raises Refused."""
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


def _words(texts: Sequence[bytes]) -> UInt64s:
    """Return each text in whole words of eight bytes, the first byte lowest."""
    padded = b"".join(text + b"\0" * (-len(text) % 8) for text in texts)
    return np.frombuffer(padded, "<u8").astype(np.uint64)
