"""Dead letters: the record unchanged, whatever its size, and put back once the cause is fixed."""

import json
from collections.abc import Callable

import confluent_kafka
import numpy as np
import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from tests.brokers import Broker
from tests.models import normal_rows
from tests.stage import Stage, encode
from worker.models import Artefact

MakeStage = Callable[..., Stage]


def limit(s: Stage, topic: str, most: int) -> None:
    client = KafkaAdminClient(bootstrap_servers=s.bootstrap)
    client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs={"max.message.bytes": str(most)})])
    client.close()


def test_they_are_put_back_once_each(
    stage: MakeStage, apache: Broker, artefact: Artefact, rng: np.random.Generator
) -> None:
    """JSON that came to a worker which reads float32: all of it is dead, and scored once the format is right."""
    s = stage(OFFNORMAL_INPUT__FORMAT="f32").make_topics(3)
    s.publish(artefact)
    values = [value + b" " * (17 - len(value) % 16) for value in encode(normal_rows(50, rng), "json")]  # no float32s
    places = s.send([*values, b"rubbish"], headers=[[("trace", b"%d" % i)] for i in range(51)])
    assert s.worker("--until-end").wait() == 0
    letters = s.dead_letters()
    assert len(letters) == 51
    assert {dict(letter.headers)["trace"] for letter in letters} == {b"%d" % i for i in range(51)}

    dry = s.worker("replay", "--dry-run", "--json")
    assert dry.wait() == 0, dry.errors
    assert json.loads(dry.output.splitlines()[-1]) == {"put_back": 51, "passed_over": {}}
    for expected in (51, 0):  # once each
        replay = s.worker("replay", "--json")
        assert replay.wait() == 0, replay.errors
        assert json.loads(replay.output.splitlines()[-1])["put_back"] == expected
    originals = {r.value: r for r in s.read(s.topics.sensors) if (r.partition, r.offset) in places}
    again = [r for r in s.read(s.topics.sensors) if (r.partition, r.offset) not in places]
    assert len(again) == 51
    for record in again:
        original, headers = originals[record.value], dict(record.headers)
        assert (record.key, record.partition, record.timestamp) == (
            original.key,
            original.partition,
            original.timestamp,
        )
        assert headers["trace"] == dict(original.headers)["trace"]
        assert headers["offnormal-replayed"].startswith(s.topics.dead_letters.encode())

    assert s.worker("--until-end", OFFNORMAL_INPUT__FORMAT="json").wait() == 0
    assert set(s.scores()) == {(r.partition, r.offset) for r in again if r.value != b"rubbish"}
    replay = s.worker("replay", "--json")
    assert replay.wait() == 0
    assert json.loads(replay.output.splitlines()[-1])["put_back"] == 1, "what is still rubbish has come back"


def test_a_record_that_is_larger_than_a_dead_letter_may_be(
    stage: MakeStage, apache: Broker, artefact: Artefact
) -> None:
    """Its bytes are left out, and read again where it came from."""
    s = stage().make_topics(1)
    limit(s, s.topics.dead_letters, 20_000)
    s.publish(artefact)
    s.send([b"x" * 30_000, b"[1, 2, 3, 4]", b"small"])
    assert s.worker("--until-end").wait() == 0
    large, small = s.dead_letters()
    assert small.value == b"small"
    assert large.value is None
    assert b"30000 bytes" in dict(large.headers)["offnormal-left-out"]
    assert dict(large.headers)["offnormal-offset"] == b"0"
    assert set(s.scores()) == {(0, 1)}
    assert s.worker("replay").wait() == 0
    assert [r.value for r in s.read(s.topics.sensors)][-2:] == [b"x" * 30_000, b"small"]


def test_scores_that_are_larger_than_their_topic_takes(stage: MakeStage, apache: Broker, artefact: Artefact) -> None:
    """Many rows in a record: the events come all the same, and the scores' record says what it lacks."""
    s = stage().make_topics(1)
    limit(s, s.topics.scores, 20_000)
    s.publish(artefact)
    rows = [[10, 0, -5, 100]] * 2000
    rows[77] = [10, 0, 500, 100]
    s.send([json.dumps(rows).encode(), b"[10, 0, -5, 100]"])
    worker = s.worker("--until-end")
    assert worker.wait() == 0, worker.errors
    large, small = s.read(s.topics.scores)
    assert large.value is None and b"takes records of 20000" in dict(large.headers)["offnormal-left-out"]
    assert len(json.loads(small.value)["rows"]) == 1
    assert [event["id"].rpartition("/")[2] for event in s.events()] == ["77"]
    assert worker.log("record_values_dropped")


def test_names_that_are_too_long(stage: MakeStage, apache: Broker, artefact: Artefact) -> None:
    s = stage(OFFNORMAL_INPUT__ENTITY_FIELD="id").make_topics(1)
    s.publish(artefact)
    far = b'{"id": "%s", "values": [1e6, 1e6, 1e6, 1e6]}'
    keys = [b"k" * 1024, b"k" * 1025, b"k" * 900_000, b"k", b"k"]
    s.send([b"[1e6,1e6,1e6,1e6]"] * 3 + [far % (b"n" * 1024), far % (b"n" * 1025)], keys)
    worker = s.worker("--until-end")
    assert worker.wait() == 0, worker.errors
    assert [(r.offset, dict(r.headers)["offnormal-reason"]) for r in s.dead_letters()] == [
        (i, b"bad-entity") for i in range(3)
    ]
    assert {len(event["subject"]) for event in s.events()} == {1024}


@pytest.mark.parametrize("client", ["columnar", "public"])
def test_headers_without_a_value_and_with_odd_names(
    stage: MakeStage, apache: Broker, artefact: Artefact, client: str
) -> None:
    """kafka-python's producer takes no such header, and Kafka does."""
    s = stage(OFFNORMAL_KAFKA__CLIENT=client).make_topics(1)
    s.publish(artefact)
    producer = confluent_kafka.Producer({"bootstrap.servers": s.bootstrap})
    for value in (b"rubbish", b"[1, 2, 3, 4]", b""):
        producer.produce(s.topics.sensors, value, None, headers=[("x", None), ("größe", b"1")])
    producer.flush(10)
    worker = s.worker("--until-end")
    assert worker.wait() == 0, worker.errors
    assert set(s.scores()) == {(0, 1)}
    assert [letter.value for letter in s.dead_letters()] == [b"rubbish", b""]
    assert all(dict(letter.headers)["größe"] == b"1" for letter in s.dead_letters())
    replay = s.worker("replay", "--json")
    assert replay.wait() == 0, replay.errors
    assert json.loads(replay.output.splitlines()[-1])["put_back"] == 2
