"""Hostile records: of every format, mutated, with odd keys and headers."""

import json
import random
import struct
from typing import Any

import numpy as np

from tests.models import FEATURES
from tests.stage import VECTOR, arrow

TOKENS = [
    b"1e999", b"-1e999", b"NaN", b"Infinity", b"-0", b"0.1e-400", b"9" * 400, b"1e-45", b"null", b"true", b'"1"', b"{}",
    b"[]", b"[[", b"]]", b"\\u0000", b"\\ud800", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x00", b"1.", b".5", b"+1", b"01",
    b'"values":', b'"speed":1,"speed":2', b" " * 50, b"\n", b",", b":", b'"', b"\\",
]  # fmt: skip
AVRO = [  # by their numbers in the registry, from 1 on
    VECTOR,
    VECTOR | {"fields": [{"name": "id", "type": "string"}, *reversed(VECTOR["fields"])]},
    {"type": "array", "items": {"type": "array", "items": ["null", "float"]}},
    {"type": "record", "name": "Deep", "fields": [{"name": "next", "type": ["null", "Deep"]}]},
    {"type": "array", "items": "null"},
]


def by_header(rng: random.Random, rows: np.ndarray[Any, Any]) -> tuple[bytes, list[tuple[str, bytes | None]]]:
    """A record of one of the formats that a worker does not expect by default, nearly in order."""
    some = rows[rng.randrange(len(rows) - 5) :][: rng.randrange(1, 5)]
    if rng.random() < 0.5:
        return mutated(arrow(some), rng), [("content-type", b"application/vnd.apache.arrow.stream")]
    number = rng.choice([1, 1, 1, 2, 3, 4, 5, 6, 2**32 - 1])
    body = some[0].tobytes() if number == 1 else b"\x02x" + some[0].tobytes() if number == 2 else rng.randbytes(9)
    return mutated(b"\0" + struct.pack(">I", number) + body, rng), [("content-type", b"avro")]


def seeds(rng: random.Random, rows: np.ndarray[Any, Any]) -> bytes:
    """A record that is in order."""
    row = rows[rng.randrange(len(rows))].tolist()
    kind = rng.randrange(6)
    if kind == 0:
        return json.dumps(row).encode()
    if kind == 1:
        return json.dumps({"id": "x", "ts": 1, "values": row}).encode()
    if kind == 2:
        return json.dumps(dict(zip(FEATURES, row, strict=True))).encode()
    if kind == 3:
        return json.dumps([row] * rng.randrange(1, 5), separators=(",", ":")).encode()
    return struct.pack(f"<{len(row)}f", *row) * rng.randrange(1, 4)


def mutated(value: bytes, rng: random.Random) -> bytes:
    data = bytearray(value)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 5, 20])):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(8)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at:at] = rng.choice(TOKENS)
        elif kind == 2:
            del data[at : at + rng.randrange(1, 9)]
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 4:
            data[at:at] = data[rng.randrange(len(data) + 1) :][: rng.randrange(40)]
        elif kind == 5:
            del data[at:]
        elif kind == 6 and rng.random() < 0.02:
            data[at:at] = b"[" * rng.choice([100, 2000, 200_000]) if rng.random() < 0.5 else b'{"a":' * 3000
        elif kind == 7 and rng.random() < 0.002:
            data *= rng.randrange(1, 5000)
    return bytes(data[:1_000_000])


def headers(rng: random.Random) -> list[tuple[str, bytes | None]] | None:
    kind = rng.randrange(12)
    if kind > 4:
        return None
    if kind == 0:
        return [("content-type", rng.choice([b"f32", b"application/x-f32; v=1", b"JSON", b"avro", b"\xff", b""]))]
    if kind == 1:
        return [("Content-Type", None), ("content-type", b"json"), ("content-type", b"f32")]
    if kind == 2:
        return [("offnormal-reason", b"forged"), ("offnormal-partition", b"-1"), ("content-type", rng.randbytes(5))]
    if kind == 3:
        return [(f"h{k}", rng.randbytes(rng.randrange(9))) for k in range(rng.randrange(30))]
    return [("content-type", b"application/vnd.offnormal.record-batch"), ("offnormal-error", rng.randbytes(900))]


def key(rng: random.Random) -> bytes | None:
    kind = rng.randrange(20)
    if kind == 0:
        return None
    if kind == 1:
        return rng.randbytes(rng.randrange(40))
    if kind == 2 and rng.random() < 0.05:
        return rng.randbytes(rng.choice([1024, 1025, 5000, 500_000]))
    if kind == 3:
        return rng.choice([b"", b"\x00", "☃\u2028</script>".encode(), b'"\\', b"\xff" * 1024])
    return b"e%d" % rng.randrange(50)
