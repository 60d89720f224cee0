"""The closed loop on a real broker: it notices, asks, trains, checks and swaps, without a person."""

import json
from collections.abc import Callable

import numpy as np

from tests.brokers import Broker
from tests.models import normal_rows
from tests.plant import SETTINGS, Plant, drift_events, history
from tests.stage import Stage, until
from worker.registry import Registry

MakeStage = Callable[..., Stage]


def test_from_nothing_to_a_new_regime_without_a_person(
    stage: MakeStage, apache: Broker, rng: np.random.Generator
) -> None:
    s = stage(**SETTINGS).make_topics(1)
    plant = Plant(s)
    serve = s.training("serve")
    worker = s.worker()
    plant.send(normal_rows(3000, rng))
    worker.await_log("champion_awaited")
    serve.await_log("training_scheduler_started")
    assert not serve.log("training_started"), "too few rows"
    plant.send(normal_rows(9000, rng))
    worker.await_log("model_swapped", timeout=90)
    moved = np.array([2, 0, 0, 2], np.float32)
    plant.send(normal_rows(12_000, rng) + moved)

    def learned() -> bool:
        """The plant goes on as it is: what is too short for a new regime yet will be one."""
        view = Registry(s.settings).view()
        if view.card(view.champion() or "").trained_on["new_regime"]:
            return True
        plant.send(normal_rows(1000, rng) + moved)
        return False

    until(learned, 120, every=1)
    version = Registry(s.settings).view().champion()
    until(lambda: worker.log("model_swapped")[-1]["model_version"] == version, 20)
    until(lambda: sum(s.committed().values()) == plant.sent, 30)
    since = plant.sent
    plant.send(normal_rows(4000, rng) + moved)
    until(lambda: sum(s.committed().values()) == plant.sent, 30)
    assert worker.stop() == 0 and serve.stop(60) == 0
    (first, *_) = drift_events(s)
    assert first["kind"] == "shift" and first["asks_for_training"]
    requests = [json.loads(record.value) for record in s.read(s.topics.training_requests)]
    assert requests[0]["model"] == "default" and requests[0]["reason"].startswith("drift")
    decided = history(s)
    assert decided[0] == ("promoted", "the first model")
    assert any(what == "promoted" and why.startswith("drift: ") for what, why in decided[1:])
    card = Registry(s.settings).view().card(version or "")
    assert card.trained_on["new_regime"] and card.quality["gate"]["passed"]
    late = [event for event in s.events() if int(event["id"].rsplit("/", 2)[1]) >= since]
    assert len(late) / 4000 < 2 * card.quality["false_alarm_rate"]["asked"]
