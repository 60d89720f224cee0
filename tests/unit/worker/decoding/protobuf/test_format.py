"""Format `protobuf`: messages of every kind of field, schemas that evolve and import, hostile schemas and records."""

import base64
import struct
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given, settings as budget, strategies as st

from tests.record_blocks import block_of
from tests.registry import SmallRegistry
from worker.blocks import VectorBlock
from worker.decoding import Decoder
from worker.decoding.protobuf.descriptors import MessageTypes
from worker.decoding.protobuf.format import _Reader
from worker.errors import SchemaRegistryError
from worker.schema_registry import SchemaRegistry, SchemaText, UnknownSchema
from worker.settings import InputSettings, SchemaRegistrySettings, Settings

NOW = 1_700_000_000_000
HEAD = 'syntax = "proto3"; package plant;'
PLAIN = f"""{HEAD}
message Vector {{
  double a = 1; float b = 2; string machine = 3; int64 at = 4; Note note = 5; bool ok = 6; bytes raw = 7;
  optional double c = 8;
}}
message Note {{ string text = 1; }}"""

MANY = " ".join(f"double x{k} = {k};" for k in range(1, 99))


@pytest.fixture(scope="module")
def registry() -> Iterator[SmallRegistry]:
    made = SmallRegistry()
    yield made
    made.close()


def client(registry: SmallRegistry) -> SchemaRegistry:
    return SchemaRegistry(SchemaRegistrySettings(url=registry.url, timeout=2))


def add(registry: SmallRegistry, text: str, subject: str = "s", **more: Any) -> int:
    return registry.add(text, subject, schemaType="PROTOBUF", **more)


def varint(value: int) -> bytes:
    value, out = value << 1, bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def framed(id: int, message: bytes, place: Sequence[int] = (0,)) -> bytes:
    indices = b"\0" if list(place) == [0] else b"".join(map(varint, [len(place), *place]))
    return b"\0" + struct.pack(">I", id) + indices + message


def wire(id: int, text: str, told: dict[str, Any], place: Sequence[int] = (0,), **references: str) -> bytes:
    kind = MessageTypes(SchemaText(text, references)).at(tuple(place))
    return framed(id, ParseDict(told, kind()).SerializeToString(), place)


def described(text: str, **references: str) -> str:
    file = MessageTypes(SchemaText(text, references))._file
    return base64.b64encode(file.SerializeToString()).decode()


def decode(
    registry: SmallRegistry, values: Sequence[bytes], features: Sequence[str] = ("a", "b"), **settings: Any
) -> VectorBlock:
    return Decoder(InputSettings(format="protobuf", **settings), features, client(registry)).decode(block_of(values))


def reasons(block: VectorBlock) -> list[tuple[int, str]]:
    return [(reject.record, reject.reason) for reject in block.rejects]


def test_fields_are_taken_by_their_names(registry: SmallRegistry) -> None:
    id = add(registry, PLAIN)
    values = [
        wire(id, PLAIN, {"a": 1.5, "b": -2, "machine": "press", "at": 1_767_323_045_678, "ok": True, "raw": "AAE="}),
        wire(id, PLAIN, {"c": 7}),  # what is 0 is not transmitted
    ]
    block = decode(registry, values, ("a", "b", "c"), entity_field="machine")
    np.testing.assert_array_equal(block.x, np.array([[1.5, -2, np.nan], [0, 0, 7]], np.float32))
    assert block.entity_of_record(0) == "press" and not block.rejects
    assert decode(registry, values[:1], time_field="at").time.tolist() == [1_767_323_045_678]


def test_newer_schemas_other_messages_and_imports(registry: SmallRegistry) -> None:
    common = f"{HEAD} message Reading {{ double a = 1; message Inner {{ sint32 b = 1; }} }}"
    add(registry, common, "common")
    text = (
        f'{HEAD} import "shared/common.proto"; import "google/protobuf/wrappers.proto";'
        " message Other { string x = 1; } message Vector { Reading r = 1; google.protobuf.DoubleValue b = 2; }"
    )
    ids = [
        add(registry, text, references=[{"name": "shared/common.proto", "subject": "common", "version": 1}]),
        add(registry, common),
    ]
    shared = {"shared/common.proto": common}
    values = [
        wire(ids[0], text, {"r": {"a": 3}, "b": 4.5}, (1,), **shared),
        wire(ids[0], text, {"r": {"a": 3}}, (1,), **shared),
        wire(ids[1], common, {"b": -6}, (0, 0)),
        wire(ids[0], text, {"x": "?"}, (0,), **shared),
        framed(ids[0], b"", (7,)),
    ]
    block = decode(registry, values, ("r.a", "b"))
    nan = np.nan
    np.testing.assert_array_equal(block.x, np.array([[3, 4.5], [3, nan], [nan, -6], [nan, nan]], np.float32))
    assert reasons(block) == [(4, "unknown-schema")] and "no message [7]" in block.rejects[0].error
    assert registry.asked.count(f"/schemas/ids/{ids[0]}") == 1


def test_schemas_may_be_registered_as_descriptors(registry: SmallRegistry) -> None:
    """As base64, by Confluent's client in Python; and what they import as text, or the other way round."""
    common = f"{HEAD} message Reading {{ double a = 1; }}"
    text = f'{HEAD} import "common.proto"; message Vector {{ Reading r = 1; double b = 2; }}'
    value = wire(1, text, {"r": {"a": 3}, "b": 4}, **{"common.proto": common})[6:]  # type: ignore[arg-type]
    for k, (own, other) in enumerate(((True, True), (True, False), (False, True))):
        add(registry, described(common) if other else common, f"common-{k}")
        reference = {"name": "common.proto", "subject": f"common-{k}", "version": 1}
        told = described(text, **{"common.proto": common}) if own else text + " " * k
        id = add(registry, told, f"own-{k}", references=[reference])
        assert decode(registry, [framed(id, value)], ("r.a", "b")).x.tolist() == [[3, 4]]


def test_every_kind_of_field_is_a_document(registry: SmallRegistry) -> None:
    text = f"""{HEAD}
    import "google/protobuf/timestamp.proto"; import "google/protobuf/duration.proto";
    import "google/protobuf/struct.proto";
    enum State {{ UNKNOWN = 0; RUNS = 1; }}
    message Tree {{ double value = 1; repeated Tree branches = 2; }}
    message All {{
      google.protobuf.Timestamp at = 1; google.protobuf.Duration took = 2; google.protobuf.Struct more = 3;
      State state = 4; repeated State states = 5; map<string, double> values = 6; map<int32, Tree> trees = 7;
      Tree tree = 8; repeated float row = 9; oneof choice {{ int32 x = 10; string y = 11; }} uint64 large = 12;
    }}"""
    id = add(registry, text)
    told = {
        "at": "2026-01-02T03:04:05.678Z", "took": "1.5s", "more": {"k": [1, "b", None]}, "state": "RUNS",
        "states": ["UNKNOWN", "RUNS"], "values": {"a": 1, "b": 2}, "trees": {"3": {"value": 4}},
        "tree": {"value": 1, "branches": [{"value": 2}]}, "row": [1, 2.5], "y": "text", "large": 2**64 - 1,
    }  # fmt: skip
    value = wire(id, text, told, (1,))
    decoder = Decoder(InputSettings(format="protobuf", time_field="at"), ("a", "b"), client(registry))
    ((_, document),) = decoder.documents(block_of([value]))
    assert document.pop("at").timestamp() == 1_767_323_045.678
    leaf = {"branches": []}
    assert document == {
        "took": 1.5, "more": {"k": [1, "b", None]}, "state": "RUNS", "states": ["UNKNOWN", "RUNS"],
        "values": {"a": 1, "b": 2}, "trees": {"3": {"value": 4, **leaf}},
        "tree": {"value": 1, "branches": [{"value": 2, **leaf}]}, "row": [1, 2.5], "y": "text", "large": 2**64 - 1,
    }  # fmt: skip
    block = decoder.decode(block_of([value]))
    assert block.x.tolist() == [[1, 2]] and block.time.tolist() == [1_767_323_045_678]
    assert decode(registry, [wire(id, text, {"at": "0001-01-01T00:00:00Z"}, (1,))], time_field="at").rejects


def test_readings_are_aligned_and_shapes_are_read(registry: SmallRegistry) -> None:
    text = f"{HEAD} message Batch {{ repeated Tag tags = 1; }} message Tag {{ string tag = 1; double value = 2; }}"
    id = add(registry, text)
    told = {"tags": [{"tag": "b", "value": 2}, {"tag": "a", "value": 1}]}
    block = decode(registry, [wire(id, text, told)], tag_field="tags[].tag", value_field="tags[].value")
    assert block.x.tolist() == [[1, 2]]


def test_a_text_or_a_boolean_is_no_reading(registry: SmallRegistry) -> None:
    text = f"{HEAD} message V {{ double a = 1; bool b = 2; string s = 3; bytes raw = 4; }}"
    id = add(registry, text)
    value = wire(id, text, {"a": 1, "b": True, "s": "7", "raw": "AA=="})
    for name, told in (("b", "bool True"), ("s", "str '7'"), ("raw", "bytes b'\\x00'")):
        (reject,) = decode(registry, [value], ("a", name)).rejects
        assert reject.reason == "wrong-type" and told in reject.error
    assert decode(registry, [value], ("a", "b", "s"), coerce=True).x.tolist() == [[1, 1, 7]]


def test_a_bad_record_is_one_dead_letter(registry: SmallRegistry) -> None:
    id = add(registry, PLAIN)
    good = wire(id, PLAIN, {"a": 1, "b": 2})
    bad = [
        b"", b"\0\0", b"{}", good[:5], framed(id, b"\x09\0"), framed(id, b"\xff" * 20), framed(id, b"", [0] * 101),
        b"\0" + struct.pack(">I", id) + b"\x01", b"\0" + struct.pack(">I", id) + b"\xff" * 9,
        framed(987_654, b""), wire(id, PLAIN, {"a": "Infinity"}),
    ]  # fmt: skip
    block = decode(registry, [good, *bad, good])
    assert block.x.tolist() == [[1, 2], [1, 2]]
    told = dict(reasons(block))
    assert set(told) == set(range(1, len(bad) + 1))
    assert told[10] == "unknown-schema" and told[11] == "infinite" and told[5] == "unparseable"


@pytest.mark.parametrize(
    ("text", "more", "told"),
    [
        ("message V {", {}, "not valid"),
        (f"{HEAD} message V {{ Missing m = 1; }}", {}, "Missing"),
        (f'{HEAD} import "gone.proto";', {}, "gone.proto"),
        (PLAIN, {"references": [{"name": "../x.proto", "subject": "plain", "version": 1}]}, "a reference of the name"),
        (PLAIN + "// \ud800", {}, "not valid"),
        (PLAIN, {"references": [{"name": ".", "subject": "plain", "version": 1}]}, "not valid"),
        (
            PLAIN,
            {"references": [{"name": "/tmp/x.proto", "subject": "plain", "version": 1}]},
            "a reference of the name",
        ),
    ],
)
def test_a_schema_that_is_none_makes_dead_letters(
    registry: SmallRegistry, text: str, more: dict[str, Any], told: str
) -> None:
    add(registry, PLAIN, "plain")
    id = add(registry, text, **more)
    block = decode(registry, [framed(id, b"")])
    assert reasons(block) == [(0, "unknown-schema")] and told in block.rejects[0].error
    assert "offnormal-proto" not in block.rejects[0].error


def test_a_schema_that_is_none_is_compiled_once(registry: SmallRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    id, compiled = add(registry, "message W {"), list[object]()
    decoder = Decoder(InputSettings(format="protobuf"), ("a", "b"), client(registry))
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: (compiled.append(a), run(*a, **k))[1])
    for _ in range(3):
        assert decoder.decode(block_of([framed(id, b"")])).rejects
    assert len(compiled) == 1


def test_a_schema_of_another_language_is_none_of_ours(registry: SmallRegistry) -> None:
    id = registry.add({"type": "record", "name": "R", "fields": []})
    assert reasons(decode(registry, [framed(id, b"")])) == [(0, "unknown-schema")]
    with pytest.raises(UnknownSchema, match="PROTOBUF, not of AVRO"):
        client(registry).schema(add(registry, PLAIN))


def test_a_record_that_claims_another_format_harms_no_other(registry: SmallRegistry) -> None:
    """One client serves all formats, and a record's header chooses the format in which its schema is looked for."""
    avro = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "double"}, {"name": "b", "type": "double"}]}
    ids = add(registry, PLAIN), registry.add(avro)
    good = (
        wire(ids[0], PLAIN, {"a": 1, "b": 2}),
        b"\0" + struct.pack(">Idd", ids[1], 1, 2)[:4] + struct.pack("<dd", 1, 2),
    )
    for own, other, k in (("protobuf", "avro", 0), ("avro", "protobuf", 1)):
        decoder = Decoder(InputSettings(format=own), ("a", "b"), client(registry))
        hostile = block_of([good[k]], headers={0: [("content-type", other.encode())]})
        assert reasons(decoder.decode(hostile)) == [(0, "unknown-schema")]
        assert decoder.decode(block_of([good[k]])).x.tolist() == [[1, 2]]
        assert reasons(decoder.decode(hostile)) == [(0, "unknown-schema")]


def test_what_json_could_not_have_is_a_document(registry: SmallRegistry) -> None:
    text = f'{HEAD} import "google/protobuf/struct.proto"; message V {{ google.protobuf.Struct s = 1; double b = 2; }}'
    id, kind = add(registry, text), MessageTypes(SchemaText(text, {})).at((0,))
    message = kind(b=2)
    message.s.update({"a": 1, "list": [1, {"x": None}], "t": True, "u": "text"})
    message.s.fields["nan"].number_value = float("nan")
    value = framed(id, message.SerializeToString())
    block = decode(registry, [value], ("s.a", "s.nan", "b"))
    np.testing.assert_array_equal(block.x, np.array([[1, np.nan, 2]], np.float32))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('syntax = "proto2"; message V { map<string, double> m = 1; }', b"\x0a\x0c\x0a\x01\xff\x11" + bytes(8)),
        (f"{HEAD} message V {{ optional double HasField = 1; optional double b = 2; }}", b"\x09" + bytes(8)),
        (f"{HEAD} message V {{ repeated W w = 1; }} message W {{ {MANY} }}", b"\x0a\0" * 100_000),
    ],
)  # fmt: skip
def test_an_odd_schema_or_record_raises_nothing(registry: SmallRegistry, text: str, message: bytes) -> None:
    id = add(registry, text)
    assert reasons(decode(registry, [framed(id, message)])) == [(0, "unparseable")]
    assert not decode(registry, [framed(id, b"")]).rejects or "HasField" in text


def test_a_schema_that_could_not_be_compiled_is_compiled_again(
    registry: SmallRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the machine cannot do for a while makes no dead letters."""
    id = add(registry, PLAIN)
    decoder = Decoder(InputSettings(format="protobuf"), ("a", "b"), client(registry))
    records = block_of([wire(id, PLAIN, {"a": 1, "b": 2})])
    failures: list[Any] = [
        subprocess.TimeoutExpired("protoc", 5), BlockingIOError(11, "fork"), OSError(28, "No space left on device"),
    ]  # fmt: skip
    for failure in failures:
        with monkeypatch.context() as patch:

            def fail(*_: Any, failure: Any = failure, **__: Any) -> None:
                raise failure

            patch.setattr(subprocess, "run", fail)
            with pytest.raises(SchemaRegistryError, match="could not be compiled"):
                decoder.decode(records)
    with monkeypatch.context() as patch:
        killed = subprocess.CompletedProcess[bytes]([], -9, b"", b"")
        patch.setattr(subprocess, "run", lambda *_, **__: killed)
        with pytest.raises(SchemaRegistryError, match="-9"):
            decoder.decode(records)
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.TemporaryDirectory", fail)
        with pytest.raises(SchemaRegistryError):
            decoder.decode(records)
    assert decoder.decode(records).x.tolist() == [[1, 2]]


def test_what_is_published_of_it_is_json() -> None:
    settings = Settings(input=InputSettings(format="protobuf"), schema_registry={"url": "http://registry"})
    assert settings.vector_format == "json"


FUZZED = MessageTypes(SchemaText(PLAIN, {}))


@budget(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_whatever_bytes_come_nothing_raises(data: bytes) -> None:
    registry = SchemaRegistry(SchemaRegistrySettings(url="http://nowhere"))
    decoder = Decoder(InputSettings(format="protobuf"), ("a", "b"), registry)
    decoder._formats["protobuf"]._readers.readers[1] = _Reader(FUZZED)  # type: ignore[attr-defined]  # protoc is slow
    block = decoder.decode(block_of([b"\0\0\0\0\1" + data, b"\0\0\0\0\1\0" + data]))
    assert {*block.record.tolist(), *(reject.record for reject in block.rejects)} == {0, 1}
