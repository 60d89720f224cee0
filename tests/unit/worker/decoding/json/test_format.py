"""The compiled JSON loop against orjson: equal to the last bit, and error for error, whatever it takes for itself."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings as budget, strategies as st

from tests.record_blocks import block_of
from worker.blocks import VectorBlock
from worker.decoding.decoder import _join
from worker.decoding.documents import Documents
from worker.decoding.format import FeatureSchema
from worker.decoding.json.format import Json, load

FEATURES = ("a", "b", "c")


def decode(form: Any, values: Sequence[bytes], *more: Any) -> tuple[VectorBlock, int]:
    """-> the block, and how many records the first part of it has."""
    records = block_of(values)
    parts = form.decode(records.values, np.arange(len(values)), *more)
    return _join(records, parts, [], 3, 0, {}), len(parts[0].records)


def check(values: Sequence[bytes], features: Sequence[str] = FEATURES, **options: Any) -> int:
    """Both ways give the same; -> how many records the compiled loop took, when it had seen the like before."""
    schema = FeatureSchema(features, **options)
    form = Json(schema)
    want, _ = decode(Documents(schema), values, load)
    for _ in range(2):
        got, taken = decode(form, values)
        assert got.record.tolist() == want.record.tolist()
        missing = np.isnan(want.x)
        assert np.isnan(got.x).tolist() == missing.tolist()
        assert got.x[~missing].view(np.uint32).tolist() == want.x[~missing].view(np.uint32).tolist()
        assert got.time.tolist() == want.time.tolist()
        assert dict(got.entities) == dict(want.entities)
        assert list(got.rejects) == list(want.rejects)
    return taken


def objects(rows: Sequence[Sequence[float]], separators: tuple[str, str] = (",", ":")) -> list[bytes]:
    return [
        json.dumps(
            {"id": f"s-{k}", "ts": k, "ok": True, **dict(zip(FEATURES, row, strict=True))}, separators=separators
        ).encode()
        for k, row in enumerate(rows)
    ]


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_what_one_program_writes_is_taken_whole(separators: tuple[str, str]) -> None:
    rows = np.random.default_rng(0).normal(size=(50, 3)).tolist()
    assert check(objects(rows, separators)) == 50
    assert check([json.dumps(row, separators=separators).encode() for row in rows]) == 50
    assert check([json.dumps({"id": "x", "values": row}, separators=separators).encode() for row in rows]) == 50


def test_one_unusual_record_costs_the_others_nothing() -> None:
    values = objects(np.random.default_rng(0).normal(size=(40, 3)).tolist())
    values[7] = b'{"c": 1, "a": 2, "b": 3}'
    values[20] = b"{"
    assert check(values) == 38


def test_another_program_is_learned_from() -> None:
    form = Json(FeatureSchema(FEATURES))
    # Keys are read eight bytes at a time: not the last one before the end of the buffer.
    assert decode(form, [b'{"a":1,"b":2,"c":3}'] * 9)[1] == 8
    assert decode(form, [b'{"c":1,"x":"y","b":2}'] * 9)[1] == 8


NUMBERS = [
    *["0", "-0", "-0.0", "0.0", "0e0", "1e5", "1E+5", "1e-5", "-1.5e-3", "123456789012345678", "0.1", "1e22", "1e23"],
    *["1e38", "3.4028234e38", "3.4028235677973366e38", "3.4028236e38", "1e39", "-1e39", "1e308", "1e309", "1e400"],
    *["1.17549435e-38", "1.1754942e-38", "1e-40", "1.4e-45", "7e-46", "1e-400", "5e-324"],
    *["16777217", "16777219", "33554434.5", "9007199254740993", "18446744073709551615", "18446744073709551616"],
    *["1.00000005960464477539062500", "1.0000000596046448", "1.00000005960464478", "0.30000001192092896"],
    *["01", "-01", "1.", ".5", "+1", "-", "1e", "1e+", "--1", "1.2.3", "0x10", "1_0", "NaN", "Infinity", "nul", "null"],
    *["true", "false", '"1"', "[]", "[1]", "{}", "", " 1 ", "1\t", "\n1", "\x0b1", "1\x00", "1 2"],
]


@pytest.mark.parametrize("number", NUMBERS)
def test_each_number(number: str) -> None:
    check([f"[1,{number},3]".encode(), f'{{"a":1,"b":{number},"c":3}}'.encode()] * 2)
    check([f'{{"a":1,"b":{number},"c":3}}'.encode()] * 4)
    check([f'{{"id":{number},"values":[1,2,3]}}'.encode()] * 4)
    check([f'{{"t":{number},"values":[1,2,3]}}'.encode()] * 4, time_field="t")


@budget(max_examples=300, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3), st.integers(0, 25))
def test_numbers_between_two_float32(row: list[float], digits: int) -> None:
    """Where rounding is in doubt: the middle between a number and the next one, and a little beside it."""
    middles = [(float(v) + float(np.nextafter(np.float32(v), np.float32(np.inf)))) / 2 for v in row]
    texts = [[repr(m) for m in middles], [f"{m:.{digits}e}" for m in middles], [f"{m:.{digits}f}" for m in middles]]
    check([f"[{','.join(each)}]".encode() for each in texts])


SHORT = st.from_regex(r"-?(0|[1-9][0-9]{0,6})(\.[0-9]{1,7})?(e-?[0-9])?", fullmatch=True)
ANYTHING = st.text('-+.eE0123456789 ,]}"/:', max_size=10)


@budget(max_examples=1000, deadline=None)
@given(st.lists(st.one_of(SHORT, SHORT, SHORT, ANYTHING), min_size=3, max_size=3), st.sampled_from(["", " ", "  "]))
def test_short_numbers_and_what_looks_like_them(numbers: list[str], space: str) -> None:
    """They are read eight bytes at a time, where there are as many: so there is something behind them."""
    after = b"[1.5,2.5,3.5]"
    check([f"[{f',{space}'.join(numbers)}]".encode(), after] * 2)
    texts = [f'"{name}":{space}{number}' for name, number in zip(FEATURES, numbers, strict=True)]
    check([f"{{{f',{space}'.join(texts)}}}".encode(), after] * 2)


@pytest.mark.parametrize(
    "value",
    [
        b'{"values":[1,2]}',
        b'{"values":[1,2,3,4]}',
        b'{"values":[[1,2,3],[4,5,6]]}',
        b'{"values":{"a":1,"b":2}}',
        b'{"values":null}',
        b'{"values":[1,2,3],"values":[4,5,6]}',
        b'{"values":[1,2,3]}x',
        b'{"values":[1,2,3}',
        b'{"values" [1,2,3]}',
        b'{"id":"a\\u0041","values":[1,2,3]}',
        b'{"id":"\xc3\xbc","values":[1,2,3]}',
        b'{"id":"\xff","values":[1,2,3]}',
        b'{"id":"a\nb","values":[1,2,3]}',
        b'{"id":tru,"values":[1,2,3]}',
        b'{"id":{"x":[1]},"values":[1,2,3]}',
        b'{"a":1,"a":5,"b":2,"c":3}',
        b'{"\\u0061":1,"b":2,"c":3}',
        b'{"a":1,"c":3}',
        b"{}",
        b"[]",
        b"[[]]",
        b"",
        b" ",
        b" \t[1 , 2 ,3 ]\r\n",
        b"[1,2,3],",
        b"[1 2 3]",
        b"\xef\xbb\xbf[1,2,3]",
        b"\0\0\0\0\7[1,2,3]",
        b'\0\0\0\0\7{"c":3,"b":2,"a":1}',
        b"\0\0\0\0\7\0\0\0\0\7[1,2,3]",
        b"\0\xff[1,2,3]",
        b"null",
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_odd_documents(value: bytes, strict: bool) -> None:
    check([b'{"id":"x","values":[1,2,3]}', value, b"[4,5,6]"] * 2, strict=strict)
    check([value] * 3, strict=strict)


def test_fields_for_entity_and_time() -> None:
    values = [
        b'{"e":"m1","t":1700000000.25,"a":1,"b":2,"c":3}',
        b'{"e":"","t":1700000000123,"a":1,"b":2,"c":3}',
        b'{"e":7,"t":null,"a":1,"b":2,"c":3}',
        b'{"e":null,"t":"2024-01-01T00:00:00Z","a":1,"b":2,"c":3}',
        b'{"e":"x","t":-1,"a":1,"b":2,"c":3}',
        b'{"e":[1],"t":1e10,"a":1,"b":2,"c":3}',
        b'{"e":"m2","t":99999999999,"a":1,"b":2,"c":3}',
        b'{"e":"m2","t":100000000000.5,"a":1,"b":2,"c":3}',
        b'{"e":"m2","t":1e14,"a":1,"b":2,"c":3}',
    ]
    check(values, entity_field="e", time_field="t")
    check(values, entity_field="a", time_field="b")
    check(values, entity_field="t", time_field="t")


def test_a_feature_may_be_called_values() -> None:
    check([b'{"a":1,"values":2,"c":3}', b'{"values":[1,2,3]}'] * 2, features=("a", "values", "c"))


@budget(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3), min_size=3),
    st.integers(0, 10**6),
    st.integers(0, 255),
    st.booleans(),
)
def test_one_byte_changed_anywhere(rows: list[list[float]], at: int, byte: int, as_object: bool) -> None:
    values = objects(rows) if as_object else [json.dumps({"id": 1, "values": row}).encode() for row in rows]
    damaged = bytearray(values[0])
    damaged[at % len(damaged)] = byte
    check([bytes(damaged), *values], entity_field="id", time_field="ts")


NAMES = st.sampled_from(["a", "b", "c", "x.a", "x", "fields", "values", "payload", "schema", "t", "host", "y.t"])
LEAVES = st.one_of(st.integers(-9, 9), st.none(), st.booleans(), st.sampled_from(["", "web", "\u00fc"]), st.just([]))
DOCUMENTS = st.dictionaries(
    NAMES, st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, max_size=4), max_leaves=6), max_size=5
)


@budget(max_examples=300, deadline=None)
@given(
    st.lists(DOCUMENTS, min_size=1, max_size=3),
    st.sampled_from([("a", "b", "c"), ("x.a", "fields.b", "c"), ("a", "fields.x.a", "values.b")]),
    st.sampled_from([None, "fields", "x.fields", "values"]),
    st.booleans(),
    st.sampled_from([(",", ":"), (", ", ": ")]),
)
def test_nested_objects(
    documents: list[Any], features: Sequence[str], values_field: str | None, strict: bool, style: tuple[str, str]
) -> None:
    """Whatever the layout was learned from."""
    values = [json.dumps(document, separators=style, ensure_ascii=False).encode() for document in documents]
    fields = {"values_field": values_field, "time_field": "y.t", "entity_field": "x.host"}
    check([value for value in values for _ in range(3)] + values + [b"[1,2,3]"], features, strict=strict, **fields)


@pytest.mark.parametrize("style", [(",", ":"), (", ", ": ")])
def test_nested_objects_of_one_program_are_taken_whole(style: tuple[str, str]) -> None:
    rows = np.random.default_rng(0).normal(size=(50, 3)).tolist()
    documents = [
        {
            "schema": {"type": "struct", "fields": [{"field": "a", "type": "double"}], "optional": False},
            "payload": {
                "tags": {"host": f"web-{k}", "empty": {}},
                "fields": dict(zip(FEATURES, row, strict=True)),
                "t": {"ms": 1_795_888_000_000 + k},
            },
        }
        for k, row in enumerate(rows)
    ]
    values = [json.dumps(document, separators=style).encode() for document in documents]
    assert check(values, values_field="fields", entity_field="tags.host", time_field="t.ms") == 50
    assert check(values, ("fields.a", "fields.c", "fields.b"), entity_field="tags.host") == 50


def test_a_schema_that_comes_and_goes_changes_the_document_for_both_ways() -> None:
    null, text = b'{"schema":null,"payload":{"a":1,"b":2,"c":3}}', b'{"schema":"x","payload":{"a":1,"b":2,"c":3}}'
    for features in (FEATURES, ("payload.a", "payload.b", "payload.c")):
        check([null] * 3 + [text], features)
        check([text] * 3 + [null], features)


@pytest.mark.parametrize("depth", [6, 7, 8, 9, 15, 16, 17, 20])
@pytest.mark.parametrize("strict", [False, True])
def test_paths_of_any_depth(depth: int, strict: bool) -> None:
    value = b'{"k":' * depth + b'{"a":1,"b":2,"c":3}' + b"}" * depth
    check([value] * 4, tuple("k." * depth + name for name in FEATURES), strict=strict)
