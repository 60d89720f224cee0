"""The formats arrow and avro through the worker, the training, and back; and a schema registry that goes away."""

import json
import time
import urllib.request
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tests.brokers import Broker
from tests.models import FEATURES, normal_rows
from tests.registry import SmallRegistry
from tests.stage import VECTOR, Stage, arrow, encode, until
from worker.demo.broker import free_port
from worker.models import Artefact

MakeStage = Callable[..., Stage]


@pytest.fixture
def registry() -> Iterator[SmallRegistry]:
    made = SmallRegistry()
    assert made.add(VECTOR, subject="vectors") == 1
    yield made
    made.close()


def far(rows: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return rows + np.array([1e4, 0, 0, 0], np.float32)


@pytest.mark.parametrize("kind", ["arrow", "avro"])
def test_from_training_to_alerts(
    stage: MakeStage, broker: Broker, registry: SmallRegistry, rng: np.random.Generator, kind: str
) -> None:
    """No feature is named anywhere: the records tell."""
    s = stage(
        OFFNORMAL_INPUT__FORMAT=kind,
        OFFNORMAL_SCHEMA_REGISTRY__URL=registry.url,
        OFFNORMAL_EVENT_FORMAT="avro",
        OFFNORMAL_TRAINING__STEPS="200",
    ).make_topics(2)
    x = normal_rows(2000, rng)
    s.send([arrow(part) for part in np.split(x, 20)] if kind == "arrow" else encode(x, "avro"))
    training = s.training()
    assert training.wait() == 0, training.errors
    odd = s.send(encode(far(normal_rows(3, rng)), kind), partition=0)
    worker = s.worker("--until-end")
    assert worker.wait() == 0, worker.errors
    assert not s.dead_letters()
    scores = s.scores()
    assert sum(len(each.rows) for found in scores.values() for each in found) == 2003
    named = {event["id"]: event for event in s.events(registry.url)}
    for partition, offset in odd:
        event = named[f"{s.topics.sensors}/{partition}/{offset}/0"]
        assert event["data"]["features"][0]["name"] == FEATURES[0]
        assert event["data"]["p_value"] < 0.01
    assert set(registry.subjects) - {"vectors"} == {f"{s.topics.anomalies}-value"} | (
        {f"{s.topics.scores}-value"} if kind == "avro" else set()
    )
    check = s.worker("check", "--json")
    assert check.wait() == 0, check.errors
    assert "subjects" in json.loads(check.output.splitlines()[-1])["checks"]["schemas"]["detail"]
    alerts = s.worker("alerts", "--events", "--since", "earliest", "--until-end", "--json")
    assert alerts.wait() == 0, alerts.errors
    lines = [json.loads(line) for line in alerts.output.splitlines()]
    assert {line["id"] for line in lines} == set(named)


def test_a_registry_that_is_away_is_waited_for(
    stage: MakeStage, broker: Broker, registry: SmallRegistry, artefact: Artefact, rng: np.random.Generator
) -> None:
    port = free_port()
    s = stage(
        OFFNORMAL_INPUT__FORMAT="avro",
        OFFNORMAL_SCHEMA_REGISTRY__URL=registry.url,
        OFFNORMAL_HTTP__HOST="127.0.0.1",
        OFFNORMAL_HTTP__PORT=str(port),
    ).make_topics(2)
    s.publish(artefact)
    worker = s.worker()
    worker.await_log("worker_started")
    registry.away = True
    places = s.send(encode(normal_rows(100, rng), "avro"))
    (redo, *_) = worker.await_log("work_redone", 2)
    assert "schema registry" in redo["reason"] and "503" in redo["reason"]
    time.sleep(1)
    registry.away, registry.cut = False, True  # restarted in mid-answer
    until(lambda: any("IncompleteRead" in each["reason"] for each in worker.log("work_redone")))
    assert not s.committed() and not s.dead_letters()
    registry.cut = False
    until(lambda: sum(s.committed().values()) == 100)
    partition, offset = places[7]
    looked = urllib.request.urlopen(  # the page reads such records back
        f"http://127.0.0.1:{port}/page/incident?id={s.topics.sensors}/{partition}/{offset}/0", timeout=20
    )
    assert len(json.loads(looked.read())["score"]) > 3
    registry.away = True  # what is known needs no registry
    places += s.send([*encode(normal_rows(50, rng), "avro"), b"no avro"])
    until(lambda: sum(s.committed().values()) == 151)
    assert worker.stop() == 0, worker.errors
    scores = s.scores()
    assert {place: len(found) for place, found in scores.items()} == dict.fromkeys(places[:-1], 1)
    (letter,) = s.dead_letters()
    assert dict(letter.headers)["offnormal-reason"] == b"unparseable" and letter.value == b"no avro"


def test_a_registry_that_never_answers_is_exit_4(stage: MakeStage, broker: Broker, artefact: Artefact) -> None:
    s = stage(
        OFFNORMAL_EVENT_FORMAT="avro",
        OFFNORMAL_SCHEMA_REGISTRY__URL="http://127.0.0.1:9",
        OFFNORMAL_KAFKA__STARTUP_TIMEOUT="2",
    ).make_topics(1)
    s.publish(artefact)
    for arguments in ([], ["check"]):
        worker = s.worker(*arguments)
        assert worker.wait() == 4
        assert "OFFNORMAL_SCHEMA_REGISTRY__URL" in worker.errors + worker.output
