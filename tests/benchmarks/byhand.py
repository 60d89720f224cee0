"""The reference: what one writes by hand on confluent-kafka and torch.

Consumes a batch, decodes it by numpy, orjson, pyarrow and fastavro, scores it with the same weights, produces a short
alert per vector over the threshold, commits each second. At least once; no whitening, no contributions, no incidents,
no dead letters.

    python -m tests.benchmarks.byhand --bootstrap B --topic T --out O --model FILE --format raw --rows N [--scores]
"""

import argparse
import io
import json
import time
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import fastavro
import numpy as np
import orjson
import pyarrow as pa
import torch

from tests.benchmarks.measured import cpu, line
from tests.benchmarks.stream import FEATURES, FORMATS, SCHEMA, Rows, rows
from worker.models import Artefact

BATCH = 1024
AVRO = fastavro.parse_schema(SCHEMA)


class Detector:
    def __init__(self, artefact: Artefact):
        module = artefact.detector.module
        self._autoencoder, self._scaler = module.autoencoder, module.scaler
        torch.set_num_threads(1)
        normal, bad = rows(20_000, 2_000_000)
        self.threshold = 2 * float(self.score(normal[~bad]).max())

    def score(self, x: Rows) -> Rows:
        with torch.inference_mode():
            z = (torch.from_numpy(x) - self._scaler.location) / self._scaler.scale
            found: Rows = torch.square(self._autoencoder(z) - z).mean(1).numpy()
            return found


def decode(values: list[bytes], form: str) -> tuple[Rows, list[Any] | None]:
    if form in ("raw", "raw50"):
        return np.frombuffer(bytearray(b"".join(values)), "<f4").reshape(-1, 32), None
    if form == "arrow50":
        batches = [batch for value in values for batch in pa.ipc.open_stream(value)]
        table = pa.Table.from_batches(batches)
        return np.stack([table.column(name).to_numpy() for name in FEATURES], 1), None
    if form == "avro":
        read = [fastavro.schemaless_reader(io.BytesIO(value[5:]), AVRO, None) for value in values]
        return np.array([[doc[name] for name in FEATURES] for doc in read], np.float32), None
    docs = [orjson.loads(value) for value in values]
    if form == "object":
        return np.array([[doc[name] for name in FEATURES] for doc in docs], np.float32), docs
    return np.array([doc["values"] for doc in docs], np.float32), docs


def main() -> None:
    ap = argparse.ArgumentParser()
    for name in ("bootstrap", "topic", "out"):
        ap.add_argument(f"--{name}", required=True)
    ap.add_argument("--model", type=Path, required=True)
    ap.add_argument("--format", choices=tuple(FORMATS), required=True)
    ap.add_argument("--rows", type=int, required=True)
    ap.add_argument("--scores", action="store_true")
    a = ap.parse_args()
    detector = Detector(Artefact.load(a.model.read_bytes()))
    consumer = ck.Consumer(
        {
            "bootstrap.servers": a.bootstrap,
            "group.id": f"byhand-{time.time_ns()}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 10,  # by default it pauses for a second whenever its queue is full
        }
    )
    producer = ck.Producer(
        {"bootstrap.servers": a.bootstrap, "acks": "all", "linger.ms": 5, "queue.buffering.max.messages": 1_000_000}
    )
    consumer.subscribe([a.topic])
    per_record = FORMATS[a.format]
    n = alerts = batches = 0
    start, due = (0.0, 0.0), time.monotonic() + 1
    while n < a.rows:
        messages = [m for m in consumer.consume(min(BATCH, (a.rows - n) // per_record), 0.1) if m.error() is None]
        if messages:
            if not n:
                start = time.perf_counter(), cpu()
            x, docs = decode([m.value() for m in messages], a.format)
            scores = detector.score(x)
            over = np.flatnonzero(scores > detector.threshold)
            for i in over:
                record, row = divmod(int(i), per_record)
                message = messages[record]
                alert = {
                    "partition": message.partition(),
                    "offset": message.offset(),
                    "row": row,
                    "score": float(scores[i]),
                    "threshold": detector.threshold,
                    **({"id": docs[i]["id"], "ts": docs[i]["ts"]} if docs else {}),
                }
                producer.produce(a.out, orjson.dumps(alert))
            if a.scores:
                for message, score in zip(messages, scores.reshape(-1, per_record), strict=True):
                    producer.produce(
                        f"{a.out}-scores", score.tobytes(), key=message.key(), partition=message.partition()
                    )
            producer.poll(0)
            n, alerts, batches = n + len(x), alerts + len(over), batches + 1
        if n >= a.rows:
            end = time.perf_counter(), cpu()
        if n >= a.rows or time.monotonic() >= due:
            producer.flush()
            if n:
                consumer.commit(asynchronous=False)
            due = time.monotonic() + 1
    consumer.close()
    print(json.dumps(line(n, alerts, batches, start, end)), flush=True)


if __name__ == "__main__":
    main()
