"""What the benchmarks stream: 32 correlated readings a vector, one vector in a hundred far off, and a model of them."""

import hashlib
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import confluent_kafka as ck
import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from training.fitting.champion_scores import ChampionScores
from training.fitting.drift_reference import reference
from training.fitting.fit import fit
from worker.models import Artefact, ModelCard
from worker.models.artefact import FORMAT_VERSION
from worker.registry import new_version

FEATURES: Final = tuple(f"f{i:02d}" for i in range(32))
ANOMALIES: Final = 0.01  # share of the vectors
# vectors a record
FORMATS: Final = {"raw": 1, "json": 1, "object": 1, "raw50": 50, "avro": 1, "arrow50": 50, "reading": 1, "readings": 1}
SCHEMA: Final = {  # of avro
    "type": "record",
    "name": "Vector",
    "fields": [{"name": "id", "type": "string"}, *({"name": name, "type": "float"} for name in FEATURES)],
}
PARTITIONS: Final = 4
CHUNK: Final = 50_000  # vectors, made and sent at once

Rows = npt.NDArray[np.float32]


def rows(n: int, seed: int, share: float = ANOMALIES) -> tuple[Rows, npt.NDArray[np.bool_]]:
    """[n, 32] six hidden causes and noise, and which rows are far off: five of their readings, by 12 deviations."""
    rng = np.random.default_rng((seed, 32))
    mix = np.random.default_rng(32).normal(size=(6, 32))
    x = rng.normal(size=(n, 6)) @ mix + rng.normal(scale=0.3, size=(n, 32)) + np.linspace(-50, 50, 32)
    bad = rng.random(n) < share
    moved = np.argsort(rng.random((int(bad.sum()), 32)), axis=1)[:, :5]
    x[np.flatnonzero(bad)[:, None], moved] += 12 * np.sqrt(np.square(mix).sum(0))[moved]
    return x.astype(np.float32), bad


def encoded(x: Rows, form: str, first: int = 0) -> list[bytes]:
    """The values of the records. In JSON the readings have four decimals, as sensors do."""
    if form in ("raw", "raw50"):
        return [part.tobytes() for part in x.reshape(-1, FORMATS[form], 32)]
    if form == "avro":
        ids = (f"sensor-{i % 1000:03d}-{i}".encode() for i in range(first, first + len(x)))
        return [b"\0\0\0\0\1%c%s%s" % (2 * len(id), id, row.tobytes()) for id, row in zip(ids, x, strict=True)]
    if form == "arrow50":
        return [_arrow(part) for part in x.reshape(-1, FORMATS[form], 32)]
    if form in ("reading", "readings"):
        return [value for i, row in enumerate(x, first) for value in _readings(row, i, form)]
    found: list[bytes] = []
    for i, row in enumerate(x.astype(np.float64).round(4).tolist(), first):
        head: dict[str, Any] = {"id": f"sensor-{i % 1000:03d}-{i}", "ts": 1_700_000_000_000 + i}
        readings = dict(zip(FEATURES, row, strict=True)) if form == "object" else {"values": row}
        found.append(orjson.dumps(head | readings))
    return found


def _readings(row: Any, i: int, form: str) -> list[bytes]:
    """Return each reading as a record, or all as an array in one: the rows of a partition are a second apart."""
    time_ms = 1_700_000_000_000 + i // PARTITIONS * 1000
    found = [
        {"tag": tag, "value": value, "time": time_ms}
        for tag, value in zip(FEATURES, row.astype(np.float64).round(4).tolist(), strict=True)
    ]
    return [orjson.dumps({"m": found})] if form == "readings" else list(map(orjson.dumps, found))


def _arrow(x: Rows) -> bytes:
    batch = pa.RecordBatch.from_arrays([pa.array(column) for column in x.T.copy()], list(FEATURES))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    made: bytes = sink.getvalue().to_pybytes()
    return made


def make_topic(bootstrap: str, topic: str, partitions: int) -> bool:
    """False if it is there already."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    try:
        admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(30)
    except ck.KafkaException as error:
        if error.args[0].code() != ck.KafkaError.TOPIC_ALREADY_EXISTS:
            raise
        return False
    time.sleep(1)  # for its leaders
    return True


def _records_in(bootstrap: str, topic: str, partitions: int) -> int:
    consumer = ck.Consumer({"bootstrap.servers": bootstrap, "group.id": "bench"})
    ends = (consumer.get_watermark_offsets(ck.TopicPartition(topic, p), timeout=30) for p in range(partitions))
    found: int = sum(end for _, end in ends)
    consumer.close()
    return found


def fill(
    bootstrap: str, form: str, n: int, partitions: int = 4, compression: str = "none", share: float = ANOMALIES
) -> str:
    """A topic with n vectors, evenly over its partitions; its name. The one that is there already, if it is."""
    topic = f"bench-{form}-{n}-{partitions}-{compression}-{share}"
    of_row = len(FEATURES) if form == "reading" else 1  # records that belong together
    records = n // FORMATS[form] * of_row
    if not make_topic(bootstrap, topic, partitions):
        if _records_in(bootstrap, topic, partitions) != records:
            raise RuntimeError(f"{topic} is not whole, of a run that was broken off: delete it")
        return topic
    failed: list[Any] = []
    producer = ck.Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 20,
            "batch.size": 262_144,
            "queue.buffering.max.messages": 1_000_000,
            "compression.type": compression,
            "error_cb": failed.append,
        }
    )
    record = 0
    for chunk, first in enumerate(range(0, n, CHUNK)):
        x, _ = rows(min(CHUNK, n - first), chunk, share)
        for value in encoded(x, form, first):
            producer.produce(topic, value, partition=record // of_row % partitions)
            record += 1
        while len(producer) > 200_000:
            producer.poll(0.1)
    producer.flush()
    if failed:
        raise RuntimeError(f"{topic} could not be filled: {failed[0]}")
    return topic


def model(folder: Path) -> bytes:
    """An artefact for these rows, kept in the folder."""
    x, bad = rows(150_000, 1_000_000)
    return kept(folder / "bench-model", x[~bad])


def kept(path: Path, x: Rows) -> bytes:
    """An artefact of the kind `stacked`, 32-64-16-64-32, fitted on two fifths of the rows and calibrated on the others;
    kept beside `path` for the next run.
    """
    told = repr((FEATURES, FORMAT_VERSION, "reference")).encode()
    file = path.with_name(f"{path.name}-{hashlib.sha256(told).hexdigest()[:8]}.safetensors")
    if not file.exists():
        part = len(x) * 2 // 5
        fitted = fit(x[:part], x[part:], FEATURES, "stacked", steps=2000)
        made = datetime.now(UTC)
        card = ModelCard(
            name="default",
            version=new_version(made, b"bench"),
            kind="stacked",
            architecture=fitted.detector.module.autoencoder.architecture(),
            features=FEATURES,
            created=made.isoformat(),
            rows={},
            trained_on={},
            quality={},
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        p_values = [ChampionScores.of(fitted.detector, each).p_value for each in np.array_split(x[part:], 10)]
        # Of a plant that sends a thousand vectors a second.
        known = reference(x[part:], np.zeros(len(x) - part, np.int64), [""], p_values, 1.0, 86_400_000.0)
        file.write_bytes(Artefact.make(card, fitted.detector, x[part:], known).dump())
    return file.read_bytes()
