"""Records as other programs write them: what is in them is found, told, learned and scored."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.brokers import Broker
from tests.models import FEATURES, normal_rows
from tests.stage import Stage

MakeStage = Callable[..., Stage]

T = 1_795_888_000
QUICK = {"OFFNORMAL_TRAINING__STEPS": "200", "OFFNORMAL_TRAINING__MIN_ROWS": "1000", "OFFNORMAL_MODEL__KIND": "stacked"}


def telegraf(readings: dict[str, float], k: int) -> Any:
    return {"fields": readings, "name": "press", "tags": {"host": f"web-{k % 3}"}, "timestamp": T + k}


def debezium_by_connect(readings: dict[str, float], k: int) -> Any:
    row = {"id": k % 3, **readings}
    payload = {"before": None, "after": row, "source": {"ts_ms": (T + k) * 1000}, "op": "c", "ts_ms": (T + k) * 1000}
    return {"schema": {"type": "struct", "fields": [], "optional": False}, "payload": payload}


def sparkplug(readings: dict[str, float], k: int) -> Any:
    metrics = [{"name": name, "dataType": "Float", "value": value} for name, value in readings.items()]
    return {"timestamp": (T + k) * 1000, "metrics": metrics, "seq": k % 256}


def nested(readings: dict[str, float], k: int) -> Any:
    return {"device": f"press-{k % 3}", "at": (T + k) * 1000, "data": {"raw": readings, "ok": True}}


@pytest.mark.parametrize(
    ("write", "shape", "settings", "features"),
    [
        (telegraf, "telegraf", {"SHAPE": "telegraf"}, FEATURES),
        (debezium_by_connect, "debezium", {"SHAPE": "debezium"}, FEATURES),
        (sparkplug, "sparkplug-json", {"SHAPE": "sparkplug-json"}, FEATURES),
        (nested, "vector", {"TIME_FIELD": "at", "ENTITY_FIELD": "device"}, [f"data.raw.{name}" for name in FEATURES]),
    ],
    ids=["telegraf", "debezium", "sparkplug", "nested"],
)
def test_from_a_look_to_events(
    stage: MakeStage,
    apache: Broker,
    rng: np.random.Generator,
    write: Callable[[dict[str, float], int], Any],
    shape: str,
    settings: dict[str, str],
    features: list[str],
) -> None:
    s = stage(**QUICK).make_topics(2)
    x = normal_rows(3000, rng)
    documents = [write(dict(zip(FEATURES, map(float, row), strict=True)), k) for k, row in enumerate(x)]
    s.send([json.dumps(document).encode() for document in documents], [None] * len(documents))
    look = s.worker("topics", "--look", "--json")
    assert look.wait() == 0, look.errors
    told = json.loads(look.output.splitlines()[-1])
    assert told["shape"] == shape
    assert told["settings"] == {f"OFFNORMAL_INPUT__{name}": value for name, value in settings.items()}
    assert sorted(told["readings"]) == sorted(features)

    s.environment |= told["settings"]
    training = s.training("--json")
    assert training.wait(120) == 0, training.errors
    anomaly = dict(zip(FEATURES, map(float, x[0] + [40, 0, 0, 0]), strict=True))
    (place,) = s.send([json.dumps(write(anomaly, 5000)).encode()], [None])
    worker = s.worker("--until-end")
    assert worker.wait() == 0, worker.errors
    assert not s.dead_letters() and not worker.log("records_unmatched")
    events = {tuple(map(int, event["id"].split("/")[1:3])): event["data"] for event in s.events()}
    event = events[place]
    assert event["features"][0]["name"].rpartition(".")[2] == "pressure"
    if "ENTITY_FIELD" in settings or shape == "telegraf":
        assert event["entity"].endswith("-2")


def test_what_no_shape_fits_is_told(stage: MakeStage, broker: Broker) -> None:
    s = stage().make_topics(1)
    look = s.worker("topics", "--look")
    assert look.wait() == 0 and "has no records yet" in look.output
    s.send([b'{"text": "no number"}'] * 20)
    look = s.worker("topics", "--look")
    assert look.wait() == 2
    assert '{"text": "no number"}' in look.output
