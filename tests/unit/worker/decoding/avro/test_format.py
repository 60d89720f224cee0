"""Format `avro`: the compiled loop against fastavro, schemas that evolve, a registry that is away, hostile schemas."""

import io
import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings as budget, strategies as st

from tests.record_blocks import block_of
from tests.registry import SmallRegistry
from worker.blocks import VectorBlock
from worker.decoding import Decoder
from worker.errors import SchemaRegistryError
from worker.schema_registry import SchemaRegistry
from worker.settings import InputSettings, SchemaRegistrySettings

NOW = 1_700_000_000_000


@pytest.fixture(scope="module")
def registry() -> Iterator[SmallRegistry]:
    made = SmallRegistry()
    yield made
    made.close()


def record(*fields: Any, name: str = "Reading", **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": n, "type": t} for n, t in fields], **more}


def wire(id: int, schema: Any, document: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), document)
    return b"\0" + struct.pack(">I", id) + out.getvalue()


def client(registry: SmallRegistry, **more: Any) -> SchemaRegistry:
    return SchemaRegistry(SchemaRegistrySettings(url=registry.url, timeout=2, **more))


def decode(
    registry: SmallRegistry, values: Sequence[bytes], features: Sequence[str] = ("a", "b"), **settings: Any
) -> VectorBlock:
    return Decoder(InputSettings(format="avro", **settings), features, client(registry)).decode(block_of(values))


def reasons(block: VectorBlock) -> list[tuple[int, str]]:
    return [(reject.record, reject.reason) for reject in block.rejects]


@pytest.mark.parametrize("kind", ["float", "double", "int", "long", ["null", "double"], ["float", "null"]])
def test_fields_are_taken_by_their_names(registry: SmallRegistry, kind: Any) -> None:
    schema = record(("b", kind), ("note", "string"), ("a", kind), ("ok", "boolean"), ("raw", "bytes"))
    id = registry.add(schema)
    told = [{"a": k, "b": 2 * k, "note": "x" * k, "ok": True, "raw": b"\xff" * k} for k in range(20)]
    block = decode(registry, [wire(id, schema, each) for each in told])
    assert block.x.tolist() == [[k, 2 * k] for k in range(20)] and not block.rejects


def test_an_older_and_a_newer_schema_stand_beside_each_other(registry: SmallRegistry) -> None:
    old, new = record(("a", "double")), record(("b", ["null", "float"]), ("c", "string"), ("a", "float"))
    ids = registry.add(old), registry.add(new)
    values = [wire(ids[0], old, {"a": 1.0}), wire(ids[1], new, {"a": 2.0, "b": 3.0, "c": "é"})] * 2
    values.append(wire(ids[1], new, {"a": 2.0, "b": None, "c": ""}))
    block = decode(registry, values)
    np.testing.assert_array_equal(block.x, np.array([[1, np.nan], [2, 3]] * 2 + [[2, np.nan]], np.float32))
    assert registry.asked.count(f"/schemas/ids/{ids[0]}") == 1


@pytest.mark.parametrize("items", ["double", "float", "int", ["null", "double"]])
def test_arrays_are_vectors(registry: SmallRegistry, items: Any) -> None:
    schema = record(("id", "string"), ("values", {"type": "array", "items": items}))
    id = registry.add(schema)
    good = wire(id, schema, {"id": "p", "values": [1, 2]})
    block = decode(registry, [good, wire(id, schema, {"id": "p", "values": [1]}), good], entity_field="id")
    assert block.x.tolist() == [[1, 2]] * 2 and reasons(block) == [(1, "wrong-length")]
    assert block.entity_of_record(0) == "p"


def test_rows_of_rows_are_many_vectors(registry: SmallRegistry) -> None:
    schema = {"type": "array", "items": {"type": "array", "items": "float"}}
    block = decode(registry, [wire(registry.add(schema), schema, [[1, 2], [3, 4]])])
    assert block.x.tolist() == [[1, 2], [3, 4]] and block.row.tolist() == [0, 1]


def test_times_and_entities(registry: SmallRegistry) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
    ms = 1_767_323_045_678
    nanos = ms * 1_000_000 + 999
    for unit, told in [("millis", moment), ("micros", moment), ("nanos", nanos)]:
        logical = {"type": "long", "logicalType": f"timestamp-{unit}"}
        union = ["null", logical, "boolean"]  # by fastavro, whatever the entity
        unusual = record(("id", "string"), ("ts", union), ("a", "double"))
        value = wire(registry.add(unusual), unusual, {"id": "press", "ts": told, "a": 1})
        assert decode(registry, [value], time_field="ts").time.tolist() == [ms]
        schema = record(("id", "string"), ("ts", ["null", logical]), ("a", "double"))
        id = registry.add(schema)
        values = [
            wire(id, schema, {"id": "press", "ts": told, "a": 1}),
            wire(id, schema, {"id": "prëss", "ts": told, "a": 1}),  # no ASCII: by fastavro
            wire(id, schema, {"id": "press", "ts": None, "a": 1}),
        ]
        block = decode(registry, values, entity_field="id", time_field="ts")
        assert block.time.tolist() == [ms, ms, NOW]
        assert [block.entity_of_record(r) for r in range(3)] == ["press", "prëss", "press"]
    for kind, number in [("long", ms), ("long", ms // 1000), ("double", ms / 1000), ("string", moment.isoformat())]:
        schema = record(("ts", kind), ("a", "double"))
        block = decode(registry, [wire(registry.add(schema), schema, {"ts": number, "a": 1})], time_field="ts")
        assert block.time[0] // 1000 == ms // 1000


def test_what_is_wrong_harms_no_neighbour(registry: SmallRegistry) -> None:
    schema = record(("a", "double"), ("b", "double"))
    id = registry.add(schema)
    flags = record(("a", "boolean"), ("b", "double"))
    texts = record(("a", "string"), ("b", "double"))
    no_avro = registry.add("{}", schemaType="JSON")
    good = wire(id, schema, {"a": 1.0, "b": 2.0})
    bad = {
        "unparseable": [b"", b"\0", b"\1" + good[1:], good[:-1], good + b"\0", b'{"a": 1}'],
        "unknown-schema": [
            b"\0\0\0\xff\xff" + good[5:],
            b"\0\xff\xff\xff\xff" + good[5:],
            b"\0\0\0\0\0" + good[5:],
            b"\0" + struct.pack(">I", no_avro) + good[5:],
        ],
        "wrong-type": [
            wire(registry.add(flags), flags, {"a": True, "b": 1.0}),
            wire(registry.add(texts), texts, {"a": "1", "b": 1.0}),
        ],
        "infinite": [wire(id, schema, {"a": float("inf"), "b": 0}), wire(id, schema, {"a": 1e39, "b": 0})],
    }
    values, expected = [good], []
    for reason, records in bad.items():
        for each in records:
            expected.append((len(values), reason))
            values += [each, good]
    block = decode(registry, values)
    assert reasons(block) == expected
    assert block.x.tolist() == [[1, 2]] * (len(expected) + 1)


def test_a_strict_reader_refuses_a_field_that_is_no_feature(registry: SmallRegistry) -> None:
    schema = record(("a", "double"), ("b", "double"), ("c", "double"))
    value = wire(registry.add(schema), schema, {"a": 1, "b": 2, "c": 3})
    assert reasons(decode(registry, [value], strict=True)) == [(0, "unknown-key")]


def test_references_are_followed(registry: SmallRegistry) -> None:
    registry.add(record(("a", "double"), ("b", "double"), name="plant.Vector"), subject="vector")
    schema = record(("id", "string"), ("values", "plant.Vector"))
    id = registry.add(schema, references=[{"name": "plant.Vector", "subject": "vector", "version": 1}])
    body = b"\x02x" + struct.pack("<dd", 1, 2)
    block = decode(registry, [b"\0" + struct.pack(">I", id) + body], entity_field="id")
    assert block.x.tolist() == [[1, 2]] and block.entity_of_record(0) == "x"


def _nested(depth: int) -> Any:
    schema: Any = record(("a", "double"), name="R0")
    for k in range(depth):
        schema = record(("l", schema), ("r", f"R{k}"), name=f"R{k + 1}")
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        record(("a", "double"), ("next", ["null", "Reading"])),  # as deep as its sender likes
        {"type": "array", "items": "null"},  # as many as its sender says
        {"type": "array", "items": record()},
        record(("a", {"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}})),
        _nested(20),  # a million doubles by a kilobyte of schema
        "no schema",
        {"type": "record", "name": "R", "fields": [{"name": "a", "type": "unheard-of"}]},
        {"type": "record", "name": "R", "fields": 7},
        7,
    ],
)
def test_hostile_schemas_are_refused(registry: SmallRegistry, schema: Any) -> None:
    id = registry.add(schema)
    block = decode(registry, [b"\0" + struct.pack(">I", id) + b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01" * 2])
    assert reasons(block) == [(0, "unknown-schema")]


def test_a_registry_that_is_away_is_no_dead_letter(registry: SmallRegistry) -> None:
    schema = record(("a", "double"), ("b", "double"), name="Away")
    values = [wire(registry.add(schema), schema, {"a": 1, "b": 2})]
    decoder = Decoder(InputSettings(format="avro"), ("a", "b"), client(registry))
    registry.away = True
    try:
        with pytest.raises(SchemaRegistryError, match="answers 503"):
            decoder.decode(block_of(values))
    finally:
        registry.away = False
    assert len(decoder.decode(block_of(values))) == 1
    registry.away = True
    try:
        assert len(decoder.decode(block_of(values))) == 1  # it is remembered
    finally:
        registry.away = False
    nobody = SchemaRegistry(SchemaRegistrySettings(url="http://127.0.0.1:9", timeout=1))
    with pytest.raises(SchemaRegistryError, match="OFFNORMAL_SCHEMA_REGISTRY__URL"):
        Decoder(InputSettings(format="avro"), ("a", "b"), nobody).decode(block_of(values))


def test_an_unknown_schema_is_asked_for_once_in_a_while(registry: SmallRegistry) -> None:
    decoder = Decoder(InputSettings(format="avro"), ("a", "b"), client(registry))
    value = b"\0" + struct.pack(">I", 9_999_999) + b"12345678"
    for _ in range(3):
        assert reasons(decoder.decode(block_of([value] * 5))) == [(r, "unknown-schema") for r in range(5)]
    assert registry.asked.count("/schemas/ids/9999999") == 1


def test_more_unknown_schemas_than_can_be_asked_for_are_not_forgotten(
    registry: SmallRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [b"\0" + struct.pack(">I", 1_000_000 + k) + b"12345678" for k in range(300)]
    decoder = Decoder(InputSettings(format="avro"), ("a", "b"), client(registry))
    monkeypatch.setattr("worker.decoding.by_schema._PATIENCE", 0.05)
    tries = 0
    while True:
        try:
            assert len(decoder.decode(block_of(values)).rejects) == 300
            break
        except SchemaRegistryError:
            tries += 1
            assert tries < 300
    assert tries > 0
    assert sum(path.startswith("/schemas/ids/1000") for path in registry.asked) == 300


def test_it_logs_in_but_not_where_it_is_sent_on_to(registry: SmallRegistry) -> None:
    client(registry, username="u", password="p").register("s", "string")
    assert "Basic dTpw" in registry.logins
    other = SmallRegistry()
    try:
        registry.elsewhere = other.url
        assert client(registry, username="u", password="p").schema(other.add("string")) == ("string", {})
        assert other.logins == {None}
    finally:
        registry.elsewhere = None
        other.close()


def test_without_a_registry_it_is_an_unknown_content_type() -> None:
    records = block_of([b"\0\0\0\0\1"], headers={0: [("content-type", b"avro")]})
    (reject,) = Decoder(InputSettings(), ("a",)).decode(records).rejects
    assert reject.reason == "unknown-content-type" and "OFFNORMAL_SCHEMA_REGISTRY__URL" in reject.error


def _long(value: int) -> bytes:
    out, told = bytearray(), (value << 1) ^ (value >> 63)
    while told > 127:
        out.append(told & 127 | 128)
        told >>= 7
    return bytes(out) + bytes([told])


FIELDS = st.sampled_from(
    [
        *("int", "long", "float", "double", "boolean", "string", "bytes", "null"),
        *(["null", "double"], ["long", "null"], ["null", "string"], ["null", "boolean"], ["int", "string", "null"]),
        {"type": "enum", "name": "E", "symbols": ["x", "y"]},
        *({"type": "long", "logicalType": f"timestamp-{unit}"} for unit in ("millis", "micros", "nanos")),
        ["null", {"type": "long", "logicalType": "local-timestamp-micros"}],
        {"type": "array", "items": "double"},
        {"type": "array", "items": "float"},
        {"type": "bytes", "logicalType": "decimal", "precision": 4},
    ]
)


@budget(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_the_loop_gives_what_fastavro_gives(registry: SmallRegistry, data: st.DataObject) -> None:
    """Of whatever schema, whatever bytes; and nothing raises."""
    names = data.draw(st.lists(st.sampled_from(["a", "b", "id", "ts", "values", "x"]), unique=True, max_size=5))
    kinds = [data.draw(FIELDS) for _ in names]
    if sum(isinstance(kind, dict) and kind["type"] == "enum" for kind in kinds) > 1:
        return
    schema = record(*zip(names, kinds, strict=True))
    id = registry.add(schema)
    pieces = st.one_of(
        st.binary(max_size=9),
        st.floats(width=64).map(lambda v: struct.pack("<d", v)),
        st.integers(-(2**63), 2**63 - 1).map(_long),
        st.integers(0, 2 * 10**18).map(_long),
        st.floats(width=32).map(lambda v: struct.pack("<f", v)),
        st.sampled_from([b"\0", b"\2", b"\4", b"\x06abc", b"\4" + struct.pack("<dd", 1, 2) + b"\0", b"\xff" * 10]),
    )
    values = [b"\0" + struct.pack(">I", id) + b"".join(data.draw(st.lists(pieces, max_size=7))) for _ in range(4)]
    settings: dict[str, Any] = {"entity_field": "id", "time_field": "ts"}
    fast = Decoder(InputSettings(format="avro", **settings), ("a", "b"), client(registry))
    slow = Decoder(InputSettings(format="avro", **settings), ("a", "b"), client(registry))
    slow._formats["avro"]._plan = lambda schema: None  # type: ignore[attr-defined]
    got, want = fast.decode(block_of(values)), slow.decode(block_of(values))
    assert list(got.rejects) == list(want.rejects)
    assert got.record.tolist() == want.record.tolist()
    np.testing.assert_array_equal(got.x, want.x)
    assert got.time.tolist() == want.time.tolist() and dict(got.entities) == dict(want.entities)
