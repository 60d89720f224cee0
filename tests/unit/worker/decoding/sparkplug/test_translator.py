"""Sparkplug B becomes JSON: names for aliases, the machine as the key; what cannot be told is refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, strategies as st

from tests.record_blocks import block_of
from tests.sparkplug import birth, data, payload
from worker.blocks import RecordBlock, TopicSet
from worker.decoding import Decoder
from worker.decoding.sparkplug import births as births_module
from worker.decoding.sparkplug.births import Birth, Births, Meaning, Source
from worker.decoding.sparkplug.translator import Translator
from worker.publishing.dead_letters import dead_letters
from worker.settings import InputSettings

T = 1_795_888_000_000
SETTINGS = InputSettings.model_validate({"shape": "sparkplug", "step": "1s"})
NODE, DEVICE = b"spBv1.0/plant/%s/line-3", b"spBv1.0/plant/%s/line-3/press-7"


def translate(values: list[bytes | None], keys: list[bytes | None], births: Births | None = None, at: int = 0) -> Any:
    """Return a translator after these records, and what it has made of them."""
    translator = Translator(SETTINGS, births or Births())
    block = block_of(values, keys)
    return translator, translator.translate(replace(block, offset=block.offset + at))


def metrics(block: RecordBlock, record: int) -> dict[str, Any]:
    document = orjson.loads(block.values[record] or b"null")
    return {metric["name"]: metric["value"] for metric in document["metrics"]}


def refused(block: RecordBlock) -> list[tuple[int, str]]:
    decoder = Decoder(SETTINGS, ("a", "b"))
    return [(reject.record, reject.reason) for reject in decoder.readings(block).rejects]


def test_aliases_have_the_names_of_the_birth_certificate_before() -> None:
    values = [
        birth(["a", "b"], T, 5, [1.0, 2.0]),
        data({6: 3.0}, T + 1000),
        birth(["b", "a"], T + 2000, 5),
        data({6: 4.0}, T + 3000),
    ]
    keys: list[bytes | None] = [DEVICE % kind for kind in (b"DBIRTH", b"DDATA", b"DBIRTH", b"DDATA")]
    translator, block = translate(values, keys)
    assert [metrics(block, r) for r in range(4)] == [{"a": 1, "b": 2}, {"b": 3}, {"b": 0, "a": 0}, {"a": 4}]
    assert [*block.keys] == [b"plant/line-3/press-7"] * 4 and [*block.origin.keys] == keys
    assert [b.offset for b in translator.told] == [0, 2]
    readings = Decoder(SETTINGS, ("a", "b")).readings(block)
    assert readings.time.tolist() == [T, T, T + 1000, T + 2000, T + 2000, T + 3000]


def test_a_partition_that_is_read_again_gives_the_same() -> None:
    """The later birth certificate is known by then."""
    values = [birth(["a", "b"], T), data({0: 1.0}, T + 1), birth(["b", "a"], T + 2), data({0: 2.0}, T + 3)]
    keys: list[bytes | None] = [NODE % kind for kind in (b"NBIRTH", b"NDATA", b"NBIRTH", b"NDATA")]
    births = Births()
    _, once = translate(values, keys, births)
    _, again = translate(values[1:], keys[1:], births, 1)
    assert [*once.values][1:] == [*again.values]


def test_a_message_before_its_birth_certificate_is_refused_and_kept_as_it_came() -> None:
    values, keys = [data({0: 1.0}, T), birth(["a"], T)], [DEVICE % b"DDATA", DEVICE % b"DBIRTH"]
    _, block = translate([*values], [*keys])
    readings = Decoder(SETTINGS, ("a",)).readings(block)
    (reject,) = readings.rejects
    assert (reject.record, reject.reason) == (0, "unknown-alias") and "request a rebirth" in reject.error
    letters = dead_letters("dead", [reject], block)
    assert (letters[0].value, letters[0].key) == (values[0], keys[0])
    told = dict(letters[0].headers)
    assert (
        told["offnormal-reason"] == b"unknown-alias" and "content-type" not in told and "offnormal-unread" not in told
    )


def test_after_the_birth_of_its_node_a_device_needs_one_of_its_own() -> None:
    values = [birth(["a"], T), birth(["b"], T, 9), data({0: 1.0}, T), birth(["x"], T, 5), data({0: 2.0}, T)]
    keys: list[bytes | None] = [
        DEVICE % b"DBIRTH", NODE % b"NBIRTH", DEVICE % b"DDATA", DEVICE % b"DBIRTH", DEVICE % b"DDATA",
    ]  # fmt: skip
    _, block = translate(values, keys)
    assert refused(block) == [(2, "unknown-alias"), (4, "unknown-alias")]


def test_a_birth_certificate_of_another_partition_is_none_and_is_told() -> None:
    births = Births()
    births.take(Birth(Source(1, "plant/line-3", "press-7"), 0, {0: Meaning("a", 10)}))
    _, block = translate([data({0: 1.0}, T)], [DEVICE % b"DDATA"], births, at=5)
    (reject,) = Decoder(SETTINGS, ("a",)).readings(block).rejects
    assert "another partition" in reject.error and "MQTT_TOPIC_HEADER" in reject.error


@pytest.mark.parametrize(
    ("datatype", "raw", "value"),
    [
        (1, {"int_value": 255}, -1),
        (2, {"int_value": 2**16 - 5}, -5),
        (3, {"int_value": 2**32 - 7}, -7),
        (4, {"long_value": 2**64 - 9}, -9),
        (4, {"long_value": 9}, 9),
        (7, {"int_value": 2**32 - 7}, 2**32 - 7),
        (8, {"long_value": 2**63}, 2**63),
        (9, {"float_value": 1.5}, 1.5),
        (10, {"double_value": -2.25}, -2.25),
        (11, {"boolean_value": True}, True),
        (12, {"string_value": "on"}, "on"),
        (13, {"long_value": T}, None),
        (10, {"is_null": True}, None),
        (10, {"is_null": True, "double_value": 3.0}, None),
        (17, {"bytes_value": b"\0"}, None),
    ],
)
def test_values_are_of_their_data_type(datatype: int, raw: dict[str, Any], value: Any) -> None:
    """It is told by the birth certificate alone; here both are tried."""
    born = payload([{"name": "a", "alias": 3, "datatype": datatype, **raw}], T)
    later = payload([{"alias": 3, **raw}], T)
    _, block = translate([born, later], [NODE % b"NBIRTH", NODE % b"NDATA"])
    assert [metrics(block, r)["a"] for r in range(2)] == [value, value]


def test_what_is_no_reading_is_no_vector() -> None:
    born = payload([{"name": "bdSeq", "long_value": 3}, {"name": "Node Control/Rebirth", "boolean_value": False}], T)
    keys: list[bytes | None] = [NODE % b"NBIRTH", NODE % b"NDEATH", b"spBv1.0/STATE/host", NODE % b"NCMD", None]
    _, block = translate([born, born, b'{"online": true}', b"\xff", None], keys)
    assert [*block.values] == [None] * 5 and not refused(block)


def test_without_an_mqtt_topic_the_key_is_the_machine() -> None:
    values = [birth(["a", "b"], T), payload([{"name": "c", "alias": 2, "double_value": 1.0}], T), data({0: 1, 2: 2}, T)]
    _, block = translate([*values], [b"press-7"] * 3)
    assert [*block.keys] == [b"press-7"] * 3 and metrics(block, 2) == {"a": 1, "c": 2}


def test_the_mqtt_topic_may_be_a_header() -> None:
    inputs = SETTINGS.model_copy(update={"mqtt_topic_header": "topic"})
    headers = {0: [("topic", DEVICE % b"DBIRTH"), ("Content-Type", b"application/x-protobuf"), ("traceparent", b"x")]}
    block = Translator(inputs, Births()).translate(block_of([birth(["a"], T), b"\x07"], [b"line-3"] * 2, headers))
    assert [*block.keys] == [b"plant/line-3/press-7", b"line-3"]
    assert [name for name, _ in block.headers[0]] == ["topic", "traceparent"]
    assert refused(block) == [(1, "unparseable")]


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_any_bytes_are_readings_or_refused(values: list[bytes]) -> None:
    _, block = translate([*values], [DEVICE % b"DDATA"] * len(values))
    no_json = {record for record, _ in refused(block)}
    for r, text in enumerate(block.values):
        assert r in no_json or text is None or orjson.loads(text)["metrics"]
    assert len(block) == len(values) and [*block.origin.values] == values


def test_births_come_back_from_their_records_and_malformed_ones_do_not() -> None:
    topics = TopicSet("plant.a,plant.b")
    born = Birth(Source(topics.number("plant.b", 3), "plant/line-3", "press-7"), 41, {7: Meaning("ä", 10)})
    key, value = born.record(topics)
    assert key == b"plant.b/3/plant/line-3/press-7" and Birth.read(value, topics) == born
    good = orjson.loads(value)
    wrong: list[dict[str, Any]] = [{"topic": "c"}, {"topic": None}, {"partition": -1}, {"partition": 2**40}]
    for change in [*wrong, {"offset": "1"}, {"metrics": [[1, "a"]]}, {"metrics": 3}, {"metrics": [["1", "a", 3]]}]:
        assert Birth.read(orjson.dumps({**good, **change}), topics) is None, change
    assert [Birth.read(text, topics) for text in (b"[]", b"\xff", None)] == [None] * 3


def test_births_of_many_machines_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were taken first are dropped, and leave nothing behind."""
    monkeypatch.setattr(births_module, "MOST_ALIASES", 100)
    births = Births()
    for k in range(1000):
        births.take(Birth(Source(k % 3, f"n{k}", ""), k, {j: Meaning("a", 10) for j in range(9)}))
    assert [births.aliases(Source(k % 3, f"n{k}", ""), 2000) is not None for k in (0, 989, 990, 999)] == [0, 0, 1, 1]
    assert {len(each) for each in (births._offsets, births._aliases, births._partitions)} == {10}
    births.take(Birth(Source(0, "huge", ""), 1, {j: Meaning("a", 10) for j in range(101)}))
    assert births.aliases(Source(0, "huge", ""), 2) is None and not births._aliases


def test_few_births_of_each_machine_are_kept() -> None:
    births, source = Births(), Source(0, "n", "d")
    for offset in np.random.default_rng(0).permutation(1000).tolist():
        births.take(Birth(source, offset, {0: Meaning(str(offset), 10)}))
    assert births.aliases(source, 1000) == {0: Meaning("999", 10)} and births.aliases(source, 990) is None
