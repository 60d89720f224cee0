"""What is in the last records of a topic, and the settings by which they are read: `python -m worker topics --look`."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from worker.blocks import RecordBlock
from worker.decoding import Decoder
from worker.decoding.dead_letter_reasons import Refused
from worker.decoding.event_time import milliseconds
from worker.decoding.shape import Rows, flat
from worker.errors import OffnormalError
from worker.inference.columns import Column, ColumnKind
from worker.inference.features import NEARLY_ALL, columns_of
from worker.inference.look import RecordsSeen, last_records, look_at
from worker.schema_registry import SchemaRegistry
from worker.settings import InputSettings, Settings
from worker.settings.shapes import SHAPES

_OWN: Final = ("shape", "values_field", "tag_field", "entity_field", "time_field")  # one of these set: it is no guess
_MOST_ENTITIES: Final = 0.5  # of the records: a field with more values names no machine
_SAMPLE: Final = 1000  # characters
_ENTITY_NAME: Final = re.compile(
    r"(?:^|[._-])(?:host|hostname|device|device_?id|machine|machine_?id|asset|asset_?id|equipment|unit|sensor_?id"
    r"|entity|node|station|plant|line)$",
    re.IGNORECASE,
)


@dataclass
class Suggestion:
    """How the records are read. `settings` are those that were guessed, by their names in OFFNORMAL_INPUT."""

    records: int = 0
    inputs: InputSettings = field(default_factory=InputSettings)
    settings: dict[str, str] = field(default_factory=dict)
    entities: list[str] = field(default_factory=list)
    time: tuple[int, int] | None = None  # ms: the first and the last event time
    columns: Sequence[Column] = ()
    seen: RecordsSeen = field(default_factory=RecordsSeen)
    error: str | None = None  # why there are no features
    sample: str = ""

    def names(self, kind: ColumnKind) -> list[str]:
        """Return the names of the columns of a kind."""
        return [column.name for column in self.columns if column.kind == kind]


def suggest(settings: Settings) -> Suggestion:
    """Look at the last records of each partition, and guess the settings that are not set. Raises KafkaError."""
    registry = SchemaRegistry.of(settings, patience=settings.kafka.startup_timeout)
    blocks = last_records(settings)
    suggestion = Suggestion(records=sum(map(len, blocks)))
    if not suggestion.records:
        return suggestion
    guessed = _guess(settings.input, blocks, registry) if not settings.input.model_fields_set & set(_OWN) else {}
    inputs = settings.input.model_validate(settings.input.model_dump(exclude_unset=True) | guessed)
    suggestion.inputs, suggestion.settings = inputs, guessed
    try:
        suggestion.columns = columns_of(inputs, blocks, registry)
    except OffnormalError as error:
        suggestion.error = str(error)
    features = suggestion.names("reading")
    if isinstance(inputs.features, tuple):
        features = list(inputs.features)
    decoder = Decoder(inputs, features, registry)
    for block in blocks:
        suggestion.seen.records += len(block)
        suggestion.seen.nulls += int((block.values.length < 0).sum())
        if features:
            look_at(suggestion.seen, inputs, block, decoder)
        decoded = decoder.decode(block)
        names = (decoded.entities.get(r, block.keys[r]) for r in decoded.record.tolist())
        suggestion.entities += [_text(name) for name in names if name is not None]
        if decoded.timed and len(decoded.time):
            first, last = suggestion.time or (int(decoded.time[0]), int(decoded.time[0]))
            suggestion.time = min(first, int(decoded.time.min())), max(last, int(decoded.time.max()))
    suggestion.entities = list(dict.fromkeys(suggestion.entities))
    suggestion.sample = _sample(blocks, decoder)
    return suggestion


def _guess(inputs: InputSettings, blocks: Sequence[RecordBlock], registry: SchemaRegistry | None) -> dict[str, str]:
    """Return the settings of the first shape that nearly all records have, or fields of entity and time."""
    for name in SHAPES:
        if not SHAPES[name]:
            continue
        guess: dict[str, str] = {"shape": name}
        shaped = inputs.model_validate(inputs.model_dump(exclude_unset=True) | guess)
        decoder = Decoder(shaped, (), registry)
        fits = [_fits(decoder, shaped, document) for _, document in _documents(blocks, decoder)]
        if fits and sum(fits) >= NEARLY_ALL * len(fits):
            return guess
    return _guess_fields(inputs, blocks, Decoder(inputs, (), registry))


def _documents(blocks: Sequence[RecordBlock], decoder: Decoder) -> Iterator[tuple[bytes | None, Any]]:
    """Return the documents and the keys of their records; none where a format names no features."""
    for block in blocks:
        with suppress(Refused):
            yield from ((block.keys[r], document) for r, document in decoder.documents(block))


def _fits(decoder: Decoder, inputs: InputSettings, document: Any) -> bool:
    """Return whether a document has numbers and a time where the shape says."""
    try:
        rows = decoder.shape.rows(document)
        times = decoder.shape.fields(rows, inputs.time_field or "")
    except Refused:
        return False
    if not rows.readings:  # a deletion
        return True
    return any(time is not None for time in times) and any(_numbers(readings) for readings in rows.readings)


def _numbers(readings: Any) -> bool:
    return type(readings) is dict and any(type(value) in (int, float) for value in flat(readings).values())


def _guess_fields(inputs: InputSettings, blocks: Sequence[RecordBlock], decoder: Decoder) -> dict[str, str]:
    """Return the fields of entity and time in records without a shape of a name."""
    keys: list[bytes | None] = []
    fields: list[Mapping[str, Any]] = []
    for key, document in _documents(blocks, decoder):
        with suppress(Refused):
            rows: Rows = decoder.shape.rows(document)
            for readings in rows.readings:
                if type(readings) is dict:
                    keys.append(key)
                    fields.append(flat(readings) if readings is rows.document else flat(readings) | _outer(rows))
    guess: dict[str, str] = {}
    if not fields:
        return guess
    names = [name for name in fields[0] if sum(name in row for row in fields) >= NEARLY_ALL * len(fields)]
    times = [name for name in names if all(_is_time(row.get(name), inputs) for row in fields if name in row)]
    if times and inputs.time_header is None:
        guess["time_field"] = times[0]
    if len(set(keys)) <= 1:  # the key tells no machines apart
        for name in names:
            values = {row.get(name) for row in fields if type(row.get(name)) in (str, int)}
            if _ENTITY_NAME.search(name) and 0 < len(values) <= max(_MOST_ENTITIES * len(fields), 1):
                return guess | {"entity_field": name}
    return guess


def _outer(rows: Rows) -> dict[str, Any]:
    return flat(rows.document) if type(rows.document) is dict else {}


def _is_time(value: Any, inputs: InputSettings) -> bool:
    """Return whether a value can be nothing but a time: a text of one, or a number of ms or finer since the epoch."""
    if type(value) is str and len(value) < len("2026-01-01"):
        return False
    if type(value) in (int, float) and value < 1e9:
        return False
    try:
        milliseconds(value, inputs.zone)
    except Refused:
        return False
    return True


def _text(name: bytes | str) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name


def _sample(blocks: Sequence[RecordBlock], decoder: Decoder) -> str:
    document = next((document for _, document in _documents(blocks, decoder)), None)
    if document is not None:
        return json.dumps(document, default=str)[:_SAMPLE]
    values = (bytes(block.values.view(r)) for block in blocks for r in range(len(block)) if block.values.length[r] > 0)
    return repr(next(values, b""))[:_SAMPLE]
