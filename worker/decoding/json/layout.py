"""The layout of JSON objects that one program writes: the bytes between their values, which compiled loops compare."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from worker.decoding.loop_output import SKIP, VALUES
from worker.decoding.shape import DEEPEST
from worker.native.arrays import Int64s, UInt64s


class Layout(NamedTuple):
    """The layout of objects.

    `words` are the bytes before the value of each field, padded to whole words. Field k's words end at `ends[k]`.
    `masks` marks the bytes of a word that count, `sizes` are the lengths in bytes, and `roles` is the role of each
    field. After the last value `closers` objects end.
    """

    words: UInt64s
    masks: UInt64s
    ends: Int64s
    sizes: UInt64s
    roles: Int64s
    closers: int
    whole: bool  # every feature is there


class Template:
    """The bytes between the values of one document, and the role of each value.

    `roles` are those of fields by path; others are skipped. The first `begin` characters of the readings' paths are
    common to all. An array or an empty object that is skipped is a part of the bytes.
    """

    def __init__(self, roles: Mapping[str, int], begin: int, separators: tuple[str, str]):
        self._roles, self._begin, self._separators = roles, begin, separators
        self.texts: list[bytes] = []
        self.roles: list[int] = []
        self._text = b""
        self._paths: set[str] = set()
        self.is_usable, self.skips = True, False

    @property
    def closers(self) -> int:
        """Return how many objects end after the last value."""
        return len(self._text)

    def add(self, document: dict[str, Any]) -> None:
        """Take the document, which is not empty."""
        self._add(document, "", 0)
        self.is_usable = self.is_usable and bool(self.texts) and self._text == b"}" * len(self._text)

    def _add(self, fields: dict[str, Any], prefix: str, depth: int) -> None:
        comma, colon = self._separators
        self._text += b"{"
        for k, (key, value) in enumerate(fields.items()):
            path = prefix + key
            self._text += (comma if k else "").encode() + orjson.dumps(key) + colon.encode()
            role = self._roles.get(path, SKIP)
            if path in self._paths and role != SKIP:  # "a.b" beside {"a": {"b": ...}}
                self.is_usable = False
            if "." in key and len(prefix) < self._begin:  # "fields.a" is not in the object `fields`
                self.is_usable = False
            self._paths.add(path)
            is_object = type(value) is dict and bool(value) and role == SKIP and depth < DEEPEST
            self.skips |= role == SKIP and not is_object
            if is_object:
                self._add(value, path + ".", depth + 1)
            elif type(value) in (dict, list) and role == SKIP:
                if any(known.startswith(path + ".") for known in self._roles):
                    self.is_usable = False
                self._text += json.dumps(value, separators=self._separators, ensure_ascii=False).encode()
            else:
                self.texts.append(self._text + (b"[" if role == VALUES else b""))
                self.roles.append(role)
                self._text = b""
        self._text += b"}"


def layout_of(texts: Sequence[bytes], roles: Sequence[int], closers: int, whole: bool) -> Layout:
    """Return the layout of these `texts` before the values, and the roles of these."""
    return Layout(
        words=_words(texts),
        masks=_words([b"\xff" * len(text) for text in texts]),
        ends=np.cumsum([-(-len(text) // 8) for text in texts], dtype=np.int64),
        sizes=np.array([len(text) for text in texts], np.uint64),
        roles=np.array(roles, np.int64),
        closers=closers,
        whole=whole,
    )


def _words(texts: Sequence[bytes]) -> UInt64s:
    """Return each text in whole words of eight bytes, the first byte lowest."""
    padded = b"".join(text + b"\0" * (-len(text) % 8) for text in texts)
    return np.frombuffer(padded, "<u8").astype(np.uint64)
