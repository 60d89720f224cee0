"""Sparkplug B by exception and by aliases: learned, scored, each vector once, long after the birth certificates."""

import json
from collections.abc import Callable

import numpy as np
import orjson
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient

from tests.brokers import Broker
from tests.integration import test_readings
from tests.models import FEATURES, normal_rows
from tests.sparkplug import birth, data
from tests.stage import Stage, until

MakeStage = Callable[..., Stage]

T = 1_795_888_000_000
MACHINES = 2
SETTINGS = test_readings.SETTINGS | {
    "OFFNORMAL_INPUT__SHAPE": "sparkplug",
    "OFFNORMAL_INPUT__MQTT_TOPIC_HEADER": "mqtt-topic",
}


def send(s: Stage, kind: str, machine: int, messages: list[bytes]) -> list[tuple[int, int]]:
    """Send messages of one device, keyed by its edge node, as a bridge would."""
    topic = f"spBv1.0/plant/{kind}/line/press-{machine}".encode()
    headers = [[("mqtt-topic", topic), ("content-type", b"application/octet-stream")]] * len(messages)
    return s.send(messages, [b"plant/line"] * len(messages), machine % 2, headers)


def send_rows(s: Stage, x: np.ndarray, first: int) -> None:
    """Send what changes, a message a machine and second: of each row half of the metrics, in turn."""
    for machine in range(MACHINES):
        own = x[machine::MACHINES].astype(np.float64)
        messages = []
        for k, row in enumerate(own.tolist(), first):
            of = range(k % 2, len(FEATURES), 2)
            messages.append(data({100 * machine + j: row[j] for j in of}, T + 1000 * k))
        send(s, "DDATA", machine, messages)


def vectors(s: Stage) -> int:
    return sum(len(score.rows) for scores in s.scores().values() for score in scores)


def test_from_birth_certificates_to_incidents(stage: MakeStage, apache: Broker, rng: np.random.Generator) -> None:
    s = stage(**SETTINGS).make_topics(2)
    too_early = send(s, "DDATA", 0, [data({0: 1.0}, T - 1000)])
    for machine in range(MACHINES):
        send(s, "DBIRTH", machine, [birth(FEATURES, T, 100 * machine)])
    send_rows(s, normal_rows(MACHINES * 900, rng), 1)
    look = s.start(["worker", "topics", "--look"], {})
    assert look.wait() == 0, look.errors
    training = s.training("--json")
    assert training.wait(120) == 0, training.errors
    assert json.loads(training.output.splitlines()[-1])["promoted"], training.errors
    worker = s.worker()
    until(lambda: vectors(s) > 100, 60)
    worker.kill()
    worker = s.worker()
    until(lambda: vectors(s) >= MACHINES * 901, 60)
    assert worker.stop() == 0, worker.errors
    # Retention takes the birth certificates, and what still holds; later readings have only their aliases.
    ends = {TopicPartition(s.topics.sensors, p): offset for p, offset in s.committed().items()}
    client = KafkaAdminClient(bootstrap_servers=s.bootstrap)
    client.delete_records(ends)
    client.close()
    x = normal_rows(MACHINES * 30, rng)
    x[MACHINES * 10 :: MACHINES, 0] += 40  # of press-0
    send_rows(s, x, 902)
    worker = s.worker()
    until(lambda: vectors(s) >= MACHINES * (901 + 30), 60)
    assert worker.stop() == 0, worker.errors
    assert [dict(letter.headers)["offnormal-reason"] for letter in s.dead_letters()] == [b"unknown-alias"]
    (letter,) = s.dead_letters()
    place = int(dict(letter.headers)["offnormal-partition"]), int(dict(letter.headers)["offnormal-offset"])
    assert [place] == too_early and letter.value == data({0: 1.0}, T - 1000)
    incidents = {i["entity"]: i for i in (orjson.loads(r.value)["data"] for r in s.read(s.topics.incidents))}
    assert "plant/line/press-0" in incidents
    assert incidents["plant/line/press-0"]["features"][0]["name"] == FEATURES[0]
