"""Several models in one worker, by the records' keys; and a scaler for each entity."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from tests.brokers import Broker
from tests.models import make_artefact, normal_rows
from tests.stage import Stage, encode, until
from worker import registry
from worker.models import Artefact

MakeStage = Callable[..., Stage]
ROUTES = {"OFFNORMAL_MODEL__ROUTES": '{"press-*": "presses", "saw-*": "saws"}'}


def versions(s: Stage, places: list[tuple[int, int]]) -> list[str]:
    scores = s.scores()
    assert all(len(scores[place]) == 1 for place in places)
    return [scores[place][0].version for place in places]


def test_keys_choose_the_model_and_swaps_touch_no_other(
    stage: MakeStage, apache: Broker, artefact: Artefact, rng: np.random.Generator
) -> None:
    s = stage(**ROUTES).make_topics(2)
    s.publish(artefact)
    x = encode(normal_rows(90, rng), "json")
    keys = [(b"press-1", b"saw-1", None)[i % 3] for i in range(90)]
    worker = s.worker()
    worker.await_log("partitions_assigned")
    first = s.send(x, keys=keys)
    until(lambda: sum(s.committed().values()) == 90)
    assert set(versions(s, first)) == {artefact.card.version}, "without a champion of their own: the default's"
    presses, saws = (make_artefact(seed=i, name=name) for i, name in enumerate(("presses", "saws"), 50))
    for each in (presses, saws):
        registry.Registry(s.load(OFFNORMAL_MODEL__NAME=each.card.name)).publish(each, author="test", why="test")
    until(lambda: {line["model"] for line in worker.log("model_swapped")} == {"default", "presses", "saws"})
    second = s.send(x, keys=keys)
    until(lambda: sum(s.committed().values()) == 180)
    wanted = [presses.card.version, saws.card.version, artefact.card.version] * 30
    assert versions(s, second) == wanted
    newer = make_artefact(seed=60)
    s.publish(newer)
    until(lambda: worker.log("model_swapped")[-1]["model_version"] == newer.card.version)
    third = s.send(x, keys=keys)
    until(lambda: sum(s.committed().values()) == 270)
    assert versions(s, third) == [presses.card.version, saws.card.version, newer.card.version] * 30
    assert worker.stop() == 0
    models = {e["data"]["model"]["name"] for e in s.events() if e["data"]["entity"] == "press-1"}
    assert models <= {"default", "presses"}


def test_a_route_may_have_features_of_its_own(
    stage: MakeStage, apache: Broker, artefact: Artefact, rng: np.random.Generator
) -> None:
    """And windows: those of the fallback's features are of no use to it, and filled anew."""
    s = stage(**ROUTES, OFFNORMAL_MODEL__WINDOW="4").make_topics(1)
    s.publish(make_artefact(seed=0, window=4))
    worker = s.worker()
    worker.await_log("partitions_assigned")

    def send(n: int) -> list[tuple[int, int]]:
        rows = [
            json.dumps({"a": v, "b": -v, "pressure": 10, "flow": 0, "speed": -5, "heat": 100}) for v in rng.random(n)
        ]
        return s.send([row.encode() for row in rows], keys=[b"press-1"] * n)

    before = send(10)
    until(lambda: sum(s.committed().values()) == 10)
    own = make_artefact(seed=1, name="presses", features=("a", "b"), window=4)
    registry.Registry(s.load(OFFNORMAL_MODEL__NAME="presses")).publish(own, author="test", why="test")
    until(lambda: worker.log("model_swapped")[-1]["model"] == "presses")
    after = send(10)
    until(lambda: sum(s.committed().values()) == 20)
    assert worker.stop() == 0
    scores = s.scores()
    assert [bool(np.isnan(scores[p][0].rows[0][0])) for p in before] == [True] * 3 + [False] * 7
    assert versions(s, after) == [own.card.version] * 10
    assert not any(np.isnan(scores[p][0].rows[0][0]) for p in after), (
        "its windows were filled from what had come before"
    )


def test_training_reads_what_is_routed_to_its_model(stage: MakeStage, apache: Broker, rng: np.random.Generator) -> None:
    s = stage(**ROUTES, OFFNORMAL_TRAINING__STEPS="60", OFFNORMAL_MODEL__WINDOW="4").make_topics(2)
    rows = encode(normal_rows(6000, rng), "json")
    s.send(rows, keys=[(b"press-1", b"saw-1", b"mill-1")[i % 3] for i in range(6000)])
    for name in ("default", "presses"):
        run = s.training("--json", OFFNORMAL_MODEL__NAME=name)
        assert run.wait() == 0, run.errors
        made = json.loads(run.output.splitlines()[-1])
        assert made["model"] == name
        assert made["rows"]["cold"] == 6, "three of each of two partitions"
        assert made["rows"]["seen"] == 2000 - 6


@pytest.mark.parametrize("window", ["1", "4"])
def test_machines_at_different_levels_share_a_model_by_a_scaler_each(
    stage: MakeStage, apache: Broker, rng: np.random.Generator, window: str
) -> None:
    settings = {"OFFNORMAL_MODEL__SCALER": "entity", "OFFNORMAL_TRAINING__STEPS": "300"}
    s = stage(**settings, OFFNORMAL_MODEL__WINDOW=window).make_topics(1)
    levels = {b"hot": np.float32(1000), b"cold": np.float32(-1000), b"new": np.float32(-1000)}

    def send(key: bytes, x: np.ndarray) -> list[tuple[int, int]]:
        return s.send(encode(x + levels[key], "json"), keys=[key] * len(x))

    for key in (b"hot", b"cold"):
        send(key, normal_rows(1500, rng))
    run = s.training("--json")
    assert run.wait() == 0, run.errors
    version = json.loads(run.output.splitlines()[-1])["version"]
    card = registry.Registry(s.settings).view().card(version)
    assert set(card.entities) == {"hot", "cold"}
    usual = {key: send(key, normal_rows(200, rng)) for key in (b"hot", b"cold")}
    faulty = normal_rows(20, rng)
    faulty[:, 2] += 12  # far out for a machine, nothing beside the distance between the two
    fault = send(b"hot", faulty)
    unknown = send(b"new", normal_rows(20, rng))
    worker = s.worker("--until-end")
    assert worker.wait() == 0, worker.errors
    scores = s.scores()

    def median(places: list[tuple[int, int]]) -> float:
        return float(np.nanmedian([scores[p][0].rows[0][0] for p in places]))

    assert 0.3 < median(usual[b"hot"]) < 3 and 0.3 < median(usual[b"cold"]) < 3
    assert median(fault) > 10
    assert np.isfinite(median(unknown)), "the fleet's scaler serves whom it does not know"
    event = next(e for e in s.events() if e["data"]["entity"] == "hot" and e["data"]["features"][0]["name"] == "x2")
    guilty = event["data"]["features"][0]
    assert abs(guilty["expected"] - 995) < 20, "in the machine's own units"
