"""Records with readings of single tags."""

import json
import math
from typing import Any

import numpy as np
import pytest

from tests.record_blocks import block_of
from worker.blocks.reading_block import ReadingBlock
from worker.decoding import Decoder
from worker.decoding.dead_letter_reasons import BAD_ENTITY, BAD_TIME, INFINITE, WRONG_LENGTH, WRONG_TYPE, Refused
from worker.decoding.event_time import milliseconds
from worker.settings import InputSettings

T = 1_795_888_000  # seconds
TAGS = ("heat", "speed")
ONE = {"shape": "readings", "step": "1s"}
MANY = {
    "align": True,
    "step": "1s",
    "tag_field": "m[].id",
    "value_field": "m[].v",
    "time_field": "m[].t",
    "quality_field": "m[].q",
    "entity_field": "line",
}


def decode(documents: list[Any], **settings: Any) -> ReadingBlock:
    values = [document if isinstance(document, bytes) else json.dumps(document).encode() for document in documents]
    return Decoder(InputSettings.model_validate(settings), TAGS).readings(block_of(values))


def rows(block: ReadingBlock) -> list[tuple[int, int, float | None, int]]:
    values = [None if math.isnan(value) else value for value in block.value.tolist()]
    return list(zip(block.record.tolist(), block.column.tolist(), values, block.time.tolist(), strict=True))


def reading(**fields: Any) -> dict[str, Any]:
    return {"tag": "heat", "value": 1.5, "time": T, **fields}


def test_a_reading_a_record() -> None:
    block = decode(
        [reading(), reading(tag="speed", value=2), reading(tag="other", value="on"), reading(value=None)], **ONE
    )
    assert rows(block) == [(0, 0, 1.5, T * 1000), (1, 1, 2, T * 1000), (2, -1, None, T * 1000), (3, 0, None, T * 1000)]
    assert (block.rejects, block.timed) == ([], 4)


def test_values_of_one_tag_and_values_named_by_their_type() -> None:
    """AWS IoT SiteWise: the tag lies beside the array, and a value in an object of one field."""
    told = [("GOOD", {"doubleValue": 1.5}), ("GOOD", {"integerValue": 2}), ("BAD", {"doubleValue": 3}), ("GOOD", None)]
    values = [
        {"timestamp": {"timeInSeconds": T + k, "offsetInNanos": 250_000_000}, "quality": quality, "value": value}
        for k, (quality, value) in enumerate(told)
    ]
    payload = {"assetId": "pump", "propertyId": "speed", "values": values}
    text = {"payload": payload | {"propertyId": "name", "values": [{"value": {"stringValue": "x"}}]}}
    block = decode([{"type": "PropertyValueUpdate", "payload": payload}, text], shape="sitewise", step="1s")
    assert rows(block)[:4] == [(0, 1, value, (T + k) * 1000 + 250) for k, value in enumerate((1.5, 2, None, None))]
    assert block.entity_of_record(0) == "pump" and not block.rejects


@pytest.mark.parametrize(
    "when",
    [
        {}, {"timeInSeconds": None}, {"timeInSeconds": "x"}, {"timeInSeconds": 1e9}, {"timeInSeconds": 5},
        {"timeInSeconds": T, "offsetInNanos": -1}, {"timeInSeconds": T, "offsetInNanos": 10**9},
        {"timeInSeconds": T, "offsetInNanos": "y"}, {"timeInSeconds": T, "offsetInNanos": []},
        {"timeInSeconds": T, "offsetInNanos": float("inf")},
        {"timeInSeconds": T, "zone": "CET"}, {"seconds": "9" * 5000}, {"seconds": "9" * 99},
    ],
)  # fmt: skip
def test_an_object_that_is_no_time_is_refused(when: Any) -> None:
    with pytest.raises(Refused):
        milliseconds(when)  # Avro and Protobuf have infinite numbers
    if float("inf") not in when.values():
        (reject,) = decode([reading(time=when)], **ONE).rejects
        assert reject.reason == BAD_TIME


def test_only_an_object_that_names_a_type_is_a_reading() -> None:
    block = decode([reading(value={"doubleValue": 2}), reading(value={"Code": 3}), reading(value={"x": 1})], **ONE)
    assert rows(block) == [(0, 0, 2, T * 1000)]
    assert [reject.reason for reject in block.rejects] == [WRONG_TYPE] * 2


def test_an_array_of_readings_each_with_a_time_of_its_own() -> None:
    metrics = [{"id": "speed", "v": 7, "t": T}, {"id": "heat", "v": 8, "t": T - 5}, {"id": "heat", "v": 9}]
    block = decode([{"line": "A", "m": metrics}], **MANY)
    times = [T * 1000, (T - 5) * 1000, int(block.records.timestamp[0])]
    assert rows(block) == [(0, 1, 7, times[0]), (0, 0, 8, times[1]), (0, 0, 9, times[2])]
    assert block.entities == {0: "A"}


@pytest.mark.parametrize(
    "quality, is_good",
    [
        (None, True),
        ("Good", True),
        ("GOOD_LOCAL", True),
        (192, True),
        (216, True),
        (True, True),
        ({"Symbol": "Good"}, True),
    ]
    + [("OK", True), ("192", True), ({"Code": 0}, True), ("0", False), ([[]], False), ({"Code": [1]}, False)]
    + [("Bad", False), ("Uncertain", False), (0, False), (64, False), (False, False), ({"Code": 2150694912}, False)],
)
def test_a_reading_of_bad_quality_is_missing(quality: Any, is_good: bool) -> None:
    assert decode([reading(quality=quality)], **ONE).value.tolist() == pytest.approx(
        [1.5 if is_good else math.nan], nan_ok=True
    )


def test_which_qualities_are_good_may_be_set() -> None:
    documents = [reading(quality=q) for q in (0, "fine", "Good")]
    block = decode(documents, **ONE, good="0,FINE")
    assert np.isnan(block.value).tolist() == [False, False, True]


def test_of_bad_quality_the_value_does_not_matter() -> None:
    assert not decode([reading(value="#ERR", quality="Bad")], **ONE).rejects


@pytest.mark.parametrize(
    "document, reason",
    [
        (reading(value="12"), WRONG_TYPE),
        (reading(value=True), WRONG_TYPE),
        (reading(value=[1]), WRONG_TYPE),
        (reading(value=1e39), INFINITE),
        (reading(value=10**39), INFINITE),
        (reading(time="yesterday"), BAD_TIME),
        (reading(tag=None), WRONG_TYPE),
        ({"value": 1}, WRONG_TYPE),
        ([1, 2], WRONG_TYPE),
        (b"{", "unparseable"),
    ],
)
def test_a_record_that_is_wrong_is_refused_and_no_other(document: Any, reason: str) -> None:
    block = decode([reading(), document, reading()], **ONE)
    assert [(r.record, r.reason) for r in block.rejects] == [(1, reason)]
    assert block.record.tolist() == [0, 2]


@pytest.mark.parametrize(
    "document, reason",
    [
        ({"line": "A", "m": []}, WRONG_LENGTH),
        ({"line": "A", "m": 1}, WRONG_TYPE),
        ({"line": ["A"], "m": [{"id": "heat", "v": 1}]}, BAD_ENTITY),
        ({"line": "A", "m": [{"id": "heat", "v": 1}, {"id": "heat", "v": "x"}]}, WRONG_TYPE),
    ],
)
def test_an_array_is_refused_as_a_whole(document: Any, reason: str) -> None:
    block = decode([document], **MANY)
    assert [r.reason for r in block.rejects] == [reason]
    assert len(block) == 0


def test_text_may_be_a_number_if_so_set() -> None:
    assert decode([reading(value="12,5"), reading(value=True)], **ONE, coerce=True).value.tolist() == [12.5, 1]


def test_vectors_with_some_of_the_features_may_be_aligned_too() -> None:
    block = decode([{"heat": 1}, {"speed": 2}, {"heat": 3, "speed": 4}], align=True, step="1s")
    assert [row[:3] for row in rows(block)] == [(0, 0, 1), (1, 1, 2), (2, 0, 3), (2, 1, 4)]


@pytest.mark.parametrize(
    "settings, error",
    [
        ({"shape": "readings"}, "align needs step"),
        ({"tag_field": "tag", "value_field": "value"}, "needs align"),
        ({"hold": "1m"}, "hold: only with align"),
        ({"align": True, "step": "1s", "quality_field": "q"}, "quality_field needs tag_field"),
        ({**ONE, "lateness": "2m"}, "at most 60 steps"),
        ({**ONE, "hold": "100ms"}, "at least a step"),
        ({**ONE, "format": "f32"}, "for documents"),
    ],
)
def test_settings_that_do_not_fit_are_told(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        InputSettings.model_validate(settings)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"tag": "heat", "value": 1' + b"0" * 400 + b', "x": NaN}', INFINITE),
        (b'{"tag": "heat", "value": 1, "line": "\\ud800", "x": NaN}', BAD_ENTITY),
        (b'{"tag": "heat", "value": 1, "quality": ' + b"[" * 900 + b"]" * 900 + b"}", None),
        (b'{"tag": "heat", "value": ' + b"[" * 900 + b"]" * 900 + b"}", WRONG_TYPE),
        (b'{"tag": ' + b"[" * 900 + b"]" * 900 + b', "value": 1}', WRONG_TYPE),
    ],
)
def test_hostile_records_are_refused_and_end_nothing(text: bytes, reason: str | None) -> None:
    block = decode([text, reading()], **ONE, entity_field="line")
    assert [r.reason for r in block.rejects] == ([reason] if reason else [])
