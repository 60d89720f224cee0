"""What is in the last records of a topic, and the settings by which they are read: `python -m worker topics --look`."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, NamedTuple

from worker.blocks import RecordBlock
from worker.decoding import Decoder
from worker.decoding.dead_letter_reasons import WRONG_LENGTH, Refused
from worker.decoding.event_time import milliseconds
from worker.decoding.format import FeatureSchema
from worker.decoding.shape import Shape, flat
from worker.errors import OffnormalError
from worker.inference.columns import Column, ColumnKind, is_named_as_time
from worker.inference.features import NEARLY_ALL, as_text, columns_of
from worker.inference.look import RecordsSeen, last_records, look_at
from worker.inference.other_formats import explained
from worker.schema_registry import SchemaRegistry
from worker.settings import InputSettings, Settings
from worker.settings.formats import FORMATS
from worker.settings.shapes import SHAPES

_OWN: Final = ("shape", "values_field", "tag_field", "entity_field", "time_field")  # one of these set: it is no guess
_MOST_ENTITIES: Final = 0.5  # of the records: a field with more values names no machine
_SAMPLE: Final = 1000  # characters
SUGGESTED_STEP: Final = "1s"  # between the vectors that are made of single readings
_NEAR: Final = 86_400_000.0  # ms between a number that is the event time and the time of its record
_SECONDS: Final = 1e11  # numbers below are times in s, others in ms or finer
# Names of fields that are a machine, alone or with id or name behind them; the first is the best.
_ENTITIES: Final = (
    "machine",
    "device",
    "asset",
    "equipment",
    "entity",
    "sensor",
    "host",
    "hostname",
    "station",
    "node",
)


class _Document(NamedTuple):
    """A record's key, its time in ms, and its content."""

    key: bytes | None
    time: int
    content: Any


class _Record(NamedTuple):
    """A row's key, its time in ms, and its fields by path, as settings name them."""

    key: bytes | None
    time: int
    fields: dict[str, Any]


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
    documents = list(_documents(blocks, Decoder(settings.input, (), registry)))
    guessed = _guess(settings.input, documents) if not settings.input.model_fields_set & set(_OWN) else {}
    inputs = settings.input.model_validate(settings.input.model_dump(exclude_unset=True) | guessed)
    suggestion.inputs, suggestion.settings = inputs, guessed
    try:
        suggestion.columns = columns_of(inputs, blocks, registry)
    except OffnormalError as error:
        suggestion.error = str(error)
    features = _features(inputs, suggestion)
    if not features and suggestion.error is None:
        suggestion.error = "no field holds a reading in nearly all records"
    # Without features there is one that no record has, so that it shows which records do not parse.
    decoder = Decoder(inputs, features or ("",), registry)
    for block in blocks:
        suggestion.seen.records += len(block)
        suggestion.seen.nulls += int((block.values.length < 0).sum())
        if features:
            look_at(suggestion.seen, inputs, block, decoder)
        decoded = decoder.decode(block)
        for reject in decoded.rejects if not features else ():
            if reject.reason != WRONG_LENGTH:
                suggestion.seen.add(reject.reason, 1, f"{explained(reject, block)} [{reject.reason}]")
        names = (decoded.entities.get(r, block.keys[r]) for r in decoded.record.tolist())
        suggestion.entities += [_text(name) for name in names if name is not None]
        if decoded.timed and len(decoded.time):
            first, last = suggestion.time or (int(decoded.time[0]), int(decoded.time[0]))
            suggestion.time = min(first, int(decoded.time.min())), max(last, int(decoded.time.max()))
    suggestion.seen.add_split_entities()
    suggestion.entities = list(dict.fromkeys(suggestion.entities))
    suggestion.sample = _sample(blocks, documents)
    return suggestion


def _features(inputs: InputSettings, suggestion: Suggestion) -> Sequence[str]:
    """Return the features that are set, else those that were found."""
    if isinstance(inputs.features, int):
        suggestion.error = None
        return [f"x{j}" for j in range(inputs.features)]
    return suggestion.names("reading") if inputs.features is None else inputs.features


def _guess(inputs: InputSettings, documents: Sequence[_Document]) -> dict[str, Any]:
    """Return the settings of the first shape that nearly all records have, or fields of entity and time."""
    for name, paths in SHAPES.items() if FORMATS[inputs.format].has_documents else ():
        # A shape without its usual field of the entity is told by its other fields.
        others: dict[str, Any] = {field: path for field, path in paths.items() if field != "entity_field"}
        by_name: dict[str, Any] = {"shape": name}
        if paths.get("align") and inputs.step is None:
            by_name["step"] = others["step"] = SUGGESTED_STEP
        for guess in (by_name, others) if "entity_field" in paths else (by_name,):
            shaped = inputs.model_validate(inputs.model_dump(exclude_unset=True) | guess)
            fits = [_fits(_shape(shaped), shaped, document.content) for document in documents]
            if paths and fits and sum(fits) >= NEARLY_ALL * len(fits):
                return dict(guess)
    return _guess_fields(inputs, documents)


def _documents(blocks: Sequence[RecordBlock], decoder: Decoder) -> Iterator[_Document]:
    """Yield the documents; none where a format names no features."""
    for block in blocks:
        with suppress(Refused):
            for r, document in decoder.documents(block):
                yield _Document(block.keys[r], int(block.timestamp[r]), document)


def _shape(inputs: InputSettings) -> Shape:
    return Shape(
        FeatureSchema((), values_field=inputs.values_field, tag_field=inputs.tag_field, value_field=inputs.value_field)
    )


def _fits(shape: Shape, inputs: InputSettings, document: Any) -> bool:
    """Return whether a document has numbers, a time and an entity where the shape says."""
    try:
        rows = shape.rows(document)
    except Refused:
        return False
    if not rows.readings:  # a deletion
        return True
    paths = [path for path in (inputs.time_field, inputs.entity_field) if path is not None]
    has_fields = all(any(value is not None for value in shape.fields(rows, path)) for path in paths)
    return has_fields and any(_has_number(readings) for readings in rows.readings)


def _has_number(readings: Any) -> bool:
    return type(readings) is dict and any(type(value) in (int, float) for value in flat(readings).values())


def _guess_fields(inputs: InputSettings, documents: Sequence[_Document]) -> dict[str, str]:
    """Return the fields of entity and time in records without a shape of a name."""
    records: list[_Record] = []
    for key, time, content in documents:
        with suppress(Refused):
            rows = _shape(inputs).rows(content)
            outer = flat(rows.document) if type(rows.document) is dict else {}
            records += [_Record(key, time, outer | flat(each)) for each in rows.elements if type(each) is dict]
    counts = Counter(name for record in records for name in record.fields)
    names = [name for name, count in counts.items() if count >= NEARLY_ALL * len(records)]
    guess: dict[str, str] = {}
    times = [(rank, name) for name in names if (rank := _rank_of_time(name, records, inputs)) is not None]
    if times and inputs.time_header is None:
        guess["time_field"] = min(times)[1]
    keys = {record.key for record in records}
    if len(keys) <= 1 or len(keys) > _MOST_ENTITIES * len(records):  # the key tells no machines apart
        entities = [(rank, name) for name in names if (rank := _rank_of_entity(name, records)) is not None]
        if entities:
            guess["entity_field"] = min(entities)[1]
    return guess


def _rank_of_time(name: str, records: Sequence[_Record], inputs: InputSettings) -> tuple[bool, float] | None:
    """Return how well the field is the event time, the least the best; None if it is none.

    It has to be a time in all records, and to change. A number of seconds, which may as well be a reading, also has to
    be called a time, or to be near the time of its record.
    """
    values = [record.fields[name] for record in records if record.fields.get(name) is not None]
    distances = []
    for record in records:
        value = record.fields.get(name)
        if value is None:
            continue
        if type(value) not in (str, int, float) or (type(value) is str and len(value) < len("2026-01-01")):
            return None
        try:
            distances.append(abs(milliseconds(value, inputs.zone) - record.time))
        except Refused:
            return None
    if not distances or (len(values) > 1 and len(set(values)) == 1):
        return None
    is_named, distance = is_named_as_time(name.rpartition(".")[2]), median(distances)
    if not is_named and distance > _NEAR and any(type(value) is not str and value < _SECONDS for value in values):
        return None
    return not is_named, distance


def _rank_of_entity(name: str, records: Sequence[_Record]) -> tuple[bool, int] | None:
    """Return how well the field is the entity, the least the best; None if it is none."""
    word = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.rpartition(".")[2]).lower()
    rank = next((k for k, known in enumerate(_ENTITIES) if re.fullmatch(rf"{known}(?:_?(?:id|name))?", word)), None)
    values = {record.fields[name] for record in records if type(record.fields.get(name)) in (str, int)}
    if rank is None or not values or len(values) > max(_MOST_ENTITIES * len(records), 1):
        return None
    if not word.endswith("id") and not all(type(value) is str for value in values):
        return None
    return len(values) == 1, rank


def _text(name: bytes | str) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name


def _sample(blocks: Sequence[RecordBlock], documents: Sequence[_Document]) -> str:
    if documents:
        return as_text(documents[0].content)[:_SAMPLE]
    values = (bytes(block.values.view(r)) for block in blocks for r in range(len(block)) if block.values.length[r] > 0)
    return repr(next(values, b""))[:_SAMPLE]
