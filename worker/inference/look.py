"""A look at the last records of the input topic, as the settings and the champions' decoders read them."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from worker.blocks import RecordBlock, VectorBlock
from worker.blocks.reading_block import ReadingBlock
from worker.decoding import Decoder
from worker.decoding.dead_letter_reasons import Refused
from worker.decoding.sensor_reader import sensor_reader
from worker.errors import SettingsError
from worker.inference.features import infer
from worker.inference.other_formats import explained
from worker.registry import Registry
from worker.schema_registry import SchemaRegistry
from worker.serving.router import Router
from worker.settings import InputSettings, Settings

OF_PARTITION: Final = 200  # records
OF_BIRTHS: Final = 100_000  # records of a partition in which birth certificates are looked for
SHOWN: Final = 10  # names in a line
MOSTLY: Final = 0.5  # share of the records from which on what is wrong with them is an error


@dataclass
class RecordsSeen:
    """What was seen in the last records. `examples` has a text for each thing that is wrong with some of them."""

    records: int = 0
    nulls: int = 0
    wrong: "Counter[str]" = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    # entity -> partition -> records, where an entity has to lie in one
    places: "dict[str | None, Counter[int]]" = field(default_factory=dict)
    inferred: Sequence[str] = ()  # the features that training would take, where there is no champion

    def add(self, kind: str, count: int, example: str) -> None:
        """Count records that something is wrong with."""
        if count:
            self.wrong[kind] += count
            self.examples.setdefault(kind, example)

    def add_split_entities(self) -> None:
        """Count the records of entities that lie in several partitions, where their readings are to be aligned."""
        for entity, places in self.places.items():
            if len(places) > 1:
                where = ", ".join(map(str, sorted(places)))
                what = "records without key and entity" if entity is None else f"readings of {entity[:100]}"
                self.add(
                    "split-entity", places.total(), f"{what} lie in partitions {where}: the key has to be the entity"
                )

    def summary(self) -> str:
        """Return one line. Raises SettingsError where something is wrong with most of the records."""
        if not self.records:
            return "the topic has no records yet"
        total = self.records - self.nulls
        parts = [f"{count} of the last {total}: {self.examples[kind]}" for kind, count in self.wrong.most_common()]
        if any(count > MOSTLY * total for count in self.wrong.values()):
            raise SettingsError("; ".join(parts))
        features = f"; training would take the features {', '.join(self.inferred[:SHOWN])}" if self.inferred else ""
        return "; ".join(parts or [f"the last {total} records fit"]) + features


def look(settings: Settings) -> RecordsSeen:
    """Read the last records of each partition, and decode them for the model of each. Raises OffnormalError."""
    seen = RecordsSeen()
    registry = SchemaRegistry.of(settings, patience=settings.kafka.startup_timeout)
    router = Router(settings.model.routes, settings.model.name)
    features = {model: _features(settings, model) for model in settings.model.names}
    blocks = last_records(settings)
    for block in blocks:
        seen.records += len(block)
        seen.nulls += int((block.values.length < 0).sum())
        for model, part in router.split(block):
            if features[model] or settings.input.align:
                look_at(seen, settings.input, part, Decoder(settings.input, features[model], registry))
    seen.add_split_entities()
    if seen.records and not any(features.values()) and settings.input.features is None:
        seen.inferred = infer(settings.input, blocks, registry)
    return seen


def last_records(settings: Settings) -> list[RecordBlock]:
    """Return the last records of each partition of the sensors topic. Raises KafkaUnavailable."""
    with sensor_reader(settings) as reader:
        first = reader.starts()
        if settings.input.is_sparkplug:  # no worker may have written yet what birth certificates have told
            reader.seek({p: max(end - OF_BIRTHS, first[p]) for p, end in reader.ends().items()})
            deque(reader.to_end(), maxlen=0)
        begin = {p: max(end - OF_PARTITION, first[p]) for p, end in reader.ends().items()}
        return reader.from_each(begin, OF_PARTITION, lambda block: block)


def _features(settings: Settings, model: str) -> tuple[str, ...]:
    """Return the features of the model that scores the records; none where there is no champion yet."""
    for name in dict.fromkeys((model, settings.model.name)):
        own = settings.model_copy(update={"model": settings.model.model_copy(update={"name": name})})
        view = Registry(own).view()
        version = view.champion()
        if version is not None:
            return tuple(view.card(version).features)
    return ()


def look_at(seen: RecordsSeen, inputs: InputSettings, records: RecordBlock, decoder: Decoder) -> None:
    """Decode the records, and count what is wrong with them."""
    block = _readings(seen, records, decoder) if inputs.align else _vectors(seen, records, decoder)
    for reject in block.rejects:
        seen.add(reject.reason, 1, f"{explained(reject, records)} [{reject.reason}]")
    parsed = len(records) - block.nulls - len(block.rejects)
    if parsed and inputs.entity_field is not None:
        text = f"no {inputs.entity_field} (OFFNORMAL_INPUT__ENTITY_FIELD); keys: {_keys(records, 0, decoder)}"
        seen.add("no-entity-field", parsed - len(block.entities), text)
    if parsed and inputs.time_field is not None:
        text = f"no {inputs.time_field} (OFFNORMAL_INPUT__TIME_FIELD); keys: {_keys(records, 0, decoder)}"
        seen.add("no-time-field", parsed - block.timed, text)


def _vectors(seen: RecordsSeen, records: RecordBlock, decoder: Decoder) -> VectorBlock:
    block = decoder.decode(records)
    empty = np.unique(block.record[np.isnan(block.x).all(axis=1)])
    if len(empty):
        names = ", ".join(decoder.features[:SHOWN])
        seen.add("no-feature", len(empty), f"none of the features ({names}); keys: {_keys(records, empty[0], decoder)}")
    return block


def _readings(seen: RecordsSeen, records: RecordBlock, decoder: Decoder) -> ReadingBlock:
    """Return the readings. A plant has more tags than a model, so only records without any of its tags are wrong."""
    block = decoder.readings(records)
    is_feature = block.column >= 0
    if len(block) and decoder.features and not is_feature.any():
        names, tags = ", ".join(decoder.features[:SHOWN]), ", ".join(decoder.tags_of(records)[:SHOWN])
        seen.add("no-feature", len(np.unique(block.record)), f"none of the features ({names}); tags: {tags}")
    elif is_feature.any() and np.isnan(block.value[is_feature]).all():
        seen.add("no-value", len(np.unique(block.record)), "null, or of bad quality (OFFNORMAL_INPUT__GOOD)")
    for record in np.unique(block.record).tolist():
        places = seen.places.setdefault(block.entity_of_record(record), Counter())
        places[int(records.partition[record])] += 1
    return block


def _keys(records: RecordBlock, record: int, decoder: Decoder) -> str:
    try:
        return ", ".join(map(str, decoder.keys_of(records, int(record))[:SHOWN]))
    except Refused as error:
        return str(error)
