"""Single readings, one a record: aligned, learned and scored, each vector once."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from tests.brokers import Broker
from tests.models import FEATURES, normal_rows
from tests.stage import Stage, until
from worker.alignment.grid import FLUSHED_ROW

MakeStage = Callable[..., Stage]

T = 1_795_888_000
MACHINES = 3
SETTINGS = {
    "OFFNORMAL_INPUT__SHAPE": "readings",
    "OFFNORMAL_INPUT__STEP": "1s",
    "OFFNORMAL_INPUT__IDLE": "2s",
    "OFFNORMAL_TRAINING__STEPS": "200",
    "OFFNORMAL_TRAINING__MIN_ROWS": "1000",
    "OFFNORMAL_MODEL__KIND": "stacked",
    "OFFNORMAL_BATCH__COMMIT_INTERVAL": "200ms",
}


def send_rows(s: Stage, x: np.ndarray, first: int = 0) -> None:
    """Send each value as a record of its own, under the key of its machine; the tags of a row differ in time."""
    values, keys = [], []
    for k, row in enumerate(x, first):
        for j, (tag, value) in enumerate(zip(FEATURES, row.tolist(), strict=True)):
            time = T + k // MACHINES + 0.1 * j
            values.append(json.dumps({"tag": tag, "value": value, "time": time, "quality": "Good"}).encode())
            keys.append(b"press-%d" % (k % MACHINES))
    for machine in range(MACHINES):
        own = [i for i, key in enumerate(keys) if key == b"press-%d" % machine]
        s.send([values[i] for i in own], [keys[i] for i in own], partition=machine % 2)


def grid_points(s: Stage, partition: int) -> list[tuple[int, int]]:
    """Return offset and row of each scored vector of a partition."""
    found = []
    for (at, offset), scores in s.scores().items():
        if at == partition:
            found += [(offset, row) for score in scores for row in range(len(score.rows))]
    return sorted(found)


@pytest.mark.parametrize("window", ["1", "8"])
def test_from_readings_to_events_and_each_vector_once(
    stage: MakeStage, apache: Broker, rng: np.random.Generator, window: str
) -> None:
    s = stage(**SETTINGS, OFFNORMAL_MODEL__WINDOW=window).make_topics(2)
    rows = 900
    send_rows(s, normal_rows(MACHINES * rows, rng))
    training = s.training("--json")
    assert training.wait(120) == 0, training.errors
    assert training.log("hold_times_learned")[0]["seconds"] == dict.fromkeys(FEATURES, 4.0)
    card = json.loads(training.output.splitlines()[-1])
    assert card["promoted"], card

    worker = s.worker()
    until(lambda: len(s.scores()) > 100, 60)
    worker.kill()
    anomalies = normal_rows(MACHINES * 20, rng)
    anomalies[::MACHINES, 0] += 40  # of press-0
    send_rows(s, anomalies, MACHINES * rows)
    worker = s.worker()
    # All vectors but the last of each machine are closed by a record, the last ones by silence.
    expected = MACHINES * (rows + 20 + 1)
    until(lambda: sum(len(score.rows) for scores in s.scores().values() for score in scores) >= expected, 60)
    assert worker.stop() == 0, worker.errors
    again = s.worker()
    again.await_log("worker_started")
    until(lambda: len(again.log("progress_reported")) >= 1, 30)
    assert again.stop() == 0, again.errors
    assert sum(len(score.rows) for scores in s.scores().values() for score in scores) == expected
    assert not s.dead_letters()

    events = s.events()
    assert len({event["id"] for event in events}) == len(events)
    guilty = [event for event in events if event["data"]["entity"] == "press-0"]
    assert len(guilty) >= 15
    assert {event["data"]["features"][0]["name"] for event in guilty[-15:]} == {FEATURES[0]}
    assert any(int(event["id"].rsplit("/", 1)[1]) > FLUSHED_ROW for event in guilty)
