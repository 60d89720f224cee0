"""Vectors of several topics, by their names or by a pattern: one group, one model, each vector scored once."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import orjson
import pytest
from kafka.admin import KafkaAdminClient, NewTopic

from tests.brokers import Broker
from tests.models import FEATURES, normal_rows
from tests.stage import Stage, encode, until
from worker.models import Artefact

MakeStage = Callable[..., Stage]
Source = tuple[str, int, int]  # topic, partition, offset


def make(s: Stage, topics: dict[str, int]) -> None:
    """Make topics with so many partitions."""
    client = KafkaAdminClient(bootstrap_servers=s.bootstrap)
    client.create_topics([NewTopic(name, count, 1) for name, count in topics.items()])
    client.close()


def send(s: Stage, topic: str, x: np.ndarray) -> set[Source]:
    """Send rows to one of the topics; return where they lie."""
    return {(topic, *place) for place in s.send(encode(x, "f32"), topic=topic)}


def scored(s: Stage) -> Counter[Source]:
    """Return how often the vector of each place has a score."""
    found: Counter[Source] = Counter()
    for record in s.read(s.topics.scores):
        topic, partition, offset = dict(record.headers)["offnormal-source"].decode().split("/")
        found[topic, int(partition), int(offset)] += 1
    return found


@pytest.fixture
def several(stage: MakeStage, apache: Broker, artefact: Artefact) -> Callable[..., Stage]:
    """A stage that reads `north` and `south`, with a champion."""

    def opened(pattern: bool = False, **settings: str) -> Stage:
        s = stage(OFFNORMAL_INPUT__FORMAT="f32", **settings)
        prefix = s.environment["OFFNORMAL_KAFKA__GROUP"]
        topics = rf"^{prefix}\.plant-.*" if pattern else f"{prefix}.plant-north,{prefix}.plant-south"
        s.environment["OFFNORMAL_TOPICS__SENSORS"] = topics
        s.settings = s.load()
        s.topics = s.settings.topics
        make(s, {f"{prefix}.plant-north": 2, f"{prefix}.plant-south": 3})
        s.make_topics(2).publish(artefact)
        return s

    return opened


def names(s: Stage) -> tuple[str, str]:
    prefix = s.environment["OFFNORMAL_KAFKA__GROUP"]
    return f"{prefix}.plant-north", f"{prefix}.plant-south"


@pytest.mark.parametrize("pattern", [False, True], ids=["names", "pattern"])
def test_each_vector_is_scored_once_through_a_kill(
    several: Callable[..., Stage], rng: np.random.Generator, pattern: bool
) -> None:
    s = several(pattern)
    north, south = names(s)
    sent = send(s, north, normal_rows(3000, rng)) | send(s, south, normal_rows(3000, rng))
    first = s.worker()
    until(lambda: len(s.read(s.topics.scores)) > 500)
    first.kill()
    x = normal_rows(200, rng)
    x[:3] += 50  # every entity of both topics: an incident each
    for topic in (north, south):
        sent |= send(s, topic, np.repeat(x[:1], 7, axis=0)) | send(s, topic, x)
    s.send([b"rubbish"], topic=south, partition=2)
    second = s.worker("--until-end")
    assert second.wait() == 0, second.errors
    found = scored(s)
    assert set(found) == sent and set(found.values()) == {1}
    (letter,) = s.dead_letters()
    assert dict(letter.headers)["offnormal-topic"] == south.encode()
    assert {event["id"].split("/")[0] for event in s.events()} == {north, south}
    incidents = [orjson.loads(record.value)["data"] for record in s.read(s.topics.incidents)]
    assert {incident["incident"].split("/")[0] for incident in incidents} == {north, south}
    identities = {incident["incident"]: incident["identity"] for incident in incidents}
    assert len(set(identities.values())) == len(identities), "an entity of one topic is not that of another"
    again = s.start(["worker", "replay"], {})
    assert again.wait() == 0, again.errors
    assert [r.value for r in s.read(south) if dict(r.headers).get("offnormal-replayed")] == [b"rubbish"]


def test_a_topic_that_comes_later_is_read_from_its_first_record(
    several: Callable[..., Stage], rng: np.random.Generator
) -> None:
    """With START=latest, too: the pattern has matched it only after the group began."""
    s = several(pattern=True, OFFNORMAL_KAFKA__START="latest")
    north, _ = names(s)
    before = send(s, north, normal_rows(20, rng))
    worker = s.worker()
    worker.await_log("start_offsets_chosen")
    until(lambda: bool(send(s, north, normal_rows(5, rng))) and len(s.read(s.topics.scores)) > 0)
    west = north.replace("north", "west")
    make(s, {west: 2})
    sent = send(s, west, normal_rows(500, rng))
    worker.kill()  # before it has looked for topics again, or while it begins to read this one
    worker = s.worker()
    until(lambda: sent <= set(scored(s)), 60)
    assert set(scored(s).values()) == {1} and not before & set(scored(s))
    east = north.replace("north", "east")
    make(s, {east: 1})
    more = send(s, west, normal_rows(50, rng)) | send(s, east, normal_rows(50, rng))
    until(lambda: more <= set(scored(s)), 60)
    assert worker.stop() == 0


def test_training_and_the_commands_read_all_of_them(several: Callable[..., Stage], rng: np.random.Generator) -> None:
    s = several(OFFNORMAL_TRAINING__STEPS="50", OFFNORMAL_TRAINING__MIN_ROWS="1500")
    north, south = names(s)
    for topic in (north, south):
        s.send(
            [orjson.dumps(dict(zip(FEATURES, row.tolist(), strict=True))) for row in normal_rows(1000, rng)],
            topic=topic,
        )
    settings = {"OFFNORMAL_INPUT__FORMAT": "json", "OFFNORMAL_MODEL__NAME": "both"}
    training = s.start(["training"], settings)
    assert training.wait(120) == 0, training.errors
    shown = s.start(["training", "--json", "models", "show"], settings)
    assert shown.wait() == 0, shown.errors
    assert f"{north}/0" in shown.output and f"{south}/2" in shown.output
    for arguments in (["worker", "check"], ["worker", "topics", "--verify"], ["worker", "topics", "--look"]):
        command = s.start(arguments, settings)
        assert command.wait() == 0, command.errors + command.output


def test_a_pattern_without_a_topic_is_told(several: Callable[..., Stage]) -> None:
    s = several()
    worker = s.worker(OFFNORMAL_TOPICS__SENSORS="^nowhere-.*")
    assert worker.wait() == 4
    assert "no topic matches ^nowhere-.*" in worker.errors
