"""What decoding costs by the shape of a record: `python -m tests.benchmarks.shapes`. No Kafka, one process."""

import json
import time
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from tests.record_blocks import block_of
from tests.registry import SmallRegistry
from worker.alignment import Aligner
from worker.blocks.timestamps import iso
from worker.decoding import Decoder
from worker.decoding.protobuf.descriptors import MessageTypes
from worker.schema_registry import SchemaRegistry, SchemaText
from worker.settings import EntitySettings, InputSettings, SchemaRegistrySettings

RECORDS, ROUNDS = 4000, 7
BEGIN: Final = 1_795_883_200  # seconds
NAMES: Final = [f"sensor_{k}" for k in range(9)]


def _records() -> Mapping[str, tuple[list[bytes], dict[str, str]]]:
    """Return, for each case, records of nine readings and the settings that read them."""
    x = np.round(np.random.default_rng(0).normal(50, 10, (RECORDS, len(NAMES))), 3).tolist()
    readings = [dict(zip(NAMES, row, strict=True)) for row in x]
    fields = [{"field": name, "type": "double"} for name in NAMES]
    documents: dict[str, tuple[list[Any], dict[str, str]]] = {
        "object": (readings, {}),
        "nested object": ([{"data": row, "ok": True} for row in readings], {"values_field": "data"}),
        "Connect": ([{"schema": {"type": "struct", "fields": fields}, "payload": row} for row in readings], {}),
        "Telegraf": (
            [
                {"fields": row, "name": "cpu", "tags": {"host": "web-1"}, "timestamp": BEGIN + k}
                for k, row in enumerate(readings)
            ],
            {"shape": "telegraf"},
        ),
        "pairs in an array": (
            [
                {"timestamp": BEGIN + k, "metrics": [{"name": n, "value": v} for n, v in row.items()]}
                for k, row in enumerate(readings)
            ],
            {"shape": "sparkplug-json"},
        ),
    }
    return {
        name: ([json.dumps(document).encode() for document in found], settings)
        for name, (found, settings) in documents.items()
    }


def _readings() -> Mapping[str, tuple[list[bytes], dict[str, Any]]]:
    """Return, for each case, records of single readings, of fifty machines, and the settings that read them."""
    values = np.round(np.random.default_rng(0).normal(50, 10, len(NAMES) * RECORDS), 3).tolist()
    paths = {"tag_field": "tag", "value_field": "value", "time_field": "time", "quality_field": "quality"}
    one: list[Any] = [
        {"tag": NAMES[k % len(NAMES)], "value": value, "time": iso(BEGIN * 1000 + 2 * k), "quality": "Good"}
        for k, value in enumerate(values)
    ]
    many = [{"m": one[k : k + 100]} for k in range(0, len(one), 100)]
    in_array = {field: f"m[].{path}" for field, path in paths.items()}
    return {
        "one a record": ([json.dumps(reading).encode() for reading in one], paths),
        "100 a record": ([json.dumps(document).encode() for document in many], in_array),
    }


def measure_readings() -> None:
    for name, (values, paths) in _readings().items():
        inputs = InputSettings.model_validate(paths | {"align": True, "step": "1s"})
        block = block_of(values, [b"machine-%d" % (k % 50) for k in range(len(values))])
        decoder, aligner = Decoder(inputs, NAMES), Aligner(np.full(len(NAMES), 10.0), inputs, EntitySettings())
        decoder.readings(block)
        decoding, aligning = [], []
        for _ in range(ROUNDS):
            began = time.process_time()
            readings = decoder.readings(block)
            decoded = time.process_time()
            aligner.push(readings)
            decoding.append(decoded - began)
            aligning.append(time.process_time() - decoded)
            aligner.forget(0)
        assert not readings.rejects and len(readings) == len(NAMES) * RECORDS
        both = np.median([decoding, aligning], axis=1) / len(readings) * 1e6
        print(f"{name:<18} {both[0]:6.3f} us a reading, and {both[1]:.3f} to align it")


def _protobuf(registry: SmallRegistry) -> tuple[list[bytes], dict[str, str]]:
    """Return messages of nine doubles, whose schema is in the registry, and the settings that read them."""
    fields = " ".join(f"double {name} = {k};" for k, name in enumerate(NAMES, 1))
    schema = f'syntax = "proto3"; message Vector {{ {fields} }}'
    frame = b"\0" + registry.add(schema, schemaType="PROTOBUF").to_bytes(4, "big") + b"\0"
    vector = MessageTypes(SchemaText(schema, {})).at((0,))
    x = np.random.default_rng(0).normal(50, 10, (RECORDS, len(NAMES))).tolist()
    messages = [vector(**dict(zip(NAMES, row, strict=True))) for row in x]
    return [frame + message.SerializeToString() for message in messages], {"format": "protobuf"}


def main() -> None:
    small = SmallRegistry()
    registry = SchemaRegistry(SchemaRegistrySettings(url=small.url))
    for name, (values, settings) in {**_records(), "protobuf": _protobuf(small)}.items():
        decoder, block = Decoder(InputSettings.model_validate(settings), NAMES, registry), block_of(values)
        decoded, seconds = decoder.decode(block), []
        assert not decoded.rejects and np.isfinite(decoded.x).all()
        for _ in range(ROUNDS):
            began = time.process_time()
            decoder.decode(block)
            seconds.append(time.process_time() - began)
        print(f"{name:<18} {np.median(seconds) / RECORDS * 1e6:6.2f} us a record")
    measure_readings()


if __name__ == "__main__":
    main()
