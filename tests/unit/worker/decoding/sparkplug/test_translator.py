"""Sparkplug B becomes JSON: names for aliases, the machine as the key; what cannot be told is refused."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, strategies as st

from tests.record_blocks import block_of
from tests.sparkplug import birth, data, payload
from worker.blocks import RecordBlock, TopicSet
from worker.decoding import Decoder
from worker.decoding.sparkplug import births as births_module
from worker.decoding.sparkplug.births import Birth, Births, Source, Table
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
    assert [b.offset for b in translator.new_births] == [0, 2]
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
    assert (reject.record, reject.reason) == (0, "unknown-alias") and "explain unknown-alias" in reject.error
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


def test_a_partition_may_be_read_again_from_before_many_births() -> None:
    """As after a rebalance: of a node that is born again and again, only some births are kept."""
    values: list[bytes | None] = []
    for k in range(9):
        values += [birth([f"n{k}"], T, 3), data({3: k}, T)]
    keys: list[bytes | None] = [NODE % b"NBIRTH", NODE % b"NDATA"] * 9
    births = Births()
    _, once = translate(values, keys, births)
    _, again = translate(values, keys, births)
    assert [*once.values] == [*again.values] and not refused(again)


def test_a_data_type_is_remembered_by_the_name_too() -> None:
    """Later messages need not tell it, whether they have an alias or a name, or both."""
    born = payload([{"name": "a", "datatype": 3, "int_value": 1}, {"name": "at", "datatype": 13, "long_value": T}], T)
    minus = {"int_value": 2**32 - 5}
    later = [
        payload([{"name": "a", **minus}, {"name": "at", "long_value": T}]),
        payload([{"name": "a", "alias": 1, **minus}]),
    ]
    _, block = translate([born, *later], [NODE % b"NBIRTH", NODE % b"NDATA", NODE % b"NDATA"])
    assert [metrics(block, r) for r in (1, 2)] == [{"a": -5, "at": None}, {"a": -5}]


def test_a_message_may_name_some_metrics_and_others_by_alias() -> None:
    mixed = payload([{"name": "a", "alias": 1, "double_value": 1.0}, {"alias": 2, "double_value": 2.0}], T)
    _, block = translate([birth(["a", "b"], T, 1), mixed], [NODE % b"NBIRTH", NODE % b"NDATA"])
    assert metrics(block, 1) == {"a": 1, "b": 2}


def test_machines_without_an_mqtt_topic_do_not_share_their_aliases() -> None:
    inputs = SETTINGS.model_copy(update={"mqtt_topic_header": "topic"})
    values = [birth(["a"], T, 1), birth(["b"], T, 1), data({1: 1.0}, T)]
    block = Translator(inputs, Births()).translate(block_of(values, [b"press-1", b"press-2", b"press-1"]))
    assert metrics(block, 2) == {"a": 1}


def test_what_is_put_back_later_tells_nothing_of_now() -> None:
    values = [birth(["a"], T, 1), birth(["b"], T, 1), data({1: 1.0}, T)]
    headers = {1: [("offnormal-replayed", b"dead/0/7")]}
    block = Translator(SETTINGS, Births()).translate(
        block_of(values, [NODE % b"NBIRTH"] * 2 + [NODE % b"NDATA"], headers)
    )
    assert metrics(block, 1) == {"b": 0} and metrics(block, 2) == {"a": 1}


def test_a_sender_cannot_forge_why_a_record_was_refused() -> None:
    headers = {0: [("offnormal-reason", b"evil"), ("offnormal-error", b"evil")]}
    block = Translator(SETTINGS, Births()).translate(block_of([data({1: 1.0}, T)], [NODE % b"NDATA"], headers))
    assert refused(block) == [(0, "unknown-alias")]


@pytest.mark.parametrize("value", [b"\x12\x04\x0a\x02\xff\xfe", b"\x12\x07\x0a\x01a\x7a\x02\xff\xfe"])
def test_text_that_is_no_utf8_is_refused(value: bytes) -> None:
    _, block = translate([value], [NODE % b"NDATA"])
    assert refused(block) == [(0, "unparseable")]


def test_a_birth_of_too_many_or_too_long_names_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    long = birth(["n" * 1000 + str(j) for j in range(1300)], T)
    translator, block = translate([long, birth(["a"], T)], [NODE % b"NBIRTH", b"spBv1.0/" + b"g" * 2000 + b"/NBIRTH/n"])
    assert refused(block) == [(0, "unparseable"), (1, "bad-entity")] and not translator.new_births
    many = birth([f"{k:x}" for k in range(80_000)], T)
    assert len(many) < 2 << 20, "as a record may well be, but not the one that tells its aliases"
    translator, block = translate([many], [NODE % b"NBIRTH"])
    assert refused(block) == [(0, "unparseable")] and not translator.new_births
    monkeypatch.setattr(births_module, "MOST_IN_ALL", 1000)
    values = [birth(["a"], T) for _ in range(9)]
    translator, block = translate([*values], [b"spBv1.0/g/NBIRTH/n%d" % k for k in (0, 1, 2, 3, 4, 5, 0, 6, 1)])
    assert {reason for _, reason in refused(block)} == {"unknown-alias"}
    assert [b.offset for b in translator.new_births] == [0, 1, 2, 6, 8], "those that are known are remembered"


def test_births_come_back_from_their_records_and_malformed_ones_do_not() -> None:
    topics = TopicSet("plant.a,plant.b")
    source = Source(topics.number("plant.b", 3), "plant/line-3", "press-7")
    born = Birth(source, 41, Table({7: "ä", 8: "ä"}, {"ä": 10, "without": 3}), "id")  # two aliases, and none
    key, value = born.record(topics)
    assert key == b"plant.b/3/plant/line-3/press-7" and Birth.read(value, topics) == born
    assert born.is_of("id") and born.is_of(None) and not born.is_of("another")
    good = orjson.loads(value)
    wrong: list[dict[str, Any]] = [{"topic": "c"}, {"topic": None}, {"partition": -1}, {"partition": 2**40}]
    wrong += [{"offset": "1"}, {"metrics": [[1, "a"]]}, {"metrics": 3}, {"metrics": [["1", "a", 3]]}, {"topic_id": 7}]
    for change in wrong:
        assert Birth.read(orjson.dumps({**good, **change}), topics) is None, change
    assert [Birth.read(text, topics) for text in (b"[]", b"\xff", None)] == [None] * 3


def test_few_births_of_each_machine_are_kept_and_a_partition_is_replaced() -> None:
    births, source = Births(), Source(0, "n", "d")
    for offset in range(1000):
        births.take(Birth(source, offset, Table({0: str(offset)}, {str(offset): 10})))
    births.take(Birth(source._replace(partition=1), 7, Table()))
    assert [birth.offset for birth in births.of(0)] == [996, 997, 998, 999]
    assert births.table(source, 1000).names == {0: "999"} and births.table(source, 990) == Table()
    births.restore(0, births.of(0)[:1])
    assert [birth.offset for birth in births.of(0)] == [996] and len(births.of(1)) == 1
    births.restore(0, ())
    births.restore(1, ())
    assert births._bytes == 0 and not births._births


def test_the_record_of_a_birth_is_no_larger_than_is_said() -> None:
    names = [chr(1 + k % 31) * (1 + k % 7) + str(k) for k in range(3000)]
    table = Table({2**64 - 1 - k: name for k, name in enumerate(names)}, dict.fromkeys(names, 2**32 - 1))
    _, value = Birth(Source(0, "n", "d"), 0, table).record(TopicSet("t"))
    assert len(value) - 200 < table.most_json


def test_an_infinite_reading_of_a_feature_is_refused_and_another_is_not() -> None:
    values = [
        birth(["a"], T, 1, [float("inf")]),
        birth(["other"], T, 1, [float("-inf")]),
        birth(["a"], T, 1, [float("nan")]),
    ]
    _, block = translate([*values], [NODE % b"NBIRTH"] * 3)
    assert refused(block) == [(0, "infinite")]
