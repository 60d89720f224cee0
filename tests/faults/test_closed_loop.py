"""The closed loop on a real broker when something goes wrong: it reports, refuses, or rolls back."""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import jsonschema
import numpy as np
import pytest

from tests.brokers import Broker
from tests.models import normal_rows
from tests.plant import ROWS, SETTINGS, Plant, drift_events, history
from tests.stage import Stage, until
from training.__main__ import main as training
from training.fitting.fit import Fitted
from training.run import job
from worker.kafka.topics import create
from worker.models import Artefact
from worker.publishing.cloudevents import schema
from worker.registry import Registry, new_version

MakeStage = Callable[..., Stage]


@pytest.fixture
def loop(stage: MakeStage, apache: Broker) -> Iterator[tuple[Stage, Plant]]:
    s = stage(**SETTINGS).make_topics(1)
    yield s, Plant(s)


def test_a_frozen_sensor_is_told_and_not_trained_on(loop: tuple[Stage, Plant], rng: np.random.Generator) -> None:
    s, plant = loop
    plant.send(normal_rows(10_000, rng))
    assert s.training().wait() == 0
    worker = s.worker()
    frozen = normal_rows(6000, rng)
    frozen[:, 1] = 0.25
    plant.send(frozen)
    worker.await_log("sensor_fault_detected", timeout=60)
    plant.send(normal_rows(6000, rng))
    worker.await_log("sensor_fault_detected", 2, timeout=60)
    until(lambda: sum(s.committed().values()) == 22_000)
    until(lambda: drift_events(s)[-1]["state"] == "closed", 10)
    assert worker.stop() == 0
    events = drift_events(s)
    assert {event["kind"] for event in events} == {"sensor"}
    assert (events[0]["fault"], events[0]["feature"], events[0]["entity"]) == ("frozen", "flow", "m1")
    assert s.read(s.topics.training_requests) == []
    again = s.training("--json")
    assert again.wait() == 0, again.errors
    rows = json.loads(again.output.splitlines()[-1])["rows"]
    assert 6000 <= rows["faulty"] <= 6000 + 4 * ROWS
    assert rows["fitted"] + rows["held_out"] + rows["gate"] <= rows["sampled"] - rows["faulty"]


def test_labels_decide_what_teaches(loop: tuple[Stage, Plant], rng: np.random.Generator) -> None:
    s, plant = loop
    plant.send(normal_rows(10_000, rng))
    assert s.training().wait() == 0
    for at in (np.array([0, 4, 0, 0]), np.array([0, 0, 4, 4])):
        plant.send(normal_rows(200, rng) + at.astype(np.float32))
        plant.send(normal_rows(2000, rng))
    quiet = {"OFFNORMAL_INCIDENTS__QUIET": "60s", "OFFNORMAL_DETECTION__FALSE_ALARM_RATE": "0.001"}
    assert s.worker("--until-end", **quiet).wait() == 0
    # An incident a stretch, but for false alarms: those of most vectors.
    incidents = [json.loads(r.value)["data"] for r in s.read(s.topics.incidents)]
    ids = list(dict.fromkeys(i["incident"] for i in sorted(incidents, key=lambda i: -i["vectors"])))[:2]
    dismissed, confirmed = sorted(ids, key=lambda i: int(i.rsplit("/", 2)[1]))
    for id, verdict in ((dismissed, "dismissed"), (confirmed, "confirmed")):
        label = s.worker("label", id, verdict, "--note", "looked at it", "--who", "me", "--json")
        assert label.wait() == 0, label.errors
        assert json.loads(label.output)["verdict"] == verdict
    made = s.training("--json")
    assert made.wait() in (0, 3), made.errors
    told = json.loads(made.output.splitlines()[-1])
    assert 180 <= told["rows"]["dismissed"] <= 320 and 180 <= told["rows"]["confirmed"] <= 320
    assert told["quality"]["gate"]["confirmed"]["recall"] > 0.9
    wrong = s.worker("label", "elsewhere/0/1/0", "confirmed")
    assert wrong.wait() == 2 and "no id of an event" in wrong.errors


def test_a_broken_challenger_is_refused_with_exit_code_3_and_the_champion_stays(
    loop: tuple[Stage, Plant], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forced: what the training has fitted has a threshold that nothing reaches."""
    s, plant = loop
    plant.send(normal_rows(10_000, rng))
    assert s.training().wait() == 0
    champion = Registry(s.settings).view().champion()
    for name in [name for name in os.environ if name.startswith("OFFNORMAL_")]:
        monkeypatch.delenv(name)
    for name, value in s.environment.items():
        monkeypatch.setenv(name, value)
    sound = job._fit

    def broken(*arguments: Any) -> Fitted:
        fitted = sound(*arguments)
        c = fitted.detector.calibration
        asleep = replace(c, body=c.body * 100, sigma=c.sigma * 100)
        return replace(fitted, detector=replace(fitted.detector, calibration=asleep))

    monkeypatch.setattr(job, "_fit", broken)
    assert training([]) == 3
    view = Registry(s.settings).view()
    assert view.champion() == champion
    last = view.history()[-1]
    assert last["what"] == "refused" and "injected faults" in last["why"]
    assert view.card(last["version"]).quality["gate"]["reasons"] == last["gate"]["reasons"]


def test_a_pinned_champion_stays(loop: tuple[Stage, Plant], rng: np.random.Generator) -> None:
    s, plant = loop
    plant.send(normal_rows(10_000, rng))
    assert s.training().wait() == 0
    pinned = s.training("models", "pin", "--why", "audit", "--json")
    assert pinned.wait() == 0, pinned.errors
    held = s.training("--json")
    assert held.wait() == 3, held.errors
    told = json.loads(held.output.splitlines()[-1])
    assert told["reasons"] == ["the champion is pinned [gate-pinned]"] and not told["promoted"]
    assert Registry(s.settings).view().champion() == json.loads(pinned.output)["version"]
    listed = s.training("models", "history")
    assert listed.wait() == 0
    assert "pinned" in listed.output and "refused" in listed.output and "audit" in listed.output
    compared = s.training("models", "compare", told["version"], "--json")
    assert compared.wait() == 0, compared.errors
    assert json.loads(compared.output)[told["version"]]["gate"] == "passed"
    assert s.training("models", "pin", "--off").wait() == 0
    assert s.training("--json").wait() == 0


def test_a_flood_of_requests_is_one_training(loop: tuple[Stage, Plant], rng: np.random.Generator) -> None:
    s, plant = loop
    plant.send(normal_rows(8000, rng))
    serve = s.training("serve", OFFNORMAL_TRAINING__COOLDOWN="5s")
    serve.await_log("champion_promoted", timeout=90)
    request = json.dumps({"model": "default", "reason": "a flood", "since": None, "who": "test"}).encode()
    for value in [request] * 300 + [b"no request", b'{"model": 5}', b'{"model": "another"}']:
        s._producer.send(s.topics.training_requests, value)
    s._producer.flush()
    serve.await_log("champion_promoted", 2, timeout=90)
    time.sleep(8)
    assert serve.stop(60) == 0
    assert [why for _, why in history(s)] == ["the first model", "a flood"]
    assert len(serve.log("training_request_rejected")) == 1


def test_two_trainings_at_once_go_one_after_the_other(loop: tuple[Stage, Plant], rng: np.random.Generator) -> None:
    s, plant = loop
    plant.send(normal_rows(8000, rng))
    both = [s.training("--json") for _ in range(2)]
    assert [each.wait(120) for each in both] == [0, 0]
    first, second = sorted(both, key=lambda each: json.loads(each.output.splitlines()[-1])["version"])
    view = Registry(s.settings).view()
    assert sorted(view.audit) == [1, 2]
    parent = view.card(json.loads(second.output.splitlines()[-1])["version"]).parent
    assert parent == json.loads(first.output.splitlines()[-1])["version"], "the later one knew of the first"


def broken_copy(s: Stage) -> Artefact:
    """The champion with a threshold that far too many vectors reach: a model that has fooled every gate."""
    view = Registry(s.settings).view()
    sound = Artefact.load(view.artefact(view.champion() or ""))
    c = sound.detector.calibration
    quarter = replace(c, body=c.body / 4, sigma=c.sigma / 4, upper=None if c.upper is None else c.upper / 4)
    loud = replace(sound.detector, calibration=quarter)
    version = new_version(datetime.now(UTC), b"broken")
    card = sound.card.model_copy(update={"version": version, "parent": sound.card.version})
    return replace(sound, card=card, detector=loud)


def test_a_champion_that_floods_is_taken_back_once(loop: tuple[Stage, Plant], rng: np.random.Generator) -> None:
    s, plant = loop
    plant.send(normal_rows(10_000, rng))
    assert s.training().wait() == 0
    sound = Registry(s.settings).view().champion()
    worker = s.worker()
    worker.await_log("model_swapped")
    broken = broken_copy(s)
    s.publish(broken)
    worker.await_log("trial_started")
    plant.send(normal_rows(8000, rng))
    worker.await_log("model_swapped", 3, timeout=30)
    plant.send(normal_rows(4000, rng))
    until(lambda: sum(s.committed().values()) == 22_000)
    assert worker.stop() == 0
    view = Registry(s.settings).view()
    assert view.champion() == sound
    last = view.history()[-1]
    assert (last["what"], last["version"], last["from"]) == ("taken back", sound, broken.card.version)
    assert last["who"] == s.settings.source and last["trial"]["rate"] > 5 * last["trial"]["promised"]
    assert [what for what, _ in history(s)] == ["promoted", "promoted", "taken back"]
    (event,) = [event for event in drift_events(s) if event["kind"] == "taken_back"]
    assert (event["model"]["version"], event["back_to"]) == (broken.card.version, sound)


def test_a_challenger_in_the_shadow_is_promoted_when_it_has_proved_itself(
    loop: tuple[Stage, Plant], rng: np.random.Generator
) -> None:
    s, plant = loop
    shadow = {"OFFNORMAL_MODEL__SHADOW_SHARE": "0.5", "OFFNORMAL_MODEL__PROBATION": "0"}
    s.environment |= shadow
    create(s.load(), 1, 1)
    plant.send(normal_rows(10_000, rng))
    assert s.training().wait() == 0
    first = Registry(s.settings).view().champion()
    worker = s.worker()
    worker.await_log("model_swapped")
    made = s.training("--json")
    assert made.wait() == 0, made.errors
    told = json.loads(made.output.splitlines()[-1])
    assert told["role"] == "challenger" and not told["promoted"]
    worker.await_log("trial_started")
    for _ in range(8):
        plant.send(normal_rows(2000, rng))
        time.sleep(0.3)
    worker.await_log("model_swapped", 2, timeout=30)
    until(lambda: sum(s.committed().values()) == 26_000)
    broken = broken_copy(s)
    models = Registry(s.settings)
    models.add(broken)
    models.promote(broken.card.version, "test", "forced", "challenger")
    worker.await_log("trial_started", 2)
    plant.send(normal_rows(8000, rng))
    worker.await_log("trial_decided", 2, timeout=30)
    assert worker.stop() == 0
    view = Registry(s.settings).view()
    assert view.champion() == told["version"] != first and view.challenger() is None
    assert [what for what, _ in history(s)] == [
        "promoted",
        "challenger",
        "promoted",
        "challenger",
        "challenger dropped",
    ]
    named = [json.loads(record.value) for record in s.read(s.topics.shadow)]
    for event in named:
        jsonschema.validate(event, schema("shadow"))
    assert {event["data"]["model"]["version"] for event in named} == {told["version"], broken.card.version}
    assert not {e["data"]["model"]["version"] for e in s.events()} & {broken.card.version}, "its events are kept apart"
