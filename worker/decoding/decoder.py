"""Decodes a RecordBlock to a VectorBlock, each record by its format, all of them by one feature schema.

The event time comes from a field of the payload, else from a header, else from the record's timestamp.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, tzinfo
from importlib import import_module
from typing import Any

import numpy as np

from worker.blocks.bytes_column import Headers
from worker.blocks.limits import BY_US, MAX_ENTITY_BYTES, RECORD_BATCH, REFUSED
from worker.blocks.reading_block import ReadingBlock
from worker.blocks.record_block import RecordBlock
from worker.blocks.vector_block import Reject, VectorBlock
from worker.decoding.dead_letter_reasons import BAD_ENTITY, NO_FEATURE, UNKNOWN_CONTENT_TYPE, UNREADABLE, Refused
from worker.decoding.event_time import NO_TIME, milliseconds
from worker.decoding.format import FeatureSchema, Format, Parsed
from worker.decoding.readings import ParsedReadings, ReadingDocuments, ReadingsFormat
from worker.decoding.shape import Shape, flat, unwrapped
from worker.native.arrays import Int64s
from worker.schema_registry import SchemaRegistry
from worker.settings import InputSettings, lacks_package
from worker.settings.formats import FORMATS, format_of


class Decoder:
    """Decodes blocks for one feature schema. A record that does not parse becomes a Reject; others are not affected."""

    def __init__(self, settings: InputSettings, features: Sequence[str], registry: SchemaRegistry | None = None):
        """Decode for these features.

        `registry` has the schemas of formats that need them; without one such records are refused.
        """
        self._default, self._ignores_content_type = settings.format, settings.ignore_content_type
        self._time_header = settings.time_header
        self.features, self._width = tuple(features), len(features)
        self._zone, self._rejects_empty = settings.zone, settings.reject_empty
        self._schema = FeatureSchema(
            features=features,
            entity_field=settings.entity_field,
            time_field=settings.time_field,
            strict=settings.strict,
            registry=registry,
            zone=self._zone,
            coerce=settings.coerce,
            values_field=settings.values_field,
            tag_field=settings.tag_field,
            value_field=settings.value_field,
            quality_field=settings.quality_field,
            good=settings.good or (),
        )
        self.shape = Shape(self._schema)
        self._readings: dict[str, ReadingsFormat] = {}
        self._step = int(round((settings.step or 0) * 1000))
        self._formats: dict[str, Format] = {}
        self._format(self._default)
        if settings.align and settings.tag_field is not None:
            self._readings_format(self._default)

    def decode(self, records: RecordBlock) -> VectorBlock:
        """Decode the records.

        Raises SchemaRegistryError where a schema has to be asked for and the registry is away.
        """
        present, times, rejects, nulls = self._readable(records)
        parsed: list[Parsed] = []
        for name, indices in self._by_format(records, present, rejects):
            parsed.extend(self._format(name).decode(records.values, indices))
        if self._rejects_empty:
            parsed = [_without_empty(part) for part in parsed]
        return _join(
            records=records, parsed=parsed, rejects=rejects, width=self._width, nulls=nulls, header_times=times
        )

    def readings(self, records: RecordBlock) -> ReadingBlock:
        """Decode the records to readings that are still to be aligned.

        Raises SchemaRegistryError where a schema has to be asked for and the registry is away.
        """
        if self._schema.tag_field is None:
            return ReadingBlock.of_vectors(self.decode(records), self._step)
        present, times, rejects, nulls = self._readable(records)
        parsed = ParsedReadings(rejects=rejects)
        for name, indices in self._by_format(records, present, rejects):
            self._readings_format(name).decode(records.values, indices, parsed)
        return parsed.block(records, times, nulls)

    def _readable(self, records: RecordBlock) -> tuple[Int64s, dict[int, int], list[Reject], int]:
        """Return the records to parse, event times of headers, rejects, and how many records have no value."""
        present = np.flatnonzero(records.values.length >= 0)
        rejects: list[Reject] = []
        nulls = len(records) - len(present)
        times: dict[int, int] = {}
        if self._time_header is not None and records.headers:
            present, times = self._header_times(records, present, rejects)
        if len(records) and records.keys.length.max() > MAX_ENTITY_BYTES:
            present = _without_long_keys(records, present, rejects)
        return present, times, rejects, nulls

    def documents(self, records: RecordBlock) -> list[tuple[int, Any]]:
        """Return the records' contents as JSON would have them, with their indices, whatever the features are.

        Leaves out records that do not parse. Raises Refused where a format does not name features, SchemaRegistryError.
        """
        documents: list[tuple[int, Any]] = []
        for name, indices in self._by_format(records, np.flatnonzero(records.values.length >= 0), []):
            if not FORMATS[name].names_features and len(indices):
                raise Refused(UNKNOWN_CONTENT_TYPE, f"{name} records do not tell how many features there are")
            for r in indices.tolist():
                with suppress(Refused):
                    documents.append((r, self._format(name).document(records.values.view(r))))
        return documents

    def keys_of(self, records: RecordBlock, record: int) -> list[str]:
        """Return the paths of a record's fields, or what it is instead of an object. Raises Refused."""
        documents = self.documents(records.take(np.array([record])))
        document = unwrapped(documents[0][1]) if documents else None
        if type(document) is list and document and type(document[0]) is dict:
            document = document[0]
        return list(flat(document)) if type(document) is dict else [f"({type(document).__name__})"]

    def tags_of(self, records: RecordBlock) -> list[str]:
        """Return the tags of records with single readings, each once."""
        tags: dict[str, None] = {}
        for _, document in self.documents(records):
            with suppress(Refused):
                tags |= dict.fromkeys(tag for tag, _ in self.shape.tags(self.shape.tagged_rows(document)))
        return list(tags)

    def _header_times(
        self, records: RecordBlock, present: Int64s, rejects: list[Reject]
    ) -> tuple[Int64s, dict[int, int]]:
        """Return the records whose time header is valid or absent, and the event times by it."""
        times: dict[int, int] = {}
        for r, headers in records.headers.items():
            header = next((value for key, value in headers if key == self._time_header and value is not None), None)
            if header is None or records.values.length[r] < 0:
                continue
            try:
                times[r] = header_time(header, self._zone)
            except Refused as error:
                rejects.append(Reject(r, error.reason, f"header {self._time_header}: {error}"))
        return np.setdiff1d(present, [reject.record for reject in rejects]), times

    def _by_format(self, records: RecordBlock, present: Int64s, rejects: list[Reject]) -> Sequence[tuple[str, Int64s]]:
        """Split the records by format. Nearly always there is one, and nothing to split."""
        if not records.headers:
            return [(self._default, present)]
        named: dict[str, list[int]] = {}
        for r in present.tolist():
            content_type_given = content_type(records.headers.get(r, ()))
            own_format = content_type_given is None or self._ignores_content_type
            name = self._default if own_format else format_of(content_type_given or "")
            if content_type_given in (RECORD_BATCH, REFUSED) and BY_US in records.headers[r]:
                rejects.append(_refused(r, records.headers[r]))
            elif name is None:
                rejects.append(Reject(r, UNKNOWN_CONTENT_TYPE, f"content-type {content_type_given!r}"))
            elif (lacks := self._lacks(name)) is not None:
                rejects.append(Reject(r, UNKNOWN_CONTENT_TYPE, f"content-type {content_type_given!r}: {lacks}"))
            else:
                named.setdefault(name, []).append(r)
        return [(name, np.array(indices, np.int64)) for name, indices in named.items()]

    def _lacks(self, name: str) -> str | None:
        """Return which requirement of the format is missing; None if there is none."""
        if FORMATS[name].needs_registry and self._schema.registry is None:
            return "it needs OFFNORMAL_SCHEMA_REGISTRY__URL, which is not set"
        return lacks_package(name)

    def _readings_format(self, name: str) -> ReadingsFormat:
        if name not in self._readings:
            module, _, reader = (FORMATS[name].readings or "").partition(":")
            self._readings[name] = (
                getattr(import_module(module), reader)(self._schema)
                if module
                else ReadingDocuments(self._schema, self._format(name).document)
            )
        return self._readings[name]

    def _format(self, name: str) -> Format:
        """Return the reader of a format. It is made at its first use, since some import large packages."""
        if name not in self._formats:
            module, _, reader = FORMATS[name].reader.partition(":")
            self._formats[name] = getattr(import_module(module), reader).of(self._schema)
        return self._formats[name]


def _refused(record: int, headers: Headers) -> Reject:
    """Return the reject of a record that was refused before."""
    # Ours come first: those of a sender do not count.
    texts = {name: (value or b"").decode("utf-8", "replace") for name, value in reversed(headers)}
    return Reject(record, texts.get("offnormal-reason", UNREADABLE), texts.get("offnormal-error", ""))


def _without_empty(parsed: Parsed) -> Parsed:
    """Reject the records of which no row has any feature."""
    of_row = np.repeat(np.arange(len(parsed.records)), parsed.counts)
    has_feature = np.zeros(len(parsed.records), bool)
    has_feature[of_row[~np.isnan(parsed.x).all(axis=1)]] = True
    error = "none of the model's features is in the record"
    return parsed.without(~has_feature, [Reject(r, NO_FEATURE, error) for r in parsed.records[~has_feature].tolist()])


def _without_long_keys(records: RecordBlock, present: Int64s, rejects: list[Reject]) -> Int64s:
    sizes = records.keys.length[present]
    for r, size in zip(
        present[sizes > MAX_ENTITY_BYTES].tolist(), sizes[sizes > MAX_ENTITY_BYTES].tolist(), strict=True
    ):
        rejects.append(Reject(r, BAD_ENTITY, f"a key of {size} bytes: {MAX_ENTITY_BYTES} may name an entity"))
    return present[sizes <= MAX_ENTITY_BYTES]


def content_type(headers: Headers) -> str | None:
    """Return the content-type header in lower case, without parameters; None where there is none."""
    for key, value in headers:
        if key.lower() == "content-type" and value is not None:
            return value.split(b";")[0].strip().lower().decode("latin-1")
    return None


def header_time(header: bytes, zone: tzinfo = UTC) -> int:
    """Return the time in a header, as milliseconds. Raises Refused."""
    return milliseconds(header.decode("utf-8", "replace"), zone)


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
    timed = sum(len(p.times) if p.row_times is None else len(p.records) for p in parsed)
    record_times = records.timestamp
    if times:
        record_times = record_times.copy()
        record_times[list(times)] = list(times.values())
    time, steps = record_times[record], row
    if any(p.row_times is not None for p in parsed):
        of_row = [np.full(len(p.x), NO_TIME) if p.row_times is None else p.row_times for p in parsed]
        has_own = (own := np.concatenate(of_row)) != NO_TIME
        time = np.where(has_own, own, time)
        steps = np.where(has_own, 0, row)
    if len(parsed) > 1:  # put the rows back into the records' order
        order = np.argsort(record, kind="stable")
        record, row, x, time, steps = record[order], row[order], x[order], time[order], steps[order]
    rejects.sort(key=lambda reject: reject.record)
    return VectorBlock(
        records=records,
        x=x,
        record=record,
        row=row,
        time=time,
        entities=entities,
        rejects=rejects,
        nulls=nulls,
        timed=timed,
        steps=steps,
    )
