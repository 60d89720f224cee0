"""What `topics --look` makes of records: the shape, the fields, and what is wrong."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.record_blocks import block_of
from worker.decoding import Decoder
from worker.inference import suggestion
from worker.inference.look import RecordsSeen, look_at
from worker.inference.suggestion import Suggestion
from worker.settings import InputSettings, Settings

T = 1_795_888_000  # seconds
Look = Callable[..., Suggestion]


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Look:
    """Looks at these records, which come a second apart, without a key unless there are some."""

    def at(documents: Sequence[Any], keys: Sequence[bytes | None] | None = None, **settings: Any) -> Suggestion:
        values = [
            document if isinstance(document, bytes) or document is None else json.dumps(document).encode()
            for document in documents
        ]
        block = replace(block_of(values, keys or [None] * len(values)), timestamp=(T + np.arange(len(values))) * 1000)
        monkeypatch.setattr(suggestion, "last_records", lambda _: [block])
        return suggestion.suggest(Settings(input=InputSettings.model_validate(settings)))

    return at


def sines(count: int = 40) -> list[tuple[int, float]]:
    return [(k, float(np.sin(k))) for k in range(count)]


def test_the_event_time_is_the_field_that_moves_with_the_records(look: Look) -> None:
    installed = {"installed": "2019-05-01T00:00:00Z"}
    found = look([{"machine_name": f"m{k % 2}", **installed, "ts": (T + k) * 1000, "v": v} for k, v in sines()])
    assert found.settings == {"time_field": "ts", "entity_field": "machine_name"}
    meter = [{"energy_wh": 1_534_568_679 + k * k % 11, "timestamp": f"2026-11-28T10:00:{k:02}Z"} for k, _ in sines()]
    found = look(meter)
    assert found.settings == {"time_field": "timestamp"}
    assert "energy_wh" in {column.name for column in found.columns}


def test_a_unit_or_a_line_of_a_grid_is_no_entity(look: Look) -> None:
    documents: list[Any] = [{"unit": "degC", "machine": f"m{k % 3}", "v": v} for k, v in sines()]
    assert look(documents).settings == {"entity_field": "machine"}
    documents = [{"voltage": {"line": 228 + v}, "machine": f"m{k % 3}"} for k, v in sines()]
    assert look(documents).settings == {"entity_field": "machine"}


def test_a_key_for_each_record_tells_no_machines_apart(look: Look) -> None:
    documents = [{"deviceId": f"d{k % 3}", "v": v} for k, v in sines()]
    assert look(documents, [b"uuid-%d" % k for k in range(40)]).settings == {"entity_field": "deviceId"}
    assert look(documents, [b"d%d" % (k % 3) for k in range(40)]).settings == {}


def test_one_odd_record_hides_nothing(look: Look) -> None:
    found = look([{"hello": 1}, *({"device": f"d{k % 3}", "ts": T + k, "v": v} for k, v in sines())])
    assert found.settings == {"time_field": "ts", "entity_field": "device"}


def test_fields_within_values_are_told_by_their_path(look: Look) -> None:
    found = look([{"values": {"ts": T + k, "temp": v, "host": f"h{k % 2}"}} for k, v in sines()])
    assert found.settings == {"time_field": "values.ts", "entity_field": "values.host"}
    assert found.names("reading") == ["temp"] and not found.seen.wrong


def test_a_shape_without_its_entity_is_told_by_its_other_fields(look: Look) -> None:
    found = look([{"timestamp": T + k, "name": "d0", "fields": {"v": v}} for k, v in sines()])
    assert found.settings == {"values_field": "fields", "time_field": "timestamp"} and not found.seen.wrong


@pytest.mark.parametrize(
    "document",
    [
        b"{",
        None,
        {"schema": None, "payload": None},
        [],
        7,
        {"text": "none"},
        b'{"a": NaN}',
        {"metrics": [{"alias": 3}]},
        b'{"machine": "\\ud800", "v": NaN}',
        b"[" * 1000 + b"]" * 1000,
    ],
)
@pytest.mark.parametrize("settings", [{}, {"shape": "telegraf"}, {"shape": "sparkplug-json"}, {"format": "f32"}])
def test_nothing_that_it_sees_ends_it(look: Look, document: Any, settings: dict[str, str]) -> None:
    found = look([document] * 20, **settings)
    assert not found.names("reading") and found.error


def test_a_count_of_features_is_taken(look: Look) -> None:
    found = look([np.array([k, v], "<f4").tobytes() for k, v in sines()], format="f32", features=2)
    assert found.error is None and not found.seen.wrong


def test_what_does_not_parse_is_told_though_there_are_no_features(look: Look) -> None:
    assert look([b"pressure,flow"] * 20).seen.wrong == {"unparseable": 20}


def reading(k: int, v: float, **more: Any) -> dict[str, Any]:
    tag = ("heat", "speed", "flow")[k % 3]
    return {"tag": tag, "value": v, "time": (T + k) * 1000, "quality": "Good", **more}


def test_single_readings_are_told(look: Look) -> None:
    found = look([reading(k, v) for k, v in sines()], [b"press-%d" % (k % 2) for k in range(40)])
    assert found.settings == {"shape": "readings", "step": "1s"}
    assert {column.name for column in found.columns if column.kind == "reading"} == {"heat", "speed", "flow"}
    assert sorted(found.entities) == ["press-0", "press-1"] and not found.seen.wrong
    assert look([reading(k, v) for k, v in sines()], step="10s").settings == {"shape": "readings"}


def test_an_entity_in_several_partitions_is_told_where_readings_are_aligned() -> None:
    inputs, seen = InputSettings.model_validate({"shape": "readings", "step": "1s"}), RecordsSeen(records=12)
    for partition in (0, 3):
        values = [json.dumps(reading(k, k)).encode() for k in range(6)]
        records = block_of(values, [b"a", b"b" if partition else b"c"] * 3)
        look_at(seen, inputs, replace(records, partition=np.full(6, partition)), Decoder(inputs, ("heat",)))
    seen.add_split_entities()
    assert seen.wrong == {"split-entity": 6}
    assert seen.examples["split-entity"].startswith("readings of a lie in partitions 0, 3: ")


def test_readings_of_no_feature_are_told_with_their_tags() -> None:
    inputs, seen = InputSettings.model_validate({"shape": "readings", "step": "1s"}), RecordsSeen()
    records = block_of([json.dumps(reading(k, k)).encode() for k in range(6)])
    look_at(seen, inputs, records, Decoder(inputs, ("heat",)))
    assert not seen.wrong
    look_at(seen, inputs, records, Decoder(inputs, ("other",)))
    assert seen.wrong == {"no-feature": 6} and "tags: heat, speed, flow" in seen.examples["no-feature"]
