"""RecordBlock -> VectorBlock: each record by its format, all of them by one feature schema; and its event time, by a
field of the payload, else by a header, else by the record's timestamp.
"""

from collections.abc import Sequence

import numpy as np

from worker.settings import InputSettings
from worker.vectors.block import Headers, Int64s, RecordBlock, Reject, VectorBlock
from worker.vectors.f32 import F32
from worker.vectors.formats import (
    BAD_ENTITY,
    LONGEST_ENTITY,
    RECORD_BATCH,
    UNKNOWN_CONTENT_TYPE,
    UNREADABLE,
    Format,
    Parsed,
    Refused,
    milliseconds,
)
from worker.vectors.json import Json

CONTENT_TYPES = {
    "json": "json",
    "application/json": "json",
    "f32": "f32",
    "application/x-f32": "f32",
}


class Decoder:
    """Decodes blocks for one feature schema. Whatever does not parse becomes a Reject and costs no neighbour."""

    def __init__(self, settings: InputSettings, features: Sequence[str]):
        self._default = settings.format
        self._time_header = settings.time_header
        self._width = len(features)
        self._formats: dict[str, Format] = {
            "json": Json(features, settings.entity_field, settings.time_field, settings.strict),
            "f32": F32(len(features)),
        }

    def decode(self, records: RecordBlock) -> VectorBlock:
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
            parsed.extend(self._formats[name].decode(records.values, indices))
        return _join(records, parsed, rejects, self._width, nulls, times)

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
            else:
                named.setdefault(name, []).append(r)
        return [(name, np.array(indices, np.int64)) for name, indices in named.items()]


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
    time = records.timestamp
    if times:
        time = time.copy()
        time[list(times)] = list(times.values())
    if len(parsed) > 1:  # put the rows back into the records' order
        order = np.argsort(record, kind="stable")
        record, row, x = record[order], row[order], x[order]
    rejects.sort(key=lambda reject: reject.record)
    return VectorBlock(records, x, record, row, time[record], entities, rejects, nulls)
