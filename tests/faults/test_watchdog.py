"""A client that goes deaf, as a bug might make it: the worker notices this and continues with a new client."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.brokers import ApacheKafka, Broker
from tests.models import normal_rows
from tests.stage import Stage, until
from worker.models import Artefact

MakeStage = Callable[..., Stage]


def test_a_deaf_client_is_made_anew_and_each_record_is_scored_once(
    stage: MakeStage, apache: Broker, artefact: Artefact, rng: np.random.Generator
) -> None:
    s = stage().make_topics(2)
    s.publish(artefact)
    places = s.send_rows(normal_rows(100, rng))
    worker = s.start(["tests.faults.doomed", "deaf", "1"], {})
    until(lambda: s.committed() == {0: 50, 1: 50}, 60)
    time.sleep(4)  # some polls of nothing: now it is deaf
    places += s.send_rows(normal_rows(100, rng))
    (line,) = worker.await_log("connections_rebuilt", timeout=90)
    assert line["live"] and "no commit" in line["reason"]
    until(lambda: s.committed() == {0: 100, 1: 100}, 60)
    scores = s.scores()
    assert set(scores) == set(places) and all(len(each) == 1 for each in scores.values())
    assert worker.stop() == 0


def test_one_that_no_new_client_helps_is_no_longer_live(
    stage: MakeStage, apache: Broker, artefact: Artefact, rng: np.random.Generator
) -> None:
    s = stage().make_topics(1)
    s.publish(artefact)
    worker = s.start(["tests.faults.doomed", "deaf", "100"], {})
    s.send_rows(normal_rows(10, rng))
    until(lambda: s.committed() == {0: 10}, 60)
    time.sleep(4)
    s.send_rows(normal_rows(10, rng))
    lines = worker.await_log("connections_rebuilt", 3, timeout=240)
    assert [line["live"] for line in lines[:3]] == [True, True, False]
    assert worker.stop() == 0


@pytest.mark.parametrize("ends", ["when it is back", "by SIGTERM"])
def test_a_worker_that_connects_again_does_not_end_by_a_broker_that_is_away(
    stage: MakeStage,
    own_kafka: ApacheKafka,
    artefact: Artefact,
    rng: np.random.Generator,
    tmp_path: Path,
    ends: str,
) -> None:
    """A start gives up after a while. A worker that has run must not: it would leave its partitions for good."""
    s = stage(OFFNORMAL_KAFKA__BOOTSTRAP=own_kafka.bootstrap, OFFNORMAL_KAFKA__STARTUP_TIMEOUT="5").make_topics(2)
    s.publish(artefact)
    places = s.send_rows(normal_rows(100, rng))
    worker = s.start(["tests.faults.doomed", "reconnect", str(tmp_path / "go")], {})
    until(lambda: s.committed() == {0: 50, 1: 50}, 60)
    time.sleep(4)
    places += s.send_rows(normal_rows(100, rng))
    worker.await_log("connections_rebuilt", timeout=90)
    own_kafka.kill()
    (tmp_path / "go").touch()
    worker.await_log("reconnection_failed", 2, timeout=60)
    if ends == "by SIGTERM":
        began = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - began < 10
        return
    own_kafka.start()
    until(lambda: s.committed() == {0: 100, 1: 100}, 60)
    scores = s.scores()
    assert set(scores) == set(places) and all(len(each) == 1 for each in scores.values())
    assert worker.stop() == 0
