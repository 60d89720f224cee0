"""The input formats, further: each reason, neighbours in every mixture, float32 to the bit, the columns below."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings as budget, strategies as st

from tests.record_blocks import block_of
from worker.blocks import BytesColumn, Headers, RecordBlock, TopicSet, VectorBlock
from worker.decoding import Decoder
from worker.settings import InputSettings

NAN = float("nan")
F32: Headers = [("content-type", b"application/x-f32")]
JSON: Headers = [("content-type", b"application/json; charset=utf-8")]
WHEN = 1_700_000_000_000


def decode(
    values: Sequence[bytes | None],
    features: Sequence[str] = ("a", "b"),
    headers: Mapping[int, Headers] | None = None,
    keys: Sequence[bytes | None] | None = None,
    **settings: object,
) -> VectorBlock:
    return Decoder(InputSettings.model_validate(settings), features).decode(block_of(values, keys, headers, WHEN))


def f32(*readings: float) -> bytes:
    return np.array(readings, "<f4").tobytes()


def reasons(block: VectorBlock) -> list[tuple[int, str]]:
    return [(reject.record, reject.reason) for reject in block.rejects]


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        (b'{"values": [[1, 2]]}', [[1, 2]]),
        (b'{"values": {"a": 1, "b": 2}, "b": 9}', [[1, 2]]),
        (b'{"a": null, "b": 2}', [[NAN, 2]]),
        (b'{"values": {}}', [[NAN, NAN]]),
        (b'{"a": 1, "a": 3, "b": 2}', [[3, 2]]),
        (b"[null, null]", [[NAN, NAN]]),
        (b" [1,\n2 ] ", [[1, 2]]),
        (b"[18446744073709551615, -9223372036854775808]", [[2.0**64, -(2.0**63)]]),
        (b"[3.4028234e38, 1e-400]", [[3.4028234e38, 0]]),
    ],
)
def test_a_shape_of_the_contract_decodes(value: bytes, rows: list[list[float]]) -> None:
    np.testing.assert_array_equal(decode([value]).x, np.array(rows, np.float32))


def test_a_feature_may_be_called_values() -> None:
    np.testing.assert_array_equal(decode([b'{"values": 1, "b": 2}'], ["values", "b"]).x, [[1, 2]])


def test_one_feature_alone_decodes_in_every_shape() -> None:
    values = [b"[1]", b"[[2], [3]]", b'{"a": 4}', b'{"values": [5]}', b'{"values": {"a": 6}}', b"{}"]
    np.testing.assert_array_equal(decode(values, ["a"]).x[:, 0], [1, 2, 3, 4, 5, 6, NAN])


def test_rows_count_within_their_record() -> None:
    block = decode([f32(1, 2, 3, 4), None, f32(5, 6), f32(*range(6))], format="f32")
    assert block.record.tolist() == [0, 0, 2, 3, 3, 3]
    assert block.row.tolist() == [0, 1, 0, 0, 1, 2]
    assert block.nulls == 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"\xff\xfe", "unparseable"),
        (b"[nan, 1]", "unparseable"),
        (b"[NaN, 1] x", "unparseable"),
        (b"[Na, 1]", "unparseable"),
        (b"[-NaN, 1]", "unparseable"),
        (b'{"a": 1, "b": "NaN"}', "wrong-type"),
        (b"[1, 2] x", "unparseable"),
        (b"[1e400, 1]", "unparseable"),
        (b'["\\ud800", 1]', "unparseable"),
        (b"[" * 3000, "unparseable"),
        (b"[1]", "wrong-length"),
        (b"[[1, 2], [3]]", "wrong-length"),
        (b'{"values": [1]}', "wrong-length"),
        (b'{"values": []}', "wrong-length"),
        (b"null", "wrong-type"),
        (b'"text"', "wrong-type"),
        (b"true", "wrong-type"),
        (b"[1, true]", "wrong-type"),
        (b"[false, null]", "wrong-type"),
        (b'[null, "2"]', "wrong-type"),
        (b'{"a": true}', "wrong-type"),
        (b'{"a": "1", "b": 2}', "wrong-type"),
        (b'{"a": [1], "b": 2}', "wrong-type"),
        (b"[[1, 2], null]", "wrong-type"),
        (b"[[[1, 2]], [1, 2]]", "wrong-length"),
        (b"[1e39, null]", "infinite"),
        (b"[Infinity, 1]", "infinite"),
        (b'{"a": NaN, "b": -Infinity}', "infinite"),
        (b'{"a": -3.5e38}', "infinite"),
        (b"[[1, 2], [1e300, 2]]", "infinite"),
    ],
)
def test_a_bad_record_has_its_reason_and_its_neighbours_stay(value: bytes, reason: str) -> None:
    block = decode([b"[5, null]", value, b"[7, 8]"])
    assert reasons(block) == [(1, reason)]
    np.testing.assert_array_equal(block.x, np.array([[5, NAN], [7, 8]], np.float32))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "wrong-length"),
        (f32(1), "wrong-length"),
        (f32(1, 2, 3), "wrong-length"),
        (f32(1, 2)[:-1], "wrong-length"),
        (f32(np.inf, NAN), "infinite"),
        (f32(1, 2, 3, -np.inf), "infinite"),
    ],
)
def test_a_bad_f32_record_has_its_reason_and_its_neighbours_stay(value: bytes, reason: str) -> None:
    block = decode([f32(5, NAN), value, f32(7, 8)], format="f32")
    assert reasons(block) == [(1, reason)]
    np.testing.assert_array_equal(block.x, np.array([[5, NAN], [7, 8]], np.float32))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'{"a": 1, "when": true}', "bad-time"),
        (b'{"a": 1, "when": -1}', "bad-time"),
        (b'{"a": 1, "when": 0}', "bad-time"),
        (b'{"a": 1, "when": 5.5}', "bad-time"),
        (b'{"a": 1, "when": 631151999}', "bad-time"),
        (b'{"a": 1, "when": 4102444800}', "bad-time"),
        (b'{"a": 1, "when": 100000000000}', "bad-time"),  # 1973, if these are milliseconds
        (b'{"a": 1, "when": 1e14}', "bad-time"),
        (b'{"a": 1, "when": 5e18}', "bad-time"),
        (b'{"a": 1, "when": 9223372036854775808}', "bad-time"),
        (b'{"a": 1, "when": NaN}', "bad-time"),
        (b'{"a": 1, "when": "0"}', "bad-time"),
        (b'{"a": 1, "when": "soon"}', "bad-time"),
        (b'{"a": 1, "when": "1970-01-01"}', "bad-time"),
        (b'{"a": 1, "when": "1759123412345"}', None),  # as a date without dashes it would be of the year 1759
        (b'{"a": 1, "when": {}}', "bad-time"),
        (b'{"a": 1, "who": 1.5}', "bad-entity"),
        (b'{"a": 1, "who": false}', "bad-entity"),
        (b'{"a": 1, "who": {"id": 1}}', "bad-entity"),
    ],
)
def test_a_field_that_is_none_is_a_dead_letter(value: bytes, reason: str | None) -> None:
    block = decode([value, b"[1, 2]"], entity_field="who", time_field="when")
    assert reasons(block) == ([] if reason is None else [(0, reason)])
    assert block.time.tolist()[-1] == WHEN


def test_the_entity_is_that_of_the_payload_else_the_key_else_none() -> None:
    values = [b'{"who": "press", "a": 1}', b'{"who": 7}', b'{"who": null}', b"[1, 2]", b"[1, 2]", b"[1, 2]"]
    block = decode(values, keys=[b"k0", b"k1", b"k2", b"k3", None, b"\xff"], entity_field="who")
    assert [block.entity(i) for i in range(6)] == ["press", "7", "k2", "k3", None, "\ufffd"]


def test_strict_allows_features_and_named_fields_only() -> None:
    fine = [b'{"a": 1, "who": "x", "when": 1700000000}', b'{"values": {"a": 1}, "who": "x"}', b"[1, 2]"]
    block = decode([*fine, b'{"a": 1, "z": null}'], strict=True, entity_field="who", time_field="when")
    assert reasons(block) == [(3, "unknown-key")]


def test_content_types_alternate_and_the_order_stays() -> None:
    values = [f32(i, i) if i % 2 else b"[%d, %d]" % (i, i) for i in range(20)]
    block = decode(values, headers={i: F32 if i % 2 else JSON for i in range(20)})
    assert block.x[:, 0].tolist() == block.record.tolist() == list(range(20))


@pytest.mark.parametrize("kind", [b"text/plain", b"application/octet-stream", b"f32", b'"application/json"', b""])
def test_the_content_type_may_be_ignored(kind: bytes) -> None:
    block = decode([b"[1, 2]"], headers={0: [("content-type", kind)]}, ignore_content_type=True)
    assert reasons(block) == []
    assert block.x.tolist() == [[1, 2]]


@pytest.mark.parametrize("kind", [b"avro/binary", b"", b"application/jsonx", b"\xff"])
def test_an_unknown_content_type_costs_only_its_record(kind: bytes) -> None:
    block = decode([b"[1, 1]", b"[2, 2]", b"[3, 3]"], headers={1: [("other", b"1"), ("CONTENT-TYPE", kind)]})
    assert reasons(block) == [(1, "unknown-content-type")]
    assert block.x[:, 0].tolist() == [1, 3]


def test_headers_without_a_content_type_leave_the_format() -> None:
    assert decode([f32(1, 2)], headers={0: [("trace", b"json")]}, format="f32").x.tolist() == [[1, 2]]


def test_a_block_without_good_records_is_empty_and_has_the_width() -> None:
    block = decode([b"x", None, b"[1]"])
    assert (block.x.shape, len(block), block.nulls, len(block.rejects)) == ((0, 2), 0, 1, 2)


def test_no_records_at_all_are_an_empty_block() -> None:
    block = decode([])
    assert (block.x.shape, block.nulls, list(block.rejects)) == ((0, 2), 0, [])


number = st.one_of(st.none(), st.floats(-3e38, 3e38), st.integers(-(2**63), 2**64 - 1))
row = st.lists(number, min_size=2, max_size=2)
good_json = st.one_of(
    row,
    st.lists(row, min_size=1, max_size=3),
    st.fixed_dictionaries({"values": st.lists(row, min_size=1, max_size=2)}),
    st.fixed_dictionaries({}, optional={"a": number, "b": number, "note": st.sampled_from(["true", False, 1])}),
).map(lambda doc: (orjson.dumps(doc), JSON))
reading = st.one_of(st.just(NAN), st.floats(width=32, allow_infinity=False, allow_nan=False))
good_f32 = st.lists(st.tuples(reading, reading), min_size=1, max_size=3).map(
    lambda rows: (np.array(rows, "<f4").tobytes(), F32)
)
bad = st.sampled_from(
    [
        (b"{", JSON),
        (b"[true, 1]", JSON),
        (b'["false", 1]', JSON),
        (b"[1e39, 0]", JSON),
        (b"[[1, 2], [null, 1e39]]", JSON),
        (b"[1, 2, 3]", JSON),
        (b'{"a": [1]}', JSON),
        (b"\0", F32),
        (f32(1, np.inf), F32),
        (b"", F32),
        (b"[1, 2]", [("content-type", b"text/plain")]),
    ]
)


@budget(max_examples=150, deadline=None)
@given(st.lists(st.one_of(good_json, good_f32, bad.map(lambda b: (*b, "bad"))), min_size=1, max_size=10))
def test_good_records_among_bad_ones_decode_as_they_would_alone(drawn: list[tuple]) -> None:  # type: ignore[type-arg]
    together = decode([d[0] for d in drawn], headers={i: d[1] for i, d in enumerate(drawn)})
    assert [reject.record for reject in together.rejects] == [i for i, d in enumerate(drawn) if len(d) == 3]
    for i, (value, header, *_) in enumerate(drawn):
        alone = decode([value], headers={0: header})
        mine = together.record == i
        assert together.x[mine].tobytes() == alone.x.tobytes()
        assert together.row[mine].tolist() == list(range(len(alone)))
    assert (np.diff(together.record) >= 0).all()


@budget(max_examples=200, deadline=None)
@given(st.lists(st.lists(number, min_size=3, max_size=3), min_size=1, max_size=4))
def test_json_numbers_become_the_float32_that_numpy_makes_of_them(rows: list[list[float | None]]) -> None:
    text = orjson.dumps(rows)
    expected = np.array(orjson.loads(text), np.float64).astype(np.float32)
    assert decode([text], "abc").x.tobytes() == expected.tobytes()


@budget(max_examples=100, deadline=None)
@given(st.binary(max_size=40), st.sampled_from(["json", "f32"]))
def test_no_bytes_at_all_make_the_decoder_fail(value: bytes, kind: str) -> None:
    block = decode([value], format=kind)
    assert bool(len(block)) != bool(block.rejects)
    assert not np.isinf(block.x).any()


items = st.lists(st.one_of(st.none(), st.binary(max_size=6)), max_size=6)


@budget(max_examples=60, deadline=None)
@given(items)
def test_a_column_gives_back_its_items(given_items: list[bytes | None]) -> None:
    column = BytesColumn.of(given_items)
    assert [column[i] for i in range(len(column))] == given_items
    assert [bytes(column.view(i)) for i in range(len(column))] == [item or b"" for item in given_items]


@budget(max_examples=60, deadline=None)
@given(st.lists(items, min_size=1, max_size=4), st.data())
def test_concatenated_blocks_keep_every_record(parts: list[list[bytes | None]], data: st.DataObject) -> None:
    blocks, expected = [], []
    for part in parts:
        marked = data.draw(st.sets(st.sampled_from(range(len(part))))) if part else set()
        headers: dict[int, Headers] = {i: [("h", b"%d" % i)] for i in marked}
        blocks.append(block_of(part, keys=part[::-1], headers=headers))
        expected += [(v, k, headers.get(i)) for i, (v, k) in enumerate(zip(part, part[::-1], strict=True))]
    whole = RecordBlock.concat(blocks)
    records = zip(whole.values, whole.keys, range(len(whole)), strict=True)
    assert [(v, k, whole.headers.get(i)) for v, k, i in records] == expected


def test_concatenated_blocks_decode_as_their_parts() -> None:
    parts = [block_of([f32(1, 2), b"x"]), block_of([None, f32(3, 4, 5, 6)]), block_of([f32(7, 8)])]
    decoder = Decoder(InputSettings(format="f32"), ["a", "b"])
    whole = decoder.decode(RecordBlock.concat(parts))
    np.testing.assert_array_equal(whole.x, np.concatenate([decoder.decode(part).x for part in parts]))
    assert (whole.record.tolist(), whole.nulls, reasons(whole)) == ([0, 3, 3, 4], 1, [(1, "wrong-length")])


def test_the_ends_are_those_of_each_partition() -> None:
    n = BytesColumn.of([b""] * 4)
    block = RecordBlock(
        TopicSet.of("t"), np.array([2, 2, 0, 0]), np.array([5, 9, 1, 2]), np.zeros(4, np.int64), n, n, {}
    )
    assert block.ends() == {2: 10, 0: 3}


def test_nan_is_a_missing_reading_in_every_shape() -> None:
    """As Python's json.dumps, pandas and JavaScript write it."""
    values = [
        b"[NaN, 1]",
        b'{"a": NaN, "b": 1}',
        b'{"a":NaN,"b":1}',
        b'{"values": [[NaN, 1]]}',
        b'{"b": 1, "a": NaN}',
        b'{"a": NaN, "b": 1, "c": NaN, "d": "\\u00e4"}',
    ]
    block = decode(values)
    assert reasons(block) == []
    np.testing.assert_array_equal(block.x, np.array([[NAN, 1]] * len(values), np.float32))


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b'{"a": 1, "b": "12,5"}', "b: the reading is no number but str '12,5'"),
        (b'[1, "on"]', "b: the reading is no number but str 'on'"),
        (b'{"a": true, "b": 2}', "a: the reading is no number but bool True"),
        (b'{"a": 1, "b": 1e39}', "b: the reading is infinite in float32"),
    ],
)
def test_a_refused_reading_is_told_with_its_sensor_and_its_value(value: bytes, error: str) -> None:
    (reject,) = decode([value]).rejects
    assert reject.error == error


DEEP = b"[" * 980 + b"]" * 980
MANY = b"1" * 5000


@pytest.mark.parametrize(
    ("hostile", "settings"),
    [
        (b'{"a":1,"b":2,"z":%s}' % DEEP, {}),
        (b'{"a":%s,"b":2}' % DEEP, {}),
        (b'{"a":NaN,"b":1%s}' % (b"0" * 400), {}),
        (b'{"a":1,"b":2,"ts":%s}' % DEEP, {"time_field": "ts"}),
        (b'{"a":1,"b":2,"ts":"%s"}' % MANY, {"time_field": "ts"}),
        (b'{"a":1,"b":2,"ts":%s}' % MANY, {"time_field": "ts"}),
        (b'{"a":1,"b":2,"e":%s}' % DEEP, {"entity_field": "e"}),
        (b'{"a":"%s","b":%s}' % (MANY, DEEP), {"coerce": True}),
        (b'{"m":[{"n":"a","v":%s}]}' % DEEP, {"tag_field": "m[].n", "value_field": "m[].v"}),
        (b'{"m":[{"x":%s}]}' % DEEP, {"values_field": "m[].x"}),
        (b'{"a":1,"b":2,"z":%s}' % DEEP, {"strict": True}),
        (b'{"a":1,"b":2,"z":%s1%s}' % (b'{"k":' * 900, b"}" * 900), {"strict": True}),
        (b"%s1%s" % (b'{"values":' * 900, b"}" * 900), {}),
        (b"%s1%s" % (b"[" * 1500, b"]" * 1500), {}),
    ],
)
def test_a_hostile_record_is_a_record_or_a_reject_and_harms_no_other(hostile: bytes, settings: dict[str, Any]) -> None:
    block = decode([hostile], **settings)
    assert len(block) + len(block.rejects) == 1
    if not settings:
        good = [b'{"a":1,"b":2}', b"[1,2]"] * 3
        mixed = decode([*good, hostile, *good])
        assert {int(r) for r in mixed.record} >= {*range(6), *range(7, 13)}
