"""The input formats: every shape of the contract, every reason to refuse, and neighbours that do not notice."""

import numpy as np
import orjson
import pytest
from hypothesis import given, settings as budget, strategies as st

from tests.record_blocks import block_of
from worker.blocks import BytesColumn, RecordBlock, VectorBlock
from worker.decoding import Decoder
from worker.settings import InputSettings

NAN = float("nan")


def decode(values: list[bytes | None], headers=None, keys=None, **settings: object) -> VectorBlock:  # type: ignore[no-untyped-def]
    return Decoder(InputSettings(**settings), ["a", "b"]).decode(block_of(values, keys, headers))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        (b"[1, 2]", [[1, 2]]),
        (b"[1, null]", [[1, NAN]]),
        (b"[[1, 2], [3, 4]]", [[1, 2], [3, 4]]),
        (b'{"b": 2, "a": 1}', [[1, 2]]),
        (b'{"a": 1, "other": "x"}', [[1, NAN]]),
        (b'{"values": [1, 2], "id": 7}', [[1, 2]]),
        (b'{"values": [[1, 2], [3, null]]}', [[1, 2], [3, NAN]]),
        (b'{"values": {"b": 2}}', [[NAN, 2]]),
        (b"{}", [[NAN, NAN]]),
        (b"[123456789012345678901234567890, -0.0]", [[1.2345679e29, -0.0]]),
    ],
)
def test_json_shapes(value: bytes, rows: list[list[float]]) -> None:
    block = decode([value])
    np.testing.assert_array_equal(block.x, np.array(rows, np.float32))
    assert block.row.tolist() == list(range(len(rows)))
    assert not block.rejects


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "unparseable"),
        (b"[1,", "unparseable"),
        (b"[1, 2, 3]", "wrong-length"),
        (b"[]", "wrong-length"),
        (b"[[]]", "wrong-length"),
        (b'["1", 2]', "wrong-type"),
        (b"[true, 2]", "wrong-type"),
        (b"[[1, 2], 3]", "wrong-type"),
        (b"[{}, 2]", "wrong-type"),
        (b"7", "wrong-type"),
        (b"[1e39, 1]", "infinite"),
        (b"[[1, 2], [1, -1e39]]", "infinite"),
    ],
)
def test_json_refused(value: bytes, reason: str) -> None:
    block = decode([b"[5, 6]", value, b"[7, 8]"])
    assert [(r.record, r.reason) for r in block.rejects] == [(1, reason)]
    np.testing.assert_array_equal(block.x, [[5, 6], [7, 8]])
    assert block.record.tolist() == [0, 2]


def test_f32_rows_and_refusals() -> None:
    good = np.array([[1, 2], [3, np.nan]], "<f4").tobytes()
    block = decode([good, good[:-1], b"", np.array([np.inf, 1], "<f4").tobytes(), good[:8]], format="f32")
    np.testing.assert_array_equal(block.x, np.array([[1, 2], [3, NAN], [1, 2]], np.float32))
    assert block.record.tolist() == [0, 0, 4]
    assert [(r.record, r.reason) for r in block.rejects] == [(1, "wrong-length"), (2, "wrong-length"), (3, "infinite")]


def test_a_header_overrides_the_format_and_the_order_stays() -> None:
    raw = np.array([9, 9], "<f4").tobytes()
    named = {
        1: [("content-type", b"f32")],
        3: [("Content-Type", b"application/x-f32; v=1")],
        4: [("content-type", b"x")],
    }
    block = decode([b"[1, 1]", raw, b"[2, 2]", raw, b"[3, 3]"], headers=named)
    assert block.x[:, 0].tolist() == [1, 9, 2, 9]
    assert block.record.tolist() == [0, 1, 2, 3]
    assert [(r.record, r.reason) for r in block.rejects] == [(4, "unknown-content-type")]


def test_null_values_are_skipped_and_counted() -> None:
    block = decode([None, b"[1, 2]", None])
    assert (len(block), block.nulls, list(block.rejects)) == (1, 2, [])


def test_strict_refuses_unknown_keys() -> None:
    values: list[bytes | None] = [b'{"a": 1, "b": 2, "c": 3}', b'{"values": {"a": 1, "z": 1}}', b'{"a": 1}']
    block = decode(values, strict=True)
    assert [r.reason for r in block.rejects] == ["unknown-key"] * 2
    assert len(block) == 1


def test_entity_and_time_from_the_payload_else_from_the_record() -> None:
    values: list[bytes | None] = [
        b'{"a": 1, "b": 2, "at": 1700000001, "who": "press"}',
        b'{"a": 1, "b": 2, "at": "2023-11-14T22:13:20.5Z"}',
        b'{"a": 1, "b": 2, "at": "noon"}',
        b'{"a": 1, "b": 2, "who": []}',
        b"[1, 2]",
    ]
    block = decode(values, keys=[b"key"] * 5, entity_field="who", time_field="at")
    assert [block.entity(i) for i in range(3)] == ["press", "key", "key"]
    assert block.time.tolist() == [1_700_000_001_000, 1_700_000_000_500, 1_700_000_000_000]
    assert [r.reason for r in block.rejects] == ["bad-time", "bad-entity"]


number = st.one_of(st.floats(allow_nan=False, allow_infinity=False, width=32), st.integers(-(2**62), 2**62), st.none())
record = st.one_of(
    st.lists(number, min_size=2, max_size=2).map(orjson.dumps),
    st.lists(st.lists(number, min_size=2, max_size=2), min_size=1, max_size=3).map(orjson.dumps),
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.one_of(number, st.booleans(), st.text())).map(orjson.dumps),
    st.binary(max_size=12),
    st.sampled_from([b"[true, 1]", b'["x", 1]', b"[1e39, 0]", b"[1, 2, 3]", b"null"]),
)


@budget(max_examples=200, deadline=None)
@given(st.lists(record, min_size=1, max_size=8))
def test_a_record_decodes_as_it_would_alone(values: list[bytes | None]) -> None:
    together = decode(values)
    for i, value in enumerate(values):
        alone = decode([value])
        np.testing.assert_array_equal(together.x[together.record == i], alone.x)
        assert [r.reason for r in together.rejects if r.record == i] == [r.reason for r in alone.rejects]
        assert bool(len(alone)) != bool(alone.rejects), "a record is atomic: rows or a reject"


@budget(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.one_of(st.none(), st.binary(max_size=5)), max_size=5), min_size=1, max_size=4))
def test_columns_keep_their_items(parts: list[list[bytes | None]]) -> None:
    columns = [BytesColumn.of(part) for part in parts]
    assert list(BytesColumn.concat(columns)) == [item for part in parts for item in part]


def test_blocks_concatenated_keep_their_headers() -> None:
    first = block_of([b"1", b"2"], headers={1: [("h", b"x")]})
    both = RecordBlock.concat([first, first])
    assert dict(both.headers) == {1: [("h", b"x")], 3: [("h", b"x")]}
    assert both.ends() == {0: 2}
