"""Windows and incidents equal those of an uninterrupted run, whoever was killed and wherever partitions moved."""

import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

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

WINDOW = 8
ENTITIES = 40
PARTITIONS = 4


@pytest.fixture(scope="module")
def windowed() -> Artefact:
    return make_artefact(seed=0, window=WINDOW)


def coefficients(window: np.ndarray) -> np.ndarray:
    """[8, d], the oldest first -> [4 d], by the definition and not by the worker's code."""
    newest = window[::-1].astype(np.float64)
    parts = [newest.mean(0), *(newest[:m].mean(0) - newest[m : 2 * m].mean(0) for m in (1, 2, 4))]
    return np.concatenate(parts).astype(np.float32)


class Feed:
    """Vectors of ENTITIES machines, each in one partition; some of them go astray for a while."""

    def __init__(self, stage: Stage, rng: np.random.Generator):
        self._stage, self._rng = stage, rng
        self.places: list[Place] = []
        self._rows: dict[int, list[np.ndarray]] = defaultdict(list)
        self.entity: list[int] = []
        self.windows: list[np.ndarray | None] = []  # the coefficients; None while cold

    def send(self, n: int) -> None:
        entities = self._rng.integers(ENTITIES, size=n)
        x = normal_rows(n, self._rng)
        for begin, of in ((0.2, 3), (0.5, 11), (0.6, 22)):
            stray = (entities == of) & (np.arange(n) > begin * n) & (np.arange(n) < (begin + 0.15) * n)
            x[stray, 2] += 30
        for partition in range(PARTITIONS):
            mine = np.flatnonzero(entities % PARTITIONS == partition)
            values = [json.dumps([float(v) for v in x[i]]).encode() for i in mine]
            keys = [b"m%d" % entities[i] for i in mine]
            self.places += self._stage.send(values, keys=keys, partition=partition)
            for i in mine.tolist():
                history = self._rows[int(entities[i])]
                history.append(x[i])
                full = len(history) >= WINDOW
                self.windows.append(coefficients(np.stack(history[-WINDOW:])) if full else None)
                self.entity.append(int(entities[i]))

    def check(self, model: Artefact) -> None:
        """Each row has one score, that of its window; and none only while its machine is cold."""
        scores = self._stage.scores()
        assert set(scores) == set(self.places)
        assert all(len(each) == 1 for each in scores.values()), "repeated"
        cold = np.array([w is None for w in self.windows])
        got = np.array([scores[place][0].rows[0][0] for place in self.places])
        assert np.isnan(got[cold]).all()
        x = torch.from_numpy(np.stack([w for w in self.windows if w is not None]))
        np.testing.assert_allclose(got[~cold], model.detector.score(x).numpy(), rtol=1e-5)


def incidents(stage: Stage) -> dict[str, dict[str, Any]]:
    """The last record of each incident. Every record is valid, and at most one of each is to be notified of."""
    validator = jsonschema.Draft202012Validator(schema("incident"), format_checker=jsonschema.FormatChecker())
    last: dict[str, dict[str, Any]] = {}
    notified: list[str] = []
    for record in sorted(stage.read(stage.topics.incidents), key=lambda r: (r.partition, r.offset)):
        event = json.loads(record.value)
        validator.validate(event)
        data = event["data"]
        assert record.key.decode() == data["entity"] == event["subject"]
        last[data["incident"]] = data
        notified += [data["incident"]] if data["notify"] else []
    assert len(notified) == len(set(notified))
    for data in last.values():
        data.pop("notify")  # of the last record: it depends on when it was written
    return last


def uninterrupted(stage: MakeStage, of: Stage) -> Stage:
    """Another group over the same records, which nobody disturbs."""
    shared = ("OFFNORMAL_TOPICS__SENSORS", "OFFNORMAL_TOPICS__MODELS")
    own = ("OFFNORMAL_TOPICS__", "OFFNORMAL_KAFKA__GROUP")
    settings = {k: v for k, v in of.environment.items() if k in shared or not k.startswith(own)}
    other = stage(**settings).make_topics(PARTITIONS)
    assert other.worker("--until-end").wait() == 0
    return other


SETTINGS = {
    "OFFNORMAL_MODEL__WINDOW": str(WINDOW),
    "OFFNORMAL_INCIDENTS__QUIET": "1500ms",
    "OFFNORMAL_INCIDENTS__COOLDOWN": "3s",
    "OFFNORMAL_BATCH__MAX_ROWS": "300",
}


def close_enough(a: Any, b: Any) -> bool:
    if isinstance(a, float):
        return bool(a == pytest.approx(b, rel=1e-3))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close_enough(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(close_enough, a, b))
    return bool(a == b)


def check_incidents(stage: MakeStage, s: Stage) -> None:
    found, wanted = incidents(s), incidents(uninterrupted(stage, s))
    assert len(wanted) > 3
    assert found.keys() == wanted.keys()
    for id, data in wanted.items():
        assert close_enough(found[id], data), (found[id], data)
    told = {event["id"]: event["data"]["incident"] for event in s.events()}
    assert {i for i in told.values() if i} == set(wanted)


def test_windows_survive_kills_and_moving_partitions(
    stage: MakeStage, apache: Broker, windowed: Artefact, rng: np.random.Generator
) -> None:
    s = stage(**SETTINGS).make_topics(PARTITIONS)
    s.publish(windowed)
    feed, enough = Feed(s, rng), threading.Event()

    def send() -> None:
        while not enough.wait(0.5):
            feed.send(400)

    thread = threading.Thread(target=send)
    thread.start()
    delays = random.Random(1)
    steady = s.worker()
    steady.await_log("partitions_assigned")
    for _ in range(3):  # another worker joins, takes partitions over, and is killed
        other = s.worker()
        other.await_log("partitions_assigned")
        time.sleep(delays.uniform(0.5, 2.0))
        other.kill()
    steady.kill()
    last = s.worker()
    until(lambda: bool(last.log("window_refill_started")), 30)
    time.sleep(2)
    enough.set()
    thread.join()
    until(lambda: sum(s.committed().values()) == len(feed.places), 60)
    assert last.stop() == 0, last.errors
    filled = [line["records"] for line in last.log("window_refill_started")]
    assert filled and max(filled) > 0, "nothing was read back"
    assert max(filled) < len(feed.places) / PARTITIONS / 2, "far more was read back than the windows need"
    feed.check(windowed)
    check_incidents(stage, s)


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_an_incident_survives_its_worker(
    stage: MakeStage, apache: Broker, windowed: Artefact, rng: np.random.Generator, delivery: str
) -> None:
    s = stage(**SETTINGS, OFFNORMAL_DELIVERY=delivery, OFFNORMAL_INCIDENTS__OPEN_AFTER="5").make_topics(PARTITIONS)
    s.publish(windowed)
    feed = Feed(s, rng)
    for _ in range(6):  # a takeover in the midst of flags and incidents each time
        feed.send(500)
        worker = s.worker()
        until(lambda: sum(s.committed().values()) == len(feed.places), 30)
        worker.kill()
    feed.check(windowed)
    check_incidents(stage, s)


def test_slow_machines_start_cold_where_reading_back_is_bounded(
    stage: MakeStage, apache: Broker, windowed: Artefact, rng: np.random.Generator
) -> None:
    s = stage(**SETTINGS, OFFNORMAL_ENTITIES__REPLAY="200").make_topics(1)
    s.publish(windowed)
    x = normal_rows(1000, rng)

    def send(key: bytes, rows: np.ndarray) -> list[Place]:
        values = [json.dumps([float(v) for v in row]).encode() for row in rows]
        return s.send(values, keys=[key] * len(values), partition=0)

    send(b"slow", x[:8])
    send(b"quick", x[8:500])
    assert s.worker("--until-end").wait() == 0
    slow, quick = send(b"slow", x[500:508]), send(b"quick", x[508:516])
    worker = s.worker("--until-end")
    assert worker.wait() == 0
    assert worker.log("window_refill_started")[0]["records"] <= 200
    scores = s.scores()
    assert [np.isnan(scores[place][0].rows[0][0]) for place in slow] == [True] * 7 + [False]
    assert not any(np.isnan(scores[place][0].rows[0][0]) for place in quick)


def test_retention_that_has_eaten_the_history_is_said(
    stage: MakeStage, apache: Broker, windowed: Artefact, rng: np.random.Generator
) -> None:
    from kafka import KafkaAdminClient, TopicPartition

    s = stage(**SETTINGS).make_topics(1)
    s.publish(windowed)
    rows = [json.dumps([float(v) for v in row]).encode() for row in normal_rows(40, rng)]
    s.send(rows[:20], keys=[b"m"] * 20, partition=0)
    assert s.worker("--until-end").wait() == 0
    admin = KafkaAdminClient(bootstrap_servers=s.bootstrap)
    admin.delete_records({TopicPartition(s.topics.sensors, 0): 17})
    admin.close()
    places = s.send(rows[20:], keys=[b"m"] * 20, partition=0)
    worker = s.worker("--until-end")
    assert worker.wait() == 0, worker.errors
    (told,) = worker.log("window_refill_truncated")
    assert (told["wanted"], told["earliest"]) == (8, 17)
    assert not worker.log("records_expired"), "nothing that was to be scored is gone"
    scores = s.scores()
    cold = [bool(np.isnan(scores[place][0].rows[0][0])) for place in places]
    assert cold == [True] * 4 + [False] * 16, "three were left of the window"
