"""What is said of records that do not parse: what they are, as their own libraries write them."""

import gzip
import io
from collections.abc import Callable

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from google.protobuf.json_format import ParseDict

from tests.record_blocks import block_of
from worker.decoding import Decoder
from worker.decoding.protobuf.descriptors import MessageTypes
from worker.inference.look import RecordsSeen, look_at
from worker.inference.other_formats import what_it_is
from worker.schema_registry import SchemaText
from worker.settings import InputSettings

SPARKPLUG = """syntax = "proto2"; message Payload {
message Metric { optional string name = 1; optional uint64 alias = 2;
optional uint64 timestamp = 3; optional uint32 datatype = 4; optional double double_value = 13; }
optional uint64 timestamp = 1; repeated Metric metrics = 2; optional uint64 seq = 3; }"""


def arrow() -> bytes:
    batch = pa.record_batch({"a": [1.0]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def avro_file() -> bytes:
    out = io.BytesIO()
    schema = fastavro.parse_schema({"type": "record", "name": "R", "fields": [{"name": "a", "type": "double"}]})
    fastavro.writer(out, schema, [{"a": 1.0}])
    return out.getvalue()


def sparkplug() -> bytes:
    kind = MessageTypes(SchemaText(SPARKPLUG, {})).at((0,))
    metrics = [
        {"name": f"Motor/{k}", "timestamp": 1_795_883_200_000, "datatype": 10, "doubleValue": k} for k in range(9)
    ]
    return bytes(ParseDict({"timestamp": 1_795_883_200_000, "metrics": metrics, "seq": 3}, kind()).SerializeToString())


WRITTEN: dict[str, Callable[[], bytes]] = {
    "FORMAT=arrow": arrow,
    "a file of Avro": avro_file,
    "SHAPE=sparkplug reads": sparkplug,
    "gzip": lambda: gzip.compress(b"[1, 2]"),
    "3 numbers as raw float32": lambda: np.array([20.5, -0.25, np.nan], "<f4").tobytes(),
    "schema 17": lambda: b"\0\0\0\0\x11\x02abc",
    "XML": lambda: b"<?xml version='1.0'?><reading>7</reading>",
    "CSV": lambda: b"1.5, 2.5,,-3e4\n",
    "line protocol": lambda: b"cpu,host=a usage=7.1,idle=90 1795883200000000000",
    "MessagePack": lambda: b"\x82\xa1a\xcb\x3f\xf0\0\0\0\0\0\0\xa1b\xc0",
}


@pytest.mark.parametrize("told", WRITTEN)
def test_it_is_recognised(told: str) -> None:
    found = what_it_is(WRITTEN[told]())
    assert found is not None and told in found, found


@pytest.mark.parametrize("value", [b"", b"hello", b"{", b'{"a": 1', b"\0", b"[1, 2", b"7", b"\xff\xfe\0\0", b"abcd"])
def test_what_it_does_not_know_it_does_not_name(value: bytes) -> None:
    assert what_it_is(value) is None


@pytest.mark.parametrize("piece", [b"\t", b", ", b" ,", b"1 ", b",a=b", b"a=b ", b"<", b"\x08\x80", b"\x12\0", b"\0"])
@pytest.mark.parametrize("end", [b"", b"x", b"=", b"\xff"])
def test_no_record_can_hold_it_up(piece: bytes, end: bytes) -> None:
    """An expression that can match in many ways would try them all, and not come back."""
    what_it_is(piece * 5000 + end)


def test_a_look_says_it() -> None:
    seen = RecordsSeen(records=1)
    look_at(seen, InputSettings(), block_of([sparkplug()]), Decoder(InputSettings(), ("a",)))
    assert "it looks like Sparkplug B" in seen.examples["unparseable"]
