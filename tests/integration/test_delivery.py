"""What is put out equals what scoring the same vectors offline gives: once each, whatever happens to the workers."""

import random
import threading
import time
from collections.abc import Callable

import jsonschema
import numpy as np
import pytest
import torch

from tests.brokers import Broker
from tests.models import make_artefact, normal_rows
from tests.stage import Place, Stage, until
from worker.models import Artefact
from worker.publishing.cloudevents import schema

MakeStage = Callable[..., Stage]


def offline(artefact: Artefact, x: np.ndarray) -> np.ndarray:
    return artefact.detector.score(torch.from_numpy(x)).numpy()


def check_each_once(stage: Stage, places: list[Place], x: np.ndarray, models: dict[str, Artefact]) -> None:
    """Every row has one score, equal to the offline score of the version it names; the events follow from them."""
    scores = stage.scores()
    assert {place: len(s) for place, s in scores.items() if len(s) > 1} == {}, "repeated"
    assert set(places) - set(scores) == set(), "lost"
    assert set(scores) - set(places) == set(), "from nowhere"
    expected_events = set()
    want = {version: offline(model, x) for version, model in models.items()}
    for i, place in enumerate(places):
        (score,) = scores[place]
        assert score.rows[0][0] == pytest.approx(want[score.version][i], rel=1e-5)
        if score.rows[0][0] >= models[score.version].detector.calibration.threshold(0.01):
            expected_events.add(f"{stage.topics.sensors}/{place[0]}/{place[1]}/0")
    ids = [event["id"] for event in stage.events()]
    assert len(ids) == len(set(ids))
    assert set(ids) == expected_events
    ends: dict[int, int] = {}
    for partition, offset in places:
        ends[partition] = max(ends.get(partition, 0), offset + 1)
    assert stage.committed() == ends


def some_rows(n: int, rng: np.random.Generator) -> np.ndarray:
    x = normal_rows(n, rng)
    x[::50] += rng.normal(scale=5, size=x[::50].shape).astype(np.float32)
    return x


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
@pytest.mark.parametrize("kind", ["json", "f32"])
def test_outputs_equal_offline_scores(
    stage: MakeStage, apache: Broker, artefact: Artefact, rng: np.random.Generator, kind: str, delivery: str
) -> None:
    s = stage(OFFNORMAL_INPUT__FORMAT=kind, OFFNORMAL_DELIVERY=delivery).make_topics()
    s.publish(artefact)
    x = some_rows(5000, rng)
    x[::97, 2] = np.nan
    places = s.send_rows(x)
    assert s.worker("--until-end").wait() == 0
    check_each_once(s, places, x, {artefact.card.version: artefact})
    validator = jsonschema.Draft202012Validator(schema("anomaly"), format_checker=jsonschema.FormatChecker())
    events = s.events()
    assert len(events) > 50
    for event in events:
        validator.validate(event)
    assert {e["data"]["severity"] for e in events} == {"alarm", "warning"}


def test_event_tells_what_a_person_needs(stage: MakeStage, apache: Broker, artefact: Artefact) -> None:
    s = stage().make_topics(1)
    s.publish(artefact)
    s.send([b'{"pressure": 10, "flow": 0, "speed": 500, "heat": null, "note": "x"}'], keys=[b"press-7"])
    assert s.worker("--until-end").wait() == 0
    (record,) = s.read(s.topics.anomalies)
    (event,) = s.events()
    assert record.key == b"press-7"
    assert dict(record.headers)["content-type"].startswith(b"application/cloudevents+json")
    assert event["subject"] == event["data"]["entity"] == "press-7"
    assert event["data"]["severity"] == "alarm"
    assert event["data"]["model"] == {"name": "default", "version": artefact.card.version}
    guilty = event["data"]["features"][0]
    assert guilty["name"] == "speed"
    assert guilty["actual"] == 500
    assert abs(guilty["expected"] + 5) < 500
    heat = next(f for f in event["data"]["features"] if f["name"] == "heat")
    assert heat["missing"] and heat["actual"] is None


def test_worker_killed_in_mid_batch(
    stage: MakeStage, apache: Broker, artefact: Artefact, rng: np.random.Generator
) -> None:
    s = stage(OFFNORMAL_BATCH__MAX_ROWS="200").make_topics()
    s.publish(artefact)
    x, places = some_rows(100_000, rng), []
    enough = threading.Event()
    feeder = threading.Thread(target=lambda: places.extend(feed_slowly(s, x, enough)))
    feeder.start()
    try:
        delays, committed = random.Random(5), [0]
        for _ in range(3):
            worker = s.worker()
            until(lambda: sum(s.committed().values()) > committed[-1], 60)
            time.sleep(delays.uniform(0.0, 0.5))
            worker.kill()
            committed.append(sum(s.committed().values()))
    finally:
        enough.set()
        feeder.join()
    assert committed[-1] < len(places) < len(x), "the kills came too late to prove anything"
    last = s.worker("--until-end")
    assert last.wait() == 0, last.errors
    check_each_once(s, places, x[: len(places)], {artefact.card.version: artefact})


def feed_slowly(s: Stage, x: np.ndarray, enough: threading.Event) -> list[Place]:
    """Send a thousand rows a second or so, and two seconds of them more once it is enough."""
    places, more = [], 20
    for i in range(0, len(x), 100):
        places.extend(s.send_rows(x[i : i + 100]))
        time.sleep(0.1)
        more -= enough.is_set()
        if not more:
            break
    return places


def test_workers_join_and_leave(stage: MakeStage, apache: Broker, artefact: Artefact, rng: np.random.Generator) -> None:
    s = stage().make_topics(6)
    s.publish(artefact)
    first = s.worker()
    first.await_log("partitions_assigned")
    x = some_rows(30_000, rng)
    places: list[Place] = []

    def feed(begin: int, end: int) -> None:
        for i in range(begin, end, 500):
            places.extend(s.send_rows(x[i : i + 500]))
            time.sleep(0.05)

    feed(0, 8000)
    second = s.worker()
    feed(8000, 18_000)
    second.await_log("partitions_assigned")
    feed(18_000, 24_000)
    assert first.stop() == 0
    feed(24_000, 30_000)
    until(lambda: sum(s.committed().values()) == len(x), 60)
    assert second.stop() == 0
    assert second.log("worker_stopped")[0]["vectors"] > 1000, "the second worker had no share"
    check_each_once(s, places, x, {artefact.card.version: artefact})


def test_swap_while_running(stage: MakeStage, apache: Broker, artefact: Artefact, rng: np.random.Generator) -> None:
    s = stage().make_topics()
    s.publish(artefact)
    worker = s.worker()
    worker.await_log("partitions_assigned")
    models = {artefact.card.version: artefact}
    x = some_rows(12_000, rng)
    places = []
    for i in range(0, len(x), 500):
        if i in (3000, 6000, 9000):
            newer = make_artefact(seed=i)
            models[newer.card.version] = newer
            published = time.time()
            s.publish(newer)
            until(lambda: worker.log("model_swapped")[-1]["model_version"] == newer.card.version, 5, every=0.02)  # noqa: B023
            assert time.time() - published < 1.0 + 2.0  # publishing itself takes its time
        places.extend(s.send_rows(x[i : i + 500]))
    until(lambda: sum(s.committed().values()) == len(x))
    assert worker.stop() == 0
    check_each_once(s, places, x, models)
    used = {score.version for scores in s.scores().values() for score in scores}
    assert used == set(models)
