"""Models through the registry: trained, refused, promoted, rolled back, in parts."""

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest
from kafka import KafkaProducer

from tests.brokers import Broker
from tests.models import make_artefact, normal_rows
from tests.stage import Process, Stage, until
from worker import registry
from worker.models import Artefact
from worker.registry import artefact_records

MakeStage = Callable[..., Stage]


def publish_bytes(s: Stage, version: str, data: bytes) -> None:
    """As somebody without scruples would: the bytes, and the champion alias on them."""
    producer = KafkaProducer(bootstrap_servers=s.bootstrap)
    alias = {"version": version, "who": "test", "when": "now", "why": "test"}
    producer.send(s.topics.models, data, f"artefact/default/{version}".encode()).get(10)
    producer.send(s.topics.models, json.dumps(alias).encode(), b"alias/default/champion").get(10)
    producer.close()


def read_digest(data: bytes) -> bytes:
    found = re.search(rb"[0-9a-f]{64}", data)
    assert found
    return found[0]


def serving(worker: Process) -> str:
    return str(worker.log("model_swapped")[-1]["model_version"])


def test_a_bad_artefact_is_refused_while_the_old_one_goes_on(
    stage: MakeStage, apache: Broker, artefact: Artefact, rng: np.random.Generator
) -> None:
    s = stage(OFFNORMAL_DELIVERY="at_least_once").make_topics(1)
    s.publish(artefact)
    worker = s.worker()
    worker.await_log("partitions_assigned")
    newer = make_artefact(seed=1)
    data = newer.dump()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 4
    other = make_artefact(seed=2, features=("a", "b", "c"))
    stranger = make_artefact(seed=3, name="another")
    digest = data.index(read_digest(data))
    bad = {
        "flipped": bytes(flipped),
        "truncated": data[:-100],
        "wrong-digest": data[:digest] + b"0" * 64 + data[digest + 64 :],
        other.card.version: other.dump(),
        stranger.card.version: stranger.dump(),
        "renamed": data,
        "missing": b"",
    }
    for n, (version, mutated) in enumerate(bad.items(), 1):
        publish_bytes(s, version, mutated)
        refusal = worker.await_log("model_refused", n)[-1]
        assert refusal["model_version"] == version
        assert refusal["serving"] == artefact.card.version
        assert len(refusal["reason"]) > 10
        places = s.send_rows(normal_rows(10, rng))
        until(lambda: sum(s.committed().values()) == 10 * n)  # noqa: B023
    assert {score.version for scores in s.scores().values() for score in scores} == {artefact.card.version}
    assert len(places) == 10
    publish_bytes(s, newer.card.version, data)
    until(lambda: serving(worker) == newer.card.version)
    assert worker.stop() == 0


def test_promote_and_rollback_are_followed_while_running(stage: MakeStage, apache: Broker, artefact: Artefact) -> None:
    s = stage().make_topics(1)
    second = make_artefact(seed=4)
    s.publish(artefact)
    s.publish(second)
    worker = s.worker()
    worker.await_log("model_swapped")
    assert serving(worker) == second.card.version
    models = registry.Registry(s.settings)
    for change, version in (
        (lambda: models.rollback("me", "too loud"), artefact.card.version),
        (lambda: models.promote(second.card.version, "me", "was right"), second.card.version),
    ):
        change()
        until(lambda: serving(worker) == version)  # noqa: B023
    assert [(e["version"], e["why"]) for e in models.view().history()] == [
        (artefact.card.version, "test"),
        (second.card.version, "test"),
        (artefact.card.version, "too loud"),
        (second.card.version, "was right"),
    ]


def test_models_command(stage: MakeStage, broker: Broker, artefact: Artefact) -> None:
    s = stage().make_topics(1)
    second = make_artefact(seed=5)
    s.publish(artefact)
    s.publish(second)
    listed = s.training("models", "list", "--json")
    assert listed.wait() == 0
    found = json.loads(listed.output.splitlines()[-1])
    assert found["champion"] == second.card.version
    assert [m["version"] for m in found["versions"]] == sorted([artefact.card.version, second.card.version])
    rolled = s.training("models", "rollback", "--why", "test", "--json")
    assert rolled.wait() == 0
    assert json.loads(rolled.output)["version"] == artefact.card.version
    shown = s.training("models", "show")
    assert shown.wait() == 0
    assert json.loads(shown.output)["version"] == artefact.card.version
    unknown = s.training("models", "promote", "nope")
    assert unknown.wait() == 5
    assert "no complete artefact default/nope" in unknown.errors


def test_an_artefact_over_the_message_limit_travels_in_parts(
    stage: MakeStage, broker: Broker, artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artefact_records, "PART_BYTES", 1000)
    s = stage().make_topics(1)
    s.publish(artefact)
    view = registry.Registry(s.settings).view()
    assert len(view.parts[artefact.card.version]) > 5
    assert view.artefact(artefact.card.version) == artefact.dump()


def test_old_artefacts_are_pruned_and_never_the_champion(stage: MakeStage, broker: Broker) -> None:
    s = stage(OFFNORMAL_MODEL__KEEP="2").make_topics(1)
    made = [make_artefact(seed=10 + i) for i in range(4)]
    for one in made:
        s.publish(one)
    view = registry.Registry(s.settings).view()
    assert len(view.versions()) == 2
    assert view.champion() == made[-1].card.version in view.versions()


def test_the_next_training_cleans_up_after_one_that_was_killed(
    stage: MakeStage, broker: Broker, artefact: Artefact
) -> None:
    """Parts without a manifest: those of an hour ago go, those that somebody may be writing stay."""
    s = stage().make_topics(1)
    fresh, now = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-aaaaaa", int(time.time() * 1000)
    behind = "20260101T000000-bbbbbb"  # by a host whose clock is wrong
    producer = KafkaProducer(bootstrap_servers=s.bootstrap)
    for version, at in (("20260101T000000-aaaaaa", now - 3_700_000), (fresh, now), (behind, now)):
        for part in range(2):
            key = f"artefact/default/{version}/part/{part}".encode()
            producer.send(s.topics.models, b"part", key, timestamp_ms=at)
    producer.flush(10)
    producer.close()
    s.publish(artefact)
    view = registry.Registry(s.settings).view()
    assert {version for version, parts in view.parts.items() if parts} == {fresh, behind}


def test_training_makes_a_champion_from_the_recent_window(
    stage: MakeStage, apache: Broker, rng: np.random.Generator
) -> None:
    s = stage(OFFNORMAL_TRAINING__STEPS="600").make_topics(3)
    names = ("pressure", "flow", "speed", "heat")

    def send(x: np.ndarray) -> None:
        s.send([json.dumps(dict(zip(names, row, strict=True)) | {"n": i}).encode() for i, row in enumerate(x.tolist())])

    send(normal_rows(3000, rng).astype(float))
    s.send([b"broken", b"[1]"])
    first = s.training("--json", OFFNORMAL_INPUT__FEATURES=json.dumps(names))
    assert first.wait() == 0, first.errors
    made = json.loads(first.output.splitlines()[-1])
    assert made["rows"]["seen"] == 3000
    assert made["rows"]["rejected_records"] == 2
    assert made["rows"]["fitted"] == 2250
    anomalous = normal_rows(200, rng).astype(float)
    anomalous[:, 2] += 40
    send(anomalous)
    assert s.worker("--until-end").wait() == 0
    events = s.events()
    named = len(events)
    assert named > 190
    anomalous_score = float(np.median([event["data"]["score"] for event in events]))
    send(normal_rows(2000, rng).astype(float))
    second = s.training("--json")
    assert second.wait() == 0, second.errors
    again = json.loads(second.output.splitlines()[-1])
    assert again["rows"]["named_anomalies"] == named
    assert 3900 - named <= again["rows"]["fitted"] < 3900, "rows that were published as anomalies do not teach"
    view = registry.Registry(s.settings).view()
    card = view.card(again["version"])
    assert view.champion() == again["version"]
    assert card.parent == made["version"]
    assert card.features == names
    # Few rows are held out, so the threshold moves by chance. Had the anomalies taught, it would be at their scores.
    assert again["quality"]["threshold"] < 0.5 * anomalous_score, "nor do they move the threshold"


def test_training_is_reproducible(stage: MakeStage, broker: Broker, rng: np.random.Generator) -> None:
    s = stage(OFFNORMAL_TRAINING__STEPS="100").make_topics(1)
    s.send_rows(normal_rows(1500, rng))
    versions = []
    for _ in range(2):
        run = s.training("--json", OFFNORMAL_MODEL__NAME=f"m{len(versions)}")
        assert run.wait() == 0, run.errors
        versions.append(json.loads(run.output.splitlines()[-1])["version"])
    digests = [version.split("-")[1] for version in versions]  # of the weights
    assert digests[0] == digests[1]


def test_too_few_rows(stage: MakeStage, broker: Broker, rng: np.random.Generator) -> None:
    s = stage().make_topics(1)
    s.send_rows(normal_rows(300, rng))
    run = s.training()
    assert run.wait() == 5
    assert "300 rows" in run.errors and "1000 are needed" in run.errors and "the oldest of 20" in run.errors
