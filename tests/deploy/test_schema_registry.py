"""Avro and Protobuf with a real schema registry, Apicurio, by the API that it shares with Confluent's: schemas that
evolve, refer to each other, are registered by the worker; and a registry that hangs.
"""

import io
import os
import signal
import struct
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from tests.brokers import Broker
from tests.deploy import tools
from tests.models import FEATURES, normal_rows
from tests.stage import VECTOR, Stage, until
from worker.demo.broker import free_port
from worker.models import Artefact
from worker.schema_registry import SchemaRegistry, UnknownSchema
from worker.settings import SchemaRegistrySettings

MakeStage = Callable[..., Stage]


@dataclass
class Registry:
    url: str
    process: subprocess.Popen[bytes]

    @property
    def client(self) -> SchemaRegistry:
        return SchemaRegistry(SchemaRegistrySettings(url=self.url))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    jar, port = tools.apicurio(), free_port()
    log = tmp_path_factory.mktemp("registry") / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["java", "-Xmx400m", "-jar", str(jar)],
            env=os.environ | {"QUARKUS_HTTP_PORT": str(port), "QUARKUS_HTTP_HOST": "127.0.0.1"},
            stdout=out,
            stderr=out,
            cwd=log.parent,
        )
    url = f"http://127.0.0.1:{port}/apis/ccompat/v7"

    def answers() -> bool:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"{url}/subjects", timeout=2):
                return True
        except OSError:
            return False

    until(answers, 60)
    yield Registry(url, process)
    process.kill()
    process.wait()


def wire(id: int, schema: Any, document: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), document)
    return b"\0" + struct.pack(">I", id) + out.getvalue()


def test_it_keeps_what_it_is_given(registry: Registry) -> None:
    client = registry.client
    id = client.register("a-subject", VECTOR)
    assert client.register("a-subject", VECTOR) == id
    assert registry.client.schema(id)[0]["fields"] == VECTOR["fields"]
    assert "a-subject" in client.subjects()
    with pytest.raises(UnknownSchema):
        client.schema(987_654_321)


def test_vectors_in_events_and_scores_out(
    registry: Registry, stage: MakeStage, broker: Broker, artefact: Artefact, rng: np.random.Generator
) -> None:
    """By two schemas, the second with more fields in another order; the registry hangs before it is asked for it."""
    s = stage(
        OFFNORMAL_INPUT__FORMAT="avro",
        OFFNORMAL_INPUT__ENTITY_FIELD="machine",
        OFFNORMAL_INPUT__TIME_FIELD="at",
        OFFNORMAL_EVENT_FORMAT="avro",
        OFFNORMAL_SCHEMA_REGISTRY__URL=registry.url,
        OFFNORMAL_SCHEMA_REGISTRY__TIMEOUT="1",
    ).make_topics(1)
    s.publish(artefact)
    text, time = {"name": "machine", "type": "string"}, {"type": "long", "logicalType": "timestamp-millis"}
    old = VECTOR | {"fields": [text, *VECTOR["fields"]]}
    newer = [
        {"name": "at", "type": ["null", time], "default": None},
        {"name": "note", "type": "string", "default": ""},
        *reversed(VECTOR["fields"]),
        text,
    ]
    new = VECTOR | {"fields": newer}
    subject = f"{s.topics.sensors}-value"
    ids = [registry.client.register(subject, schema) for schema in (old, new)]
    assert ids[0] != ids[1]
    rows = normal_rows(60, rng)
    rows[50] += [1e4, 0, 0, 0]
    documents = [{"machine": "press"} | dict(zip(FEATURES, map(float, row), strict=True)) for row in rows]
    worker = s.worker()
    worker.await_log("worker_started")
    s.send([wire(ids[0], old, each) for each in documents[:30]])
    until(lambda: sum(s.committed().values()) == 30)
    registry.process.send_signal(signal.SIGSTOP)
    s.send([wire(ids[1], new, each | {"at": 1_767_323_045_678, "note": "é"}) for each in documents[30:]])
    (redo, *_) = worker.await_log("work_redone", 2)
    assert "does not answer" in redo["reason"]
    assert sum(s.committed().values()) == 30
    registry.process.send_signal(signal.SIGCONT)
    until(lambda: sum(s.committed().values()) == 60)
    assert worker.stop() == 0, worker.errors
    assert not s.dead_letters()
    scores = s.scores()
    assert len(scores) == 60 and all(len(found) == 1 for found in scores.values())
    events = {event["id"]: event for event in s.events(registry.url)}
    event = events[f"{s.topics.sensors}/0/50/0"]
    assert event["subject"] == "press" and event["time"] == "2026-01-02T03:04:05.678Z"
    assert event["data"]["features"][0]["name"] == FEATURES[0]


PROTO = """syntax = "proto3";
package plant;
import "shared/place.proto";
import "google/protobuf/timestamp.proto";
message Note { string text = 1; }
message Vector {
  shared.Place place = 1;
  google.protobuf.Timestamp at = 2;
  Readings readings = 3;
  message Readings { %s }
}
"""
PLACE = 'syntax = "proto3"; package shared; message Place { string machine = 1; }'


def test_protobuf_as_confluents_own_client_writes_it(
    registry: Registry,
    stage: MakeStage,
    broker: Broker,
    artefact: Artefact,
    rng: np.random.Generator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second message of a schema that imports another; protoc makes the sender's code."""
    fields = " ".join(f"double {name} = {k};" for k, name in enumerate(FEATURES, 1))
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/place.proto").write_text(PLACE)
    (tmp_path / "plant_vector.proto").write_text(PROTO % fields)
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{tmp_path}", f"--python_out={tmp_path}"]
    subprocess.run([*command, "plant_vector.proto", "shared/place.proto"], check=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    sender = import_module("plant_vector_pb2")
    s = stage(
        OFFNORMAL_INPUT__FORMAT="protobuf",
        OFFNORMAL_INPUT__VALUES_FIELD="readings",
        OFFNORMAL_INPUT__ENTITY_FIELD="place.machine",
        OFFNORMAL_INPUT__TIME_FIELD="at",
        OFFNORMAL_SCHEMA_REGISTRY__URL=registry.url,
    ).make_topics(1)
    s.publish(artefact)
    confluent = SchemaRegistryClient({"url": registry.url})
    serialize = ProtobufSerializer(sender.Vector, confluent, {"use.deprecated.format": False})
    context = SerializationContext(s.topics.sensors, MessageField.VALUE)
    rows = normal_rows(60, rng)
    rows[50] += [1e4, 0, 0, 0]
    values = []
    for k, row in enumerate(rows):
        message = sender.Vector(readings=dict(zip(FEATURES, map(float, row), strict=True)))
        message.place.machine = "press"
        message.at.FromMilliseconds(1_767_323_045_678 + k)
        values.append(serialize(message, context))
    assert values[0][5:7] == b"\x02\x02", "the place of the message: one index, 1"
    s.send([*values, values[0][:9]])
    worker = s.worker("--until-end")
    assert worker.wait() == 0, worker.errors
    scores = s.scores()
    assert len(scores) == 60 and all(len(found) == 1 for found in scores.values())
    (dead,) = s.dead_letters()
    events = {event["id"]: event for event in s.events()}
    event = events[f"{s.topics.sensors}/0/50/0"]
    assert event["subject"] == "press" and event["time"] == "2026-01-02T03:04:05.728Z"
    assert event["data"]["features"][0]["name"] == FEATURES[0]
    look = s.worker("topics", "--look")
    assert look.wait() == 0, look.errors
    assert "readings" in look.output and "place.machine" in look.output, look.output
