"""Records as other programs write them, each by its shape, and what no shape can read."""

import json
from datetime import UTC, datetime
from typing import Any, get_args

import numpy as np
import pytest

from tests.record_blocks import block_of
from worker.blocks import VectorBlock
from worker.decoding import Decoder
from worker.decoding.dead_letter_reasons import BAD_ENTITY, WRONG_LENGTH, WRONG_TYPE
from worker.decoding.shape import at, flat
from worker.settings import InputSettings
from worker.settings.shapes import SHAPES, ShapeName

T = 1_795_888_000  # seconds
ISO = datetime.fromtimestamp(T, UTC).isoformat()

# For each shape a record as the program's documentation shows it, the names of its readings, and its rows.
RECORDS: dict[str, tuple[Any, tuple[str, ...], list[list[float]], str | None]] = {
    "vector": ({"a": 1, "b": {"c": 2}}, ("a", "b.c"), [[1, 2]], None),
    "telegraf": (
        {"fields": {"load": 1.5, "used": 2}, "name": "cpu", "tags": {"cpu": "all", "host": "web"}, "timestamp": T},
        ("load", "used"),
        [[1.5, 2]],
        "web",
    ),
    "telegraf-batch": (
        {
            "metrics": [
                {"fields": {"load": 1.5}, "name": "cpu", "tags": {"host": "web"}, "timestamp": T - 10},
                {"fields": {"load": 2.5}, "name": "cpu", "tags": {"host": "web"}, "timestamp": T},
            ]
        },
        ("load",),
        [[1.5], [2.5]],
        "web",
    ),
    "debezium": (
        {
            "before": {"speed": 7, "heat": 8},
            "after": {"speed": 50.1, "heat": 20},
            "source": {"version": "3.0", "ts_ms": T * 1000, "table": "press"},
            "op": "u",
            "ts_ms": (T + 5) * 1000,
        },
        ("speed", "heat"),
        [[50.1, 20]],
        None,
    ),
    "readings": ({"tag": "heat", "value": 20.5, "time": ISO, "quality": "Good"}, ("heat",), [[20.5]], None),
    "cloudevents": (
        {"specversion": "1.0", "type": "x", "id": "1", "source": "/press/1", "time": ISO, "data": {"speed": 5}},
        ("speed",),
        [[5]],
        "/press/1",
    ),
    "opcua-pubsub": (
        {
            "MessageId": "32235546",
            "MessageType": "ua-data",
            "PublisherId": "gateway",
            "Messages": [
                {"DataSetWriterId": 1, "Timestamp": ISO, "Payload": {"Heat": {"Value": 99.9}, "Flow": {"Value": 3}}}
            ],
        },
        ("Heat.Value", "Flow.Value"),
        [[99.9, 3]],
        "gateway",
    ),
    "opc-publisher": (
        [
            {"NodeId": "ns=2;s=Heat", "ApplicationUri": "urn:plc", "Value": {"Value": 9.5, "SourceTimestamp": ISO}},
            {"NodeId": "ns=2;s=Flow", "ApplicationUri": "urn:plc", "Value": {"Value": 3}},
        ],
        ("ns=2;s=Flow", "ns=2;s=Heat"),
        [[3, 9.5]],
        "urn:plc",
    ),
    "sparkplug": (  # after worker/decoding/sparkplug has made JSON of it
        {"metrics": [{"name": "Heat", "value": 9.5, "timestamp": T * 1000}]},
        ("Heat",),
        [[9.5]],
        None,
    ),
    "sparkplug-json": (
        {
            "timestamp": T * 1000,
            "metrics": [
                {"name": "Heat", "timestamp": T * 1000, "dataType": "Double", "value": 9.5},
                {"name": "Node/Up", "timestamp": T * 1000, "dataType": "Boolean", "value": True},
            ],
            "seq": 2,
        },
        ("Heat", "Flow"),
        [[9.5, float("nan")]],
        None,
    ),
    "sitewise": (
        {
            "type": "PropertyValueUpdate",
            "payload": {
                "assetId": "a1b2c3d4-5678",
                "propertyId": "b2c3d4e5",
                "values": [
                    {
                        "timestamp": {"timeInSeconds": T, "offsetInNanos": 0},
                        "quality": "GOOD",
                        "value": {"doubleValue": 305.5},
                    }
                ],
            },
        },
        ("b2c3d4e5",),
        [[305.5]],
        "a1b2c3d4-5678",
    ),
    "kepware": (
        {"timestamp": T * 1000, "values": [{"id": "C.D.Heat", "v": 9.5, "q": True, "t": T * 1000}]},
        ("C.D.Heat",),
        [[9.5]],
        None,
    ),
}


def decode(documents: list[Any], features: tuple[str, ...], **settings: Any) -> VectorBlock:
    values = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in documents]
    return Decoder(InputSettings.model_validate(settings), features).decode(block_of(values))


@pytest.mark.parametrize("shape", get_args(ShapeName))
@pytest.mark.parametrize("connect", [False, True])
def test_a_record_of_each_shape(shape: str, connect: bool) -> None:
    """Three times: the compiled loop learns from the first. Kafka Connect puts a schema beside it."""
    document, features, rows, entity = RECORDS[shape]
    if connect:
        document = {"schema": {"type": "struct", "fields": [{"field": "a", "type": "double"}]}, "payload": document}
    step = {"step": "1s"} if SHAPES[shape].get("align") else {}  # type: ignore[index]
    block = decode([document] * 3, features, shape=shape, **step)
    assert not block.rejects
    assert np.array_equal(block.x, np.array(rows * 3, np.float32), equal_nan=True)
    assert block.entities == ({} if entity is None else dict.fromkeys(range(3), entity))
    if SHAPES[shape]:  # type: ignore[index]
        assert block.time[-1] == T * 1000 and block.timed == 3


def test_a_row_has_its_own_time() -> None:
    document, features, *_ = RECORDS["telegraf-batch"]
    assert decode([document], features, shape="telegraf-batch").time.tolist() == [(T - 10) * 1000, T * 1000]
    rows = [{"t": T - 10, "a": 1}, {"t": T, "a": 2}]
    block = decode([rows, {"t": T, "a": 3}], ("a",), time_field="t")
    assert block.x.tolist() == [[1], [2], [3]] and block.time.tolist() == [(T - 10) * 1000, T * 1000, T * 1000]


def test_rows_with_times_of_their_own_are_no_steps_apart_besides() -> None:
    rows = [{"t": T, "a": 1}, {"t": T + 1, "a": 2}, {"a": 3}]
    block = decode([rows], ("a",), time_field="t")
    assert block.steps is not None and block.steps.tolist() == [0, 0, 2]
    assert decode([[{"a": 1}, {"a": 2}]], ("a",)).steps.tolist() == [0, 1]  # type: ignore[union-attr]


def test_the_latest_reading_gives_the_time_of_readings_that_lie_in_an_array() -> None:
    metrics = [{"name": "a", "value": 1, "t": T}, {"name": "b", "value": 2, "t": T - 5}, {"name": "c", "value": 3}]
    paths = {"tag_field": "m[].name", "value_field": "m[].value", "time_field": "m[].t"}
    assert decode([{"m": metrics}], ("b",), **paths).time.tolist() == [T * 1000]


def test_a_named_shape_is_only_its_fields_and_each_may_be_set() -> None:
    document, features, *_ = RECORDS["telegraf"]
    by_name = decode([document], features, shape="telegraf")
    by_fields = decode([document], features, **SHAPES["telegraf"])
    assert by_name.x.tolist() == by_fields.x.tolist() and by_name.entities == by_fields.entities
    assert decode([document], features, shape="telegraf", entity_field="tags.cpu").entities == {0: "all"}


def test_a_deletion_has_no_vector_and_is_no_error() -> None:
    document = RECORDS["debezium"][0]
    deleted = document | {"before": document["after"], "after": None, "op": "d"}
    block = decode([document, deleted, document], ("speed", "heat"), shape="debezium")
    assert block.record.tolist() == [0, 2] and not block.rejects
    block = decode([{"schema": None, "payload": None}], ("speed",))
    assert not len(block) and not block.rejects


@pytest.mark.parametrize("frame", [b"\0\0\0\0\7", b"\0\xff\xff\xff\xff"])
def test_confluents_json_schema_frame_is_passed_over(frame: bytes) -> None:
    plain = b'{"a":1,"b":2}'
    block = decode([frame + plain, plain, frame + plain, frame + b"{", b"\0\0\0\0"], ("a", "b"))
    assert block.x.tolist() == [[1, 2]] * 3 and block.record.tolist() == [0, 1, 2]
    assert [reject.record for reject in block.rejects] == [3, 4]


@pytest.mark.parametrize("name", ["application/vnd.acme+json", "application/cloudevents+json; charset=utf-8"])
def test_each_content_type_of_json_is_json(name: str) -> None:
    records = block_of([b'{"a":1}'], None, {0: [("content-type", name.encode())]})
    assert Decoder(InputSettings(), ("a",)).decode(records).x.tolist() == [[1]]


@pytest.mark.parametrize(
    ("document", "settings", "reason"),
    [
        ([{"host": "a", "v": 1}, {"host": "b", "v": 1}], {"entity_field": "host"}, BAD_ENTITY),
        ([{"host": {}, "v": 1}, {"host": "b", "v": 1}], {"entity_field": "host"}, BAD_ENTITY),
        ([{"v": 1}, [1]], {}, WRONG_TYPE),
        ({"m": {}}, {"values_field": "m[].x"}, WRONG_TYPE),
        ({}, {"values_field": "m[].x"}, WRONG_TYPE),
        ({"m": []}, {"values_field": "m[].x"}, WRONG_LENGTH),
        ({"m": [{"x": 1}]}, {"values_field": "m[].x"}, WRONG_TYPE),
        ({"m": [{"x": {"v": 1}}, 7]}, {"values_field": "m[].x"}, WRONG_TYPE),
        ({"m": [{"v": 1}]}, {"tag_field": "m[].n", "value_field": "m[].v"}, WRONG_TYPE),
        ({"m": [{"n": "v", "v": "1"}]}, {"tag_field": "m[].n", "value_field": "m[].v"}, WRONG_TYPE),
        ({"fields": 7}, {"values_field": "fields"}, WRONG_TYPE),
    ],
)
def test_what_does_not_fit_its_shape_is_refused(document: Any, settings: dict[str, str], reason: str) -> None:
    block = decode([document, document], ("v",), **settings)
    assert [reject.reason for reject in block.rejects] == [reason] * 2


@pytest.mark.parametrize(
    "settings",
    [
        {"shape": "nothing"},
        {"values_field": "a..b"},
        {"values_field": ""},
        {"values_field": "a[0]"},
        {"values_field": "a[].b[].c"},
        {"tag_field": "m[].name"},
        {"tag_field": "name", "value_field": "value"},
        {"tag_field": "m[].name", "value_field": "n[].value"},
        {"tag_field": "m[].name", "value_field": "m[].value", "values_field": "m"},
        {"values_field": "m[].x", "time_field": "n[].t"},
        {"entity_field": "n[].host"},
    ],
)
def test_fields_that_cannot_be_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"Input|field|path|array|shape"):
        InputSettings.model_validate(settings)


def test_a_key_with_dots_counts_before_a_path() -> None:
    assert at({"a.b": 1, "a": {"b": 2}}, "a.b") == 1
    assert at({"a": {"b.c": 3}}, "a.b.c") == at({"a.b": {"c": 3}}, "a.b.c") == 3
    assert at({"a": {"b": 2}}, "a.c") is None and at([1], "a") is None


def test_the_names_of_hostile_objects_stay_bounded() -> None:
    document: dict[str, Any] = {}
    for k in range(200):
        document = {"k" * 100: document, f"v{k}": k}
    assert sum(map(len, flat(document))) < 10_000


def test_strict_knows_the_time_and_the_entity_wherever_they_lie() -> None:
    document = {"data": {"ts": T, "a": 1, "b": 2}, "other": 3}
    block = decode([document] * 3, ("a", "b"), values_field="data", time_field="data.ts", strict=True)
    assert len(block) == 3
    rows = [{"id": "x", "ts": T, "a": 1}]
    settings = {"values_field": "[]", "time_field": "[].ts", "entity_field": "[].id"}
    assert decode([rows], ("a",), strict=True, **settings).entities == {0: "x"}
    block = decode([{"data": {"a": 1, "more": 2}}] * 3, ("a",), values_field="data", strict=True)
    assert [reject.reason for reject in block.rejects] == ["unknown-key"] * 3


@pytest.mark.parametrize(
    "settings",
    [
        {"shape": ["x"]},
        {"format": "f32", "shape": "telegraf"},
        {"values_field": "m.[].x"},
        {"values_field": "m[]x"},
    ],
)
def test_more_fields_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"input|Input|shape|path"):
        InputSettings.model_validate(settings)
