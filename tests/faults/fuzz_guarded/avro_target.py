"""Avro, by schemas of all shapes that the loop takes: fastavro is the slow way."""

import io
import json
import random
import struct
from collections.abc import Iterator
from typing import Any, ClassVar, Final

import fastavro
import numpy as np

from tests.faults.fuzz_guarded.format_target import FEATURES, OPTIONS, ZERO, FormatTarget
from tests.faults.fuzz_guarded.mutations import VARINTS, mutated
from worker.decoding.avro import loop as avro_loop
from worker.decoding.avro.format import HEADER, Avro  # type: ignore[attr-defined]
from worker.decoding.format import FeatureSchema
from worker.schema_registry import UnknownSchema


def _record(*fields: Any) -> dict[str, Any]:
    return {"type": "record", "name": "Reading", "fields": [{"name": n, "type": t} for n, t in fields]}


def _array(items: str) -> dict[str, str]:
    return {"type": "array", "items": items}


_ENUM: Final = {"type": "enum", "name": "E", "symbols": ["X", "Y", "Z"]}
SCHEMAS: Final = {
    1: _record(("a", "float"), ("b", "float"), ("c", "float")),
    2: _record(("id", "string"), ("ts", "long"), ("c", "double"), ("b", "double"), ("a", "double")),
    3: _record(("a", ["null", "double"]), ("ok", "boolean"), ("b", ["float", "null"]), ("raw", "bytes"), ("e", _ENUM),
               ("c", "int"), ("ts", {"type": "long", "logicalType": "timestamp-millis"}), ("id", ["null", "string"])),
    4: _record(("id", "string"), ("values", _array("float"))),
    5: _record(("values", _array("double")), ("ts", {"type": "long", "logicalType": "timestamp-micros"})),
    6: _record(("ts", ["null", "double"]), ("values", ["null", _array("float")]), ("note", ["string", "null"])),
    7: _array("double"),
}  # fmt: skip


class Schemas:
    """Stands for the registry."""

    def schema(self, number: int) -> tuple[Any, dict[str, Any]]:
        if number not in SCHEMAS:
            raise UnknownSchema("nobody has said")
        return json.loads(json.dumps(SCHEMAS[number])), {}


class AvroTarget(FormatTarget):
    width = len(FEATURES)
    _pool: ClassVar[list[bytes]] = []

    def prepare(self) -> None:
        if not self._pool:
            self._pool.extend(_avro_records(random.Random(0)))
        options = OPTIONS[self.rng.randrange(3)]
        self.form, self.reference = (Avro(FeatureSchema(FEATURES, *options, Schemas())) for _ in range(2))  # type: ignore[arg-type]
        self.reference._plan = lambda schema: None

    def value(self) -> bytes:
        seed = self._pool[self.rng.randrange(len(self._pool))]
        return mutated(seed, self.rng, VARINTS, begin=HEADER if self.rng.random() < 0.97 else 0)

    def parse(self, value: bytes, x: Any, times: Any, names: Any) -> Any:
        reader = self.form._readers.readers.get(int.from_bytes(value[1:HEADER], "big"))
        if len(value) < HEADER or value[0] or reader is None or reader.plan is None:
            return None
        plan, buffer = reader.plan, self.placed_alone(value)
        more = plan.kinds, plan.roles, plan.nulls, plan.units
        return avro_loop.parse(buffer, ZERO + HEADER, np.array([len(value) - HEADER]), *more, x, times, names)


def _avro_records(rng: random.Random) -> Iterator[bytes]:
    for number, given in SCHEMAS.items():
        schema = fastavro.parse_schema(json.loads(json.dumps(given)))
        for _ in range(60):
            numbers = [rng.choice([rng.gauss(0, 1), float(rng.randrange(100))]) for _ in range(3)]
            name = "m" * rng.choice([0, 1, 2, 9, 70])
            whole: Any = dict(zip("abc", numbers, strict=True))
            whole |= {"id": name, "ts": 1_700_000_000, "ok": True, "raw": b"\xff" * rng.randrange(9), "e": "Y"}
            whole |= {"values": numbers, "note": name}
            if number == 3:
                whole |= {"c": rng.randrange(-1000, 1000), "id": rng.choice([None, name]), "b": rng.choice([None, 2.0])}
            out = io.BytesIO()
            fastavro.schemaless_writer(out, schema, numbers if number == 7 else whole)
            yield b"\0" + struct.pack(">I", number) + out.getvalue()
