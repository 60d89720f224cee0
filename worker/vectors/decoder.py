"""RecordBlock -> VectorBlock: each record by its format, all of them by one feature schema; and its event time, by a
field of the payload, else by a header, else by the record's timestamp.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np

from worker.schema_registry import SchemaRegistry
from worker.settings import InputSettings, lacks_package
from worker.vectors.block import Headers, Int64s, RecordBlock, Reject, VectorBlock
from worker.vectors.f32 import F32
from worker.vectors.formats import (
    BAD_ENTITY,
    LONGEST_ENTITY,
    NO_TIME,
    RECORD_BATCH,
    UNKNOWN_CONTENT_TYPE,
    UNREADABLE,
    Format,
    Parsed,
    Refused,
    milliseconds,
)
from worker.vectors.json import Json

CONTENT_TYPES: Final = {
    "json": "json",
    "application/json": "json",
    "f32": "f32",
    "application/x-f32": "f32",
    "arrow": "arrow",
    "application/vnd.apache.arrow.stream": "arrow",
    "avro": "avro",
    "application/avro": "avro",
}


class Decoder:
    """Decodes blocks for one feature schema. Whatever does not parse becomes a Reject and costs no neighbour."""

    def __init__(self, settings: InputSettings, features: Sequence[str], registry: SchemaRegistry | None = None):
        """`registry` is where the schemas of `avro` are; without one there is no such format."""
        self._default = settings.format
        self._time_header = settings.time_header
        self._width = len(features)
        self._named = (features, settings.entity_field, settings.time_field, settings.strict)
        self._registry = registry
        self._formats: dict[str, Format] = {}
        self._format(self._default)

    def decode(self, records: RecordBlock) -> VectorBlock:
        """Raises SchemaRegistryError where a schema has to be asked for and the registry is away."""
        there = np.flatnonzero(records.values.length >= 0)
        rejects: list[Reject] = []
        parsed: list[Parsed] = []
        nulls = len(records) - len(there)
        times: dict[int, int] = {}
        if self._time_header is not None and records.headers:
            there, times = self._header_times(records, there, rejects)
        if len(records) and records.keys.length.max() > LONGEST_ENTITY:
            there = _without_long_keys(records, there, rejects)
        for name, indices in self._by_format(records, there, rejects):
            parsed.extend(self._format(name).decode(records.values, indices))
        return _join(records, parsed, rejects, self._width, nulls, times)

    def documents(self, records: RecordBlock) -> list[Any]:
        """What the records say, as JSON would have it, whatever the features are; without those that do not parse.
        Raises Refused where one is of f32, which does not say; SchemaRegistryError.
        """
        found: list[Any] = []
        for name, indices in self._by_format(records, np.flatnonzero(records.values.length >= 0), []):
            if name == "f32" and len(indices):
                raise Refused(UNKNOWN_CONTENT_TYPE, "f32 records do not tell how many features there are")
            for r in indices.tolist():
                with suppress(Refused):
                    found.append(self._format(name).document(records.values.view(r)))
        return found

    def _header_times(
        self, records: RecordBlock, there: Int64s, rejects: list[Reject]
    ) -> tuple[Int64s, dict[int, int]]:
        """The records whose time header makes sense, or that have none; and the event times by it."""
        times: dict[int, int] = {}
        for r, headers in records.headers.items():
            told = next((value for key, value in headers if key == self._time_header and value is not None), None)
            if told is None or records.values.length[r] < 0:
                continue
            try:
                times[r] = header_time(told)
            except Refused as error:
                rejects.append(Reject(r, error.reason, f"header {self._time_header}: {error}"))
        return np.setdiff1d(there, [reject.record for reject in rejects]), times

    def _by_format(self, records: RecordBlock, there: Int64s, rejects: list[Reject]) -> Sequence[tuple[str, Int64s]]:
        """Splits the records by format; nearly always there is one, and nothing to split."""
        if not records.headers:
            return [(self._default, there)]
        named: dict[str, list[int]] = {}
        for r in there.tolist():
            given = content_type(records.headers.get(r, ()))
            name = self._default if given is None else CONTENT_TYPES.get(given)
            if given == RECORD_BATCH:
                told = dict(records.headers[r]).get("offnormal-error") or b""
                rejects.append(Reject(r, UNREADABLE, told.decode("utf-8", "replace")))
            elif name is None:
                rejects.append(Reject(r, UNKNOWN_CONTENT_TYPE, f"content-type {given!r}"))
            elif (lacks := self._lacks(name)) is not None:
                rejects.append(Reject(r, UNKNOWN_CONTENT_TYPE, f"content-type {given!r}: {lacks}"))
            else:
                named.setdefault(name, []).append(r)
        return [(name, np.array(indices, np.int64)) for name, indices in named.items()]

    def _lacks(self, name: str) -> str | None:
        """What the format needs and is not there."""
        if name == "avro" and self._registry is None:
            return "OFFNORMAL_SCHEMA_REGISTRY__URL does not name a registry"
        return lacks_package(name)

    def _format(self, name: str) -> Format:
        """Made when it is first asked for: what some of them import takes its time and memory."""
        if name not in self._formats:
            self._formats[name] = self._make(name)
        return self._formats[name]

    def _make(self, name: str) -> Format:
        if name == "f32":
            return F32(self._width)
        if name == "arrow":
            from worker.vectors.arrow import Arrow

            return Arrow(*self._named)
        if name == "avro":
            from worker.vectors.avro import Avro

            assert self._registry is not None
            return Avro(*self._named, self._registry)
        return Json(*self._named)


def _without_long_keys(records: RecordBlock, there: Int64s, rejects: list[Reject]) -> Int64s:
    sizes = records.keys.length[there]
    for r, size in zip(there[sizes > LONGEST_ENTITY].tolist(), sizes[sizes > LONGEST_ENTITY].tolist(), strict=True):
        rejects.append(Reject(r, BAD_ENTITY, f"a key of {size} bytes: {LONGEST_ENTITY} may name an entity"))
    return there[sizes <= LONGEST_ENTITY]


def content_type(headers: Headers) -> str | None:
    """The content-type header, lower case, without parameters; None where there is none."""
    for key, value in headers:
        if key.lower() == "content-type" and value is not None:
            return value.split(b";")[0].strip().lower().decode("latin-1")
    return None


def header_time(told: bytes) -> int:
    """A number or ISO 8601, as text. Raises Refused."""
    text = told.decode("utf-8", "replace").strip()
    try:
        return milliseconds(float(text))
    except ValueError:
        return milliseconds(text)


def _join(
    records: RecordBlock,
    parsed: Sequence[Parsed],
    rejects: list[Reject],
    width: int,
    nulls: int,
    header_times: dict[int, int],
) -> VectorBlock:
    for part in parsed:
        rejects.extend(part.rejects)
    source = np.concatenate([np.empty(0, np.int64), *(p.records for p in parsed)])
    counts = np.concatenate([np.empty(0, np.int64), *(p.counts for p in parsed)])
    x = parsed[0].x if len(parsed) == 1 else np.concatenate([np.empty((0, width), np.float32), *(p.x for p in parsed)])
    if len(source) == len(x):  # one row a record, as mostly
        record, row = source, np.zeros(len(x), np.int64)
    else:
        record = np.repeat(source, counts)
        row = np.arange(len(record)) - np.repeat(np.cumsum(counts) - counts, counts)
    entities = {r: e for p in parsed for r, e in p.entities.items()}
    times = header_times | {r: t for p in parsed for r, t in p.times.items()}
    told = records.timestamp
    if times:
        told = told.copy()
        told[list(times)] = list(times.values())
    time = told[record]
    if any(p.row_times is not None for p in parsed):
        of_row = [np.full(len(p.x), NO_TIME) if p.row_times is None else p.row_times for p in parsed]
        time = np.where((own := np.concatenate(of_row)) == NO_TIME, time, own)
    if len(parsed) > 1:  # put the rows back into the records' order
        order = np.argsort(record, kind="stable")
        record, row, x, time = record[order], row[order], x[order], time[order]
    rejects.sort(key=lambda reject: reject.record)
    return VectorBlock(records, x, record, row, time, entities, rejects, nulls)
