"""Who decides about models sees all that was decided, a start serves the champion of now, and a lease is asked for."""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from kafka import KafkaProducer

from tests.brokers import Broker
from tests.models import make_artefact, normal_rows
from tests.stage import Stage
from training.run.lease import Lease
from worker.errors import KafkaUnavailable, OffnormalError
from worker.kafka import waits
from worker.registry import Registry, RegistryView
from worker.registry.view import signed

MakeStage = Callable[..., Stage]


def test_a_start_serves_the_champion_of_now_and_none_that_the_log_names_on_the_way(
    stage: MakeStage, apache: Broker, rng: np.random.Generator
) -> None:
    s = stage().make_topics(1)
    former, champion = make_artefact(seed=20), make_artefact(seed=21)
    s.publish(former)
    with closing(KafkaProducer(bootstrap_servers=s.bootstrap, max_request_size=2_000_000)) as producer:
        for i in range(300):  # what trainings of other models leave behind
            producer.send(s.topics.models, bytes(900_000), b"artefact/other/v%d/part/0" % i, partition=0)
    s.publish(champion)
    s.send_rows(normal_rows(500, rng))
    worker = s.worker("--until-end")
    assert worker.wait(120) == 0, worker.errors
    assert [line["model_version"] for line in worker.log("model_swapped")] == [champion.card.version]
    assert {score.version for scores in s.scores().values() for score in scores} == {champion.card.version}


def test_what_an_open_transaction_holds_back_is_waited_for(
    stage: MakeStage, apache: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = stage().make_topics(1)
    registry = Registry(s.settings)
    made = [make_artefact(seed=30 + i) for i in range(2)]
    for one in made:
        registry.add(one)
    with closing(KafkaProducer(bootstrap_servers=s.bootstrap, transactional_id=f"{s.topics.models}-x")) as producer:
        producer.init_transactions()
        for _ in range(2):
            producer.begin_transaction()
            producer.send(s.topics.models, b"x", b"audit/other/1", partition=0).get(10)
            monkeypatch.setattr(waits, "DECISION", 1.0)
            with pytest.raises(OffnormalError, match="transaction has been open"):
                registry.promote(made[0].card.version, "test", "blind otherwise")
            monkeypatch.setattr(waits, "DECISION", 30.0)
            ends = threading.Timer(2.0, producer.commit_transaction)
            ends.start()
            registry.promote(made[0].card.version, "test", "waited")
            ends.join()
            registry.promote(made[1].card.version, "test", "waited")
    view = registry.view()
    assert [entry["version"] for entry in view.history()] == [one.card.version for one in made * 2]
    assert [entry["from"] for entry in view.history()] == [None, *(one.card.version for one in [*made, made[0]])]


def test_whoever_decides_next_ends_what_one_who_died_has_left_open(
    stage: MakeStage, apache: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one who was deciding about another model: sooner than the broker would, after its 10 s and up to 10 more."""
    s, artefact = stage().make_topics(1), make_artefact(seed=40)
    monkeypatch.setattr(waits, "DECISION", 5.0)
    dead = Registry(s.settings, "another")._fencing()
    dead.init_transactions()
    dead.begin_transaction()
    dead.send(s.topics.models, b"x", b"audit/another/1", partition=0).get(10)
    s.publish(artefact)
    assert len(Registry(s.settings).view().history()) == 1
    dead.close(timeout=0)


@pytest.mark.parametrize("pause", [0.0, 0.5])  # before each record is sent: time to learn that it is too late
def test_an_old_version_that_becomes_champion_meanwhile_is_not_pruned(
    stage: MakeStage, apache: Broker, monkeypatch: pytest.MonkeyPatch, pause: float
) -> None:
    s = stage(OFFNORMAL_MODEL__KEEP="2").make_topics(1)
    registry = Registry(s.settings)
    made = [make_artefact(seed=50 + i) for i in range(3)]
    for one in made[:2]:
        registry.publish(one, "test", "test")
    oldest, pruned = made[0].card.version, Registry._pruned

    def overtaken(self: Registry, view: RegistryView) -> Any:
        monkeypatch.setattr(Registry, "_pruned", pruned)
        Registry(s.settings).promote(oldest, "somebody else", "meanwhile")
        monkeypatch.setattr("worker.registry.registry.signed", lambda *told: time.sleep(pause) or signed(*told))
        return pruned(self, view)

    monkeypatch.setattr(Registry, "_pruned", overtaken)
    registry.publish(made[2], "test", "would have pruned the oldest")
    view = registry.view()
    assert [entry["version"] for entry in view.history()][-2:] == [oldest, made[2].card.version]
    assert view.predecessor() == oldest and view.artefact(oldest) == made[0].dump()


def test_a_publication_whose_parts_were_taken_for_leftovers_is_written_again(
    stage: MakeStage, apache: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = stage().make_topics(1)
    registry, artefact = Registry(s.settings), make_artefact(seed=60)
    add = Registry.add

    def add_and_lose(self: Registry, one: Any) -> None:
        monkeypatch.setattr(Registry, "add", add)
        add(self, one)
        self._write([(f"artefact/default/{one.card.version}", None, [])])

    monkeypatch.setattr(Registry, "add", add_and_lose)
    assert registry.publish(artefact, "test", "test").champion() == artefact.card.version
    assert registry.view().artefact(artefact.card.version) == artefact.dump()


def test_a_lease_that_was_slept_over_is_noticed_when_it_is_looked_after(stage: MakeStage, apache: Broker) -> None:
    s = stage().make_topics(1)
    with Lease(s.settings) as lease:
        lease.check()
        lease._end.set()  # as SIGSTOP does: nobody polls any more
        lease._keeper.join(5)
        lease._consumer._coordinator._disable_heartbeat()
        with Lease(s.settings) as another:
            another.check()
            with pytest.raises(KafkaUnavailable, match="another training"):
                lease.check()
