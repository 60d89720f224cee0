"""Format `arrow`."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings as budget, strategies as st

from tests.record_blocks import block_of
from worker.blocks import VectorBlock
from worker.decoding import Decoder
from worker.settings import InputSettings

NOW = 1_700_000_000_000  # of tests.record_blocks


def ipc(columns: Mapping[str, Any], *, batches: int = 1, **options: Any) -> bytes:
    batch = pa.record_batch(dict(columns))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for _ in range(batches):
            writer.write_batch(batch)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def decode(values: Sequence[bytes], features: Sequence[str] = ("a", "b"), **settings: Any) -> VectorBlock:
    return Decoder(InputSettings(format="arrow", **settings), features).decode(block_of(values))


def reasons(block: VectorBlock) -> list[tuple[int, str]]:
    return [(reject.record, reject.reason) for reject in block.rejects]


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.float16(), pa.int8(), pa.uint64()])
def test_columns_are_taken_by_name_and_null_is_missing(kind: pa.DataType) -> None:
    b = [np.float16(k) for k in (1, 2)] if kind == pa.float16() else [1, 2]
    columns = {"b": pa.array([*b, None], kind), "other": pa.array(["x", "y", None]), "a": pa.array([4, None, 6])}
    block = decode([ipc(columns), ipc(columns, batches=2)])
    rows = [[4, 1], [np.nan, 2], [6, np.nan]]
    np.testing.assert_array_equal(block.x, np.array(rows * 3, np.float32))
    assert block.record.tolist() == [0] * 3 + [1] * 6 and block.row.tolist() == [*range(3), *range(6)]
    assert block.x.dtype == np.float32 and not block.rejects


def test_a_feature_without_a_column_is_missing() -> None:
    block = decode([ipc({"a": pa.array([1.0])}), ipc({"a": pa.array([1.0]), "b": pa.nulls(1)})])
    assert np.isnan(block.x[:, 1]).all() and len(block) == 2


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.int32(), 2)])
def test_lists_are_rows(kind: pa.DataType) -> None:
    values = pa.array([[1, 2], [3, None], [5, 6]], kind)
    block = decode([ipc({"values": values}), ipc({"values": values.slice(1, 2)})])
    np.testing.assert_array_equal(block.x[:3], np.array([[1, 2], [3, np.nan], [5, 6]], np.float32))
    np.testing.assert_array_equal(block.x[3:], block.x[1:3])


def test_times_are_of_each_row() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
    ms = int(moment.timestamp() * 1000)
    values = [
        ipc({"a": pa.array([1.0, 2.0, 3.0]), "ts": pa.array(times, kind)})
        for times, kind in [
            ([moment, None, moment], pa.timestamp("us", "UTC")),
            ([moment, None, moment], pa.timestamp("ns")),
            ([ms, None, ms], pa.int64()),
            ([ms / 1000, None, ms], pa.float64()),
            ([moment.isoformat(), None, "2026-01-02T03:04:05.678"], pa.string()),
        ]
    ]
    block = decode(values, time_field="ts")
    assert not block.rejects
    assert block.time.reshape(-1, 3).tolist() == [[ms, NOW, ms]] * 5


def test_a_record_is_of_one_entity() -> None:
    a = pa.array([1.0, 2.0])
    names = [
        pa.array(["press", "press"]),
        pa.array(["press", "press"]).dictionary_encode(),
        pa.array([7, 7]),
        pa.array([None, None], pa.string()),
        pa.array(["press", "pump"]),
        pa.array(["x" * 2000] * 2),
        pa.array([1.5, 1.5]),
    ]
    block = decode([ipc({"a": a, "id": name}) for name in names], entity_field="id")
    assert [block.entity_of_record(r) for r in range(4)] == ["press", "press", "7", None]
    assert reasons(block) == [(4, "bad-entity"), (5, "bad-entity"), (6, "bad-entity")]


def test_what_is_wrong_harms_no_neighbour() -> None:
    good = ipc({"a": pa.array([1.0]), "b": pa.array([2.0])})
    one = pa.array([1.0])
    bad = {
        "unparseable": [b"", b"x", b"\0" * 64, good[:-20], good + b"more", good[:40] + b"\xff" * 40 + good[80:]],
        "wrong-type": [ipc({"a": pa.array(["1"])}), ipc({"a": pa.array([True])}), ipc({"values": one})],
        "wrong-length": [ipc({"a": pa.array([], pa.float64())}), ipc({"values": pa.array([[1.0], [1.0, 2.0]])})],
        "infinite": [ipc({"a": pa.array([np.inf])}), ipc({"a": pa.array([1e39])})],
        "unknown-key": [ipc({"c": one}), ipc({"a": pa.nulls(5)})],
    }
    values, expected = [good], []
    for reason, records in bad.items():
        for record in records:
            expected.append((len(values), reason))
            values += [record, good]
    block = decode(values)
    assert reasons(block) == expected
    assert block.x.tolist() == [[1, 2]] * (len(expected) + 1)


def test_a_null_row_a_column_twice_and_a_strict_surplus_are_refused() -> None:
    twice = pa.RecordBatch.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["a", "a"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, twice.schema) as writer:
        writer.write_batch(twice)
    assert reasons(decode([sink.getvalue().to_pybytes()])) == [(0, "wrong-type")]
    assert reasons(decode([ipc({"values": pa.array([[1.0, 2.0], None])})])) == [(0, "wrong-type")]
    surplus = ipc({"a": pa.array([1.0]), "c": pa.array([1.0])})
    assert reasons(decode([surplus], strict=True)) == [(0, "unknown-key")] and not decode([surplus]).rejects


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_buffers_are_refused_dictionaries_included(codec: str) -> None:
    zeros = pa.array(np.zeros(10_000))
    names = pa.array([f"n{k}" for k in range(1000)]).dictionary_encode()
    for columns in ({"a": zeros}, {"a": zeros[:1000], "name": names}):
        (reject,) = decode([ipc(columns, compression=codec)]).rejects
        assert reject.reason == "unparseable" and "compressed" in reject.error


@pytest.mark.parametrize("field, value", [("ts", -1.0), ("ts", 1e13), ("ts", "noon"), ("ts", True)])
def test_a_bad_time_is_one_dead_letter(field: str, value: Any) -> None:
    block = decode(
        [ipc({"a": pa.array([1.0]), field: pa.array([value])}), ipc({"a": pa.array([1.0])})], time_field="ts"
    )
    assert reasons(block) == [(0, "bad-time")] and len(block) == 1


NUMBERS = [pa.float32(), pa.float64(), pa.float16(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8()]
NUMBERS += [pa.uint16(), pa.uint32(), pa.uint64(), pa.null(), pa.bool_()]
TIMES = [pa.int64(), pa.float64(), pa.int32(), *(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns"))]


def column(data: st.DataObject, kind: pa.DataType, n: int) -> pa.Array:
    if pa.types.is_null(kind):
        return pa.nulls(n)
    if pa.types.is_boolean(kind):
        values: Any = st.booleans()
    elif pa.types.is_floating(kind):
        width = kind.bit_width
        values = st.floats(width=width) if width < 64 else st.one_of(st.floats(), st.floats(-1e3, 1e12))
    else:
        bits = 64 if pa.types.is_timestamp(kind) else kind.bit_width
        low = 0 if pa.types.is_unsigned_integer(kind) else -(1 << (bits - 1))
        values = st.one_of(st.integers(low, low + (1 << bits) - 1), st.integers(0, 120))
    drawn = data.draw(
        st.lists(st.one_of(values, st.none()) if data.draw(st.booleans()) else values, min_size=n, max_size=n)
    )
    return pa.array([None if v is None else np.float16(v) for v in drawn] if kind == pa.float16() else drawn, kind)


@budget(max_examples=300, deadline=None)
@given(st.data())
def test_the_loop_gives_what_pyarrow_gives(data: st.DataObject) -> None:
    """Of whatever columns. Of a damaged stream it may take what pyarrow refuses: it does not look at all of it."""
    n = data.draw(st.integers(0, 5))
    columns: dict[str, Any] = {}
    for name in data.draw(st.lists(st.sampled_from(["a", "b", "other"]), unique=True)):
        columns[name] = column(data, data.draw(st.sampled_from(NUMBERS)), n)
    if data.draw(st.booleans()):
        columns["ts"] = column(data, data.draw(st.sampled_from(TIMES)), n)
    if data.draw(st.booleans()):
        same = st.sampled_from([["x"] * n, ["é"] * n, [""] * n, [None] * n])
        columns["id"] = pa.array(data.draw(st.one_of(same, st.lists(st.sampled_from("xy"), min_size=n, max_size=n))))
    if data.draw(st.integers(0, 3)) == 0:
        kind = data.draw(st.sampled_from([pa.list_(pa.float32()), pa.list_(pa.float64(), 2), pa.list_(pa.int8())]))
        rows = [[1.0, float(k)] if data.draw(st.integers(0, 9)) else None for k in range(n)]
        columns["values"] = pa.array(rows, kind)
    if not columns:
        return
    whole = ipc(columns, batches=data.draw(st.integers(1, 2)))
    values = [whole, whole]
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    values += [bytes(damaged), whole, whole[: data.draw(st.integers(0, len(whole)))]]
    strict = data.draw(st.booleans())
    fast, slow = (
        Decoder(InputSettings(format="arrow", time_field="ts", entity_field="id", strict=strict), ("a", "b"))
        for _ in range(2)
    )
    slow._formats["arrow"]._plan = lambda prefix: None  # type: ignore[attr-defined]
    got, want = fast.decode(block_of(values)), slow.decode(block_of(values))
    refused = {reject.record: reject for reject in want.rejects}
    assert {reject.record: reject for reject in got.rejects}.items() <= refused.items()
    both = ~np.isin(got.record, list(refused))
    assert set(got.record[~both].tolist()) <= {2, 4}, "only what was damaged"
    assert got.record[both].tolist() == want.record.tolist()
    np.testing.assert_array_equal(got.x[both], want.x)
    assert got.time[both].tolist() == want.time.tolist()
    names = ({r: name for r, name in each.entities.items() if r not in refused} for each in (got, want))
    assert next(names) == next(names)


def test_a_record_of_too_many_readings_is_refused() -> None:
    """Those of columns that are not there count as well: they would take memory, and no bytes."""
    few = ipc({"a": pa.array(np.zeros(9000, np.int8))})
    features = (*(f"f{k}" for k in range(99)), "a")
    for strange in ({}, {"ts": pa.array([None] * 9000, pa.float16())}):  # by the loop, by pyarrow
        many = ipc({"a": pa.array(np.zeros(9000, np.int8)), **strange})
        block = decode([many, ipc({"a": pa.array([1])})], features, time_field="ts")
        assert reasons(block) == [(0, "wrong-length")] and len(block) == 1
    assert not decode([few]).rejects


@pytest.mark.parametrize(
    "odd",
    [
        pa.array([10**18], pa.timestamp("us")),
        pa.array([123], pa.timestamp("ns")),
        pa.array([1], pa.timestamp("s", "Nowhere/Land")),
    ],
)
def test_training_finds_the_features_whatever_stands_beside_them(odd: pa.Array) -> None:
    records = block_of([ipc({"a": pa.array([1.0]), "odd": odd, "values": pa.array([[1.0]])}), b"no arrow"])
    documents = [document for _, document in Decoder(InputSettings(format="arrow"), ()).documents(records)]
    assert documents == [[{"a": 1.0, "values": [1.0]}]]


@given(st.data())
def test_no_damage_to_a_stream_raises(data: st.DataObject) -> None:
    value = bytearray(ipc({"a": pa.array([1.0, None]), "s": pa.array(["x", None]), "b": pa.array([1, 2])}))
    for _ in range(data.draw(st.integers(1, 4))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    good = ipc({"a": pa.array([1.0])})
    block = decode([good, bytes(value), good], time_field="b", entity_field="s")
    assert {0, 2} <= set(block.record.tolist()) and not np.isinf(block.x).any()
    assert set(block.record.tolist()) | {reject.record for reject in block.rejects} == {0, 1, 2}


def test_other_formats_come_beside_it() -> None:
    headers = {1: [("content-type", b"application/vnd.apache.arrow.stream")]}
    records = block_of([b"[1,2]", ipc({"a": pa.array([3.0, 4.0])}), b"[5,6]"], headers=headers)
    block = Decoder(InputSettings(), ("a", "b")).decode(records)
    assert block.record.tolist() == [0, 1, 1, 2] and block.x[:, 0].tolist() == [1, 3, 4, 5]
