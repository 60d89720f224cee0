"""What decoding costs by the shape of a record: `python -m tests.benchmarks.shapes`. No Kafka, one process."""

import json
import time
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from tests.record_blocks import block_of
from worker.decoding import Decoder
from worker.settings import InputSettings

RECORDS, ROUNDS = 4000, 7
NAMES: Final = [f"sensor_{k}" for k in range(9)]


def _records() -> Mapping[str, tuple[list[bytes], dict[str, str]]]:
    """Return, for each case, records of nine readings and the settings that read them."""
    x = np.round(np.random.default_rng(0).normal(50, 10, (RECORDS, len(NAMES))), 3).tolist()
    readings = [dict(zip(NAMES, row, strict=True)) for row in x]
    fields = [{"field": name, "type": "double"} for name in NAMES]
    begin = 1_795_883_200
    documents: dict[str, tuple[list[Any], dict[str, str]]] = {
        "object": (readings, {}),
        "nested object": ([{"data": row, "ok": True} for row in readings], {"values_field": "data"}),
        "Connect": ([{"schema": {"type": "struct", "fields": fields}, "payload": row} for row in readings], {}),
        "Telegraf": (
            [
                {"fields": row, "name": "cpu", "tags": {"host": "web-1"}, "timestamp": begin + k}
                for k, row in enumerate(readings)
            ],
            {"shape": "telegraf"},
        ),
        "pairs in an array": (
            [
                {"timestamp": begin + k, "metrics": [{"name": n, "value": v} for n, v in row.items()]}
                for k, row in enumerate(readings)
            ],
            {"shape": "sparkplug-json"},
        ),
    }
    return {
        name: ([json.dumps(document).encode() for document in found], settings)
        for name, (found, settings) in documents.items()
    }


def main() -> None:
    for name, (values, settings) in _records().items():
        decoder, block = Decoder(InputSettings.model_validate(settings), NAMES), block_of(values)
        decoded, seconds = decoder.decode(block), []
        assert not decoded.rejects and np.isfinite(decoded.x).all()
        for _ in range(ROUNDS):
            began = time.process_time()
            decoder.decode(block)
            seconds.append(time.process_time() - began)
        print(f"{name:<18} {np.median(seconds) / RECORDS * 1e6:6.2f} us a record")


if __name__ == "__main__":
    main()
