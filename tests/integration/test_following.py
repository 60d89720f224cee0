"""Following, end to end: trims that a worker publishes and is scored by, and by which its scores can be made again."""

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.brokers import Broker
from tests.models import FEATURES, normal_rows
from tests.stage import Place, Score, Stage, encode, until
from worker.kafka.reader import Reader
from worker.models import Artefact
from worker.registry import Registry, RegistryView
from worker.serving.loaded_model import LoadedModel
from worker.serving.model_swap import ResidentModels

MakeStage = Callable[..., Stage]
ENTITY = "m"
GONE = 1  # the sensor that leaves its range ...
JUMP = 1000  # ... by so many of its units


class Plant:
    """A machine with a vector each second of event time."""

    def __init__(self, s: Stage, rng: np.random.Generator):
        self._s, self._rng = s, rng
        self._since = int(time.time() - 7200) * 1000
        self.x: dict[Place, np.ndarray[Any, Any]] = {}

    def send(self, n: int, off: float = 0.0) -> list[Place]:
        x = normal_rows(n, self._rng)
        x[:, GONE] += off
        times = [self._since + 1000 * (len(self.x) + i) for i in range(n)]
        places = self._s.send(encode(x, "f32"), keys=[ENTITY.encode()] * n, times=times)
        self.x |= dict(zip(places, x, strict=True))
        return places

    def await_scores(self) -> dict[Place, Score]:
        """Wait until each vector has been scored; return the scores, one of each."""
        until(lambda: len(self._s.scores()) == len(self.x))
        scores = self._s.scores()
        assert set(scores) == set(self.x) and all(len(of_place) == 1 for of_place in scores.values())
        return {place: of_place[0] for place, of_place in scores.items()}


def trims(s: Stage) -> list[Any]:
    """Return the trims that are published, with their entities."""
    records = [r for r in s.read(s.topics.models) if r.key.startswith(b"trim/")]
    return [json.loads(record.value) for record in records]


def as_of(s: Stage, artefact: Artefact, name: str) -> LoadedModel:
    """Return the model of a name such as `version+7`, made from what the models topic has."""
    version, _, number = name.partition("+")
    assert version == artefact.card.version
    model = ResidentModels(s.settings).load(artefact.dump(s.settings.model.signing_key))
    if not number:
        return model
    view = RegistryView("default", s.settings.model.signing_key)
    with Reader(s.settings.kafka, s.topics.models) as reader:
        for block in reader.to_end():
            view.apply(block.take(np.flatnonzero(block.offset <= int(number))))
    assert view.last_trim(version) == int(number)
    return model.trimmed(view.placed_trims(model.card), int(number))


def check_scores(s: Stage, artefact: Artefact, plant: Plant) -> set[str]:
    """Make every score again from what is published; return the names of what they were made by."""
    scores = plant.await_scores()
    (entity,) = {int(hash, 16) for trim in trims(s) for hash in trim["entities"]}
    names = {score.version for score in scores.values()}
    for name in names:
        model, places = as_of(s, artefact, name), [place for place in plant.x if scores[place].version == name]
        x = np.stack([plant.x[place] for place in places])
        again = model.score(x, model.entity_rows(None, np.full(len(x), entity, np.uint64)))
        found = np.array([scores[place].rows[0][0] for place in places])
        np.testing.assert_allclose(found, again, rtol=1e-4, atol=1e-4)
    return names


def opened(stage: MakeStage, artefact: Artefact, **settings: str) -> Stage:
    s = stage(OFFNORMAL_INPUT__FORMAT="f32", OFFNORMAL_DETECTION__FOLLOW_EVERY="0.5", **settings)
    s.make_topics(1).publish(artefact)
    return s


def test_a_sensor_that_is_gone_is_ignored_and_each_score_can_be_made_again(
    stage: MakeStage, apache: Broker, artefact: Artefact, rng: np.random.Generator
) -> None:
    s = opened(stage, artefact, OFFNORMAL_MODEL__SIGNING_KEY="a key of some length")
    plant, version = Plant(s, rng), artefact.card.version
    plant.send(200)
    worker = s.worker()
    assert {score.version for score in plant.await_scores().values()} == {version}
    until(lambda: bool(plant.send(500, off=JUMP)) and bool(worker.log("sensor_ignored")), every=0.5)
    (told,) = worker.log("sensor_ignored")
    assert (told["entity"], told["feature"]) == (ENTITY, FEATURES[GONE])
    until(lambda: bool(plant.send(1, off=JUMP)) and len(worker.log("pipeline_model_changed")) > 1)
    assert trims(s)[-1]["entities"].popitem()[1]["ignored"] == [FEATURES[GONE]]
    worker.kill()
    later = plant.send(300, off=JUMP)
    again = s.worker()
    names = check_scores(s, artefact, plant)
    assert version in names and len(names) > 1
    scores = plant.await_scores()
    assert all("+" in scores[place].version for place in later), "the next worker begins with the trims"
    assert np.mean([scores[place].rows[0][1] < 1e-3 for place in later]) < 0.05
    assert again.stop() == 0, again.errors
    assert {event["data"]["model"]["version"] for event in s.events()} <= names


def test_a_pinned_model_is_not_trimmed_any_further(
    stage: MakeStage, apache: Broker, artefact: Artefact, rng: np.random.Generator
) -> None:
    s = opened(stage, artefact)
    Registry(s.settings).pin(artefact.card.version, "test", "test")
    plant = Plant(s, rng)
    plant.send(3200, off=JUMP)
    worker = s.worker()
    plant.await_scores()
    Registry(s.settings).pin(None, "test", "test")
    time.sleep(1)  # the worker follows the registry
    assert not trims(s)
    until(lambda: bool(plant.send(500, off=JUMP)) and bool(worker.log("sensor_ignored")), every=0.5)
    assert len(worker.log("trim_published")) == len(trims(s)) > 0
    assert worker.stop() == 0, worker.errors


def test_a_trim_of_a_stranger_is_not_scored_by(
    stage: MakeStage, apache: Broker, artefact: Artefact, rng: np.random.Generator
) -> None:
    """Unsigned where a key is set, or no trim at all."""
    s = opened(stage, artefact, OFFNORMAL_MODEL__SIGNING_KEY="a key of some length")
    key = f"trim/default/{artefact.card.version}/{s.settings.kafka.group}/{s.topics.sensors}/0/5"
    s.send([b'{"entities": {}}'], keys=[key.encode()], topic=s.topics.models, partition=0)
    plant = Plant(s, rng)
    plant.send(20)
    worker = s.worker("--until-end")
    assert worker.wait() == 0, worker.errors
    assert {score.version for score in plant.await_scores().values()} == {artefact.card.version}
