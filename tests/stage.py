"""A stage: topics, settings and worker processes of one test, and a reader of outputs that is independent of the
worker's own code (kafka-python and json, nothing of ours).
"""

import io
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import fastavro
import numpy as np
import pyarrow as pa
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from tests.models import FEATURES
from worker.kafka.topics import create
from worker.models import Artefact
from worker.publishing.event_reader import EventReader
from worker.registry import Registry
from worker.schema_registry import SchemaRegistry
from worker.settings import SchemaRegistrySettings, Settings, load

Place = tuple[int, int]  # partition, offset
VECTOR = {  # the schema of what is sent as avro
    "type": "record",
    "name": "Vector",
    "fields": [{"name": name, "type": "float"} for name in FEATURES],
}
ROWS = fastavro.parse_schema(
    {
        "type": "record",
        "name": "Rows",
        "fields": [{"name": "rows", "type": {"type": "array", "items": {"type": "array", "items": "float"}}}],
    }
)


@dataclass(frozen=True)
class Score:
    version: str
    rows: list[tuple[float, float]]  # score, p-value


class Stage:
    living: ClassVar[list["Stage"]] = []  # of which a test that fails shows the logs

    def __init__(self, bootstrap: str, folder: Path, settings: Mapping[str, str]):
        self.bootstrap = settings.get("OFFNORMAL_KAFKA__BOOTSTRAP", bootstrap)
        prefix = f"t{uuid.uuid4().hex[:10]}"
        self.environment = {
            "OFFNORMAL_KAFKA__BOOTSTRAP": bootstrap,
            "OFFNORMAL_KAFKA__GROUP": prefix,
            "OFFNORMAL_KAFKA__SESSION_TIMEOUT": "6",
            "OFFNORMAL_KAFKA__STARTUP_TIMEOUT": "20",
            "OFFNORMAL_HTTP__PORT": "0",
            "OFFNORMAL_LOG__FORMAT": "json",
            "OFFNORMAL_DETECTION__FALSE_ALARM_RATE": "0.01",
            **{
                f"OFFNORMAL_TOPICS__{name.upper()}": f"{prefix}.{name.replace('_', '-')}"
                for name in (
                    "SENSORS",
                    "ANOMALIES",
                    "INCIDENTS",
                    "DEAD_LETTERS",
                    "MODELS",
                    "SCORES",
                    "LATENTS",
                    "RECONSTRUCTIONS",
                    "DRIFT",
                    "TRAINING_REQUESTS",
                    "LABELS",
                    "SHADOW",
                    "BIRTHS",
                )
            },
            "OFFNORMAL_OUTPUTS": '["scores"]',
            **settings,
        }
        self.settings = self.load()
        self.topics = self.settings.topics
        self._folder = folder
        self.processes: list[Process] = []
        self.living.append(self)
        self._producer = KafkaProducer(bootstrap_servers=self.bootstrap, linger_ms=5, max_request_size=8_000_000)

    def load(self, **changes: str) -> Settings:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("OFFNORMAL_")}
        with mock.patch.dict(os.environ, clean | self.environment | changes, clear=True):
            return load()

    def make_topics(self, partitions: int = 4, replication: int = 1) -> "Stage":
        create(self.settings, partitions, replication)
        return self

    def publish(self, artefact: Artefact) -> None:
        Registry(self.settings).publish(artefact, author="test", why="test")

    def send(
        self,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None = None,
        partition: int | None = None,
        headers: Sequence[list[tuple[str, bytes]]] | None = None,
        times: Sequence[int] | None = None,
        topic: str | None = None,
    ) -> list[Place]:
        """Spread over the partitions in turn, unless one is named; the places of the records. `times` in ms."""
        topic = topic or self.topics.sensors
        count = len(self._producer.partitions_for(topic))
        futures = [
            self._producer.send(
                topic,
                value,
                keys[i] if keys else b"m%d" % (i % 7),
                headers[i] if headers else None,
                partition=i % count if partition is None else partition,
                timestamp_ms=times[i] if times else None,
            )
            for i, value in enumerate(values)
        ]
        self._producer.flush(30)
        return [(m.partition, m.offset) for m in (f.get(30) for f in futures)]

    def send_rows(self, x: np.ndarray[Any, Any]) -> list[Place]:
        """Each row of x a record, in the stage's format."""
        return self.send(encode(x, self.settings.input.format))

    # -- processes

    def worker(self, *arguments: str, **settings: str) -> "Process":
        return self.start(["worker", *arguments], settings)

    def training(self, *arguments: str, **settings: str) -> "Process":
        return self.start(["training", *arguments], settings)

    def start(self, arguments: Sequence[str], settings: Mapping[str, str]) -> "Process":
        """`python -m` these arguments, with the stage's settings and more."""
        log = self._folder / f"{len(self.processes)}-{arguments[0]}"
        clean = {k: v for k, v in os.environ.items() if not k.startswith("OFFNORMAL_")}
        process = Process(arguments, clean | self.environment | dict(settings), log)
        self.processes.append(process)
        return process

    def close(self) -> None:
        if self in self.living:
            self.living.remove(self)
        for process in self.processes:
            process.kill()
        self._producer.close(timeout=2)

    # -- outputs

    def read(self, topic: str) -> list[Any]:
        """All records of a topic under read_committed."""
        consumer = KafkaConsumer(
            bootstrap_servers=self.bootstrap,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=50,
        )
        try:
            partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
            consumer.assign(partitions)
            ends, found = consumer.end_offsets(partitions), []
            while True:
                records = consumer.poll(timeout_ms=200)
                found += [r for part in records.values() for r in part]
                if not records and all((consumer.position(p) or 0) >= ends[p] for p in partitions):
                    return found
        finally:
            consumer.close()

    def scores(self) -> dict[Place, list[Score]]:
        """Place of the input record -> its score records; more than one is a repeat."""
        found: dict[Place, list[Score]] = defaultdict(list)
        for record in self.read(self.topics.scores):
            headers = dict(record.headers)
            _, partition, offset = headers["offnormal-source"].decode().split("/")[:3]
            rows = [(row[0], row[1]) for row in decode(record.value, headers["content-type"])]
            version = headers["offnormal-model"].decode().split("/")[1]
            found[int(partition), int(offset)].append(Score(version, rows))
        return found

    def events(self, registry: str | None = None) -> list[dict[str, Any]]:
        """Of Avro with the address of the schema registry."""
        client = None if registry is None else SchemaRegistry(SchemaRegistrySettings(url=registry))
        return [EventReader(client).event(record.value) for record in self.read(self.topics.anomalies)]

    def dead_letters(self) -> list[Any]:
        return self.read(self.topics.dead_letters)

    def committed(self) -> dict[int, int]:
        consumer = KafkaConsumer(bootstrap_servers=self.bootstrap, group_id=self.settings.kafka.group)
        try:
            partitions = consumer.partitions_for_topic(self.topics.sensors) or ()
            found = {p: consumer.committed(TopicPartition(self.topics.sensors, p)) for p in partitions}
            return {p: offset for p, offset in found.items() if offset is not None}
        finally:
            consumer.close()


class Process:
    """`python -m ARGUMENTS` with its output in files."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path):
        self._out, self._err = log.with_suffix(".out"), log.with_suffix(".err")
        self.arguments = arguments
        self.port = int(environment.get("OFFNORMAL_HTTP__PORT", 0))  # 0: it serves nothing
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env=dict(environment),
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
            )

    def told(self) -> str:
        """How it ended, if it has, and the end of its log."""
        return f"{' '.join(self.arguments)}: {self.popen.poll()}\n{self.errors[-6000:]}"

    @property
    def output(self) -> str:
        return self._out.read_text()

    @property
    def errors(self) -> str:
        return self._err.read_text()

    def log(self, event: str) -> list[dict[str, Any]]:
        """The structlog lines of an event."""
        lines = [json.loads(line) for line in self.errors.splitlines() if line.startswith("{") and line.endswith("}")]
        return [line for line in lines if line["event"] == event]

    def wait(self, timeout: float = 60) -> int:
        return self.popen.wait(timeout)

    def await_log(self, event: str, count: int = 1, timeout: float = 40) -> list[dict[str, Any]]:
        until(lambda: len(self.log(event)) >= count or self.popen.poll() is not None, timeout)
        found = self.log(event)
        assert len(found) >= count, f"no {event!r} in:\n{self.errors[-3000:]}"
        return found

    def stop(self, timeout: float = 15) -> int:
        self.popen.terminate()
        return self.wait(timeout)

    def kill(self) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGKILL)
            self.popen.wait(10)


def encode(x: np.ndarray[Any, Any], kind: str) -> list[bytes]:
    """A record for each row; of `avro` the schema's number is 1."""
    if kind == "arrow":
        return [arrow(row[None]) for row in x]
    if kind == "avro":
        return [b"\0\0\0\0\1" + row.tobytes() for row in x.astype("<f4")]
    if kind == "f32":
        return [row.tobytes() for row in x.astype("<f4")]
    return [json.dumps([None if v != v else v for v in row]).encode() for row in x.astype(float).tolist()]


def decode(value: bytes, kind: bytes) -> list[list[float]]:
    """The rows of a record of scores, latents or reconstructions."""
    if kind == b"f32":
        return [list(map(float, row)) for row in np.frombuffer(value, "<f4").reshape(-1, 2)]
    if kind == b"application/vnd.apache.arrow.stream":
        return [list(row.values()) for row in pa.ipc.open_stream(value).read_all().to_pylist()]
    if kind == b"application/avro":
        rows: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), ROWS, None)
        return list(rows["rows"])
    return [[float("nan") if v is None else v for v in row] for row in json.loads(value)["rows"]]


def arrow(x: np.ndarray[Any, Any]) -> bytes:
    """A record of all rows."""
    batch = pa.RecordBatch.from_arrays([pa.array(column) for column in x.T.copy()], list(FEATURES[: x.shape[1]]))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    made: bytes = sink.getvalue().to_pybytes()
    return made


def until(ready: Callable[[], bool], timeout: float = 30, every: float = 0.1) -> None:
    """Waits; fails the test where it is in vain."""
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s")
        time.sleep(every)
