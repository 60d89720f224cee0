"""What plants really send, end to end. Each was reported by users of such systems, and went wrong here once."""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from tests.brokers import Broker
from tests.models import FEATURES, normal_rows
from tests.plant import ROWS, SETTINGS, Plant, drift_events
from tests.stage import Process, Stage, until
from worker.registry import Registry

MakeStage = Callable[..., Stage]
QUICK = {"OFFNORMAL_TRAINING__STEPS": "300", "OFFNORMAL_MODEL__KIND": "stacked"}
Message = tuple[bytes, int, Any]  # key, seconds, document


def press(rng: np.random.Generator) -> dict[str, float]:
    speed = rng.normal(50, 10)
    return {
        "speed": round(speed, 3),
        "pressure": round(10 + 0.2 * speed + rng.normal(0, 0.2), 3),
        "flow": round(0.6 * speed + rng.normal(0, 0.5), 3),
        "heat": round(20 + 0.3 * speed + rng.normal(0, 0.5), 3),
    }


def send(s: Stage, messages: Iterable[Message], partition: int | None = None) -> list[tuple[int, int]]:
    keys, seconds, documents = zip(*messages, strict=True)
    values = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in documents]
    return s.send(values, keys, partition, times=[1000 * each for each in seconds])


def presses(rng: np.random.Generator, n: int, begin: int, machines: int = 1, **more: Any) -> Iterator[Message]:
    for i in range(n):
        extra = {key: value(begin + i) for key, value in more.items()}
        yield b"press-%d" % (i % machines), begin + i, {**extra, **press(rng)}


@pytest.fixture
def begin() -> int:
    return int(time.time()) // 60 * 60 - 20_000


def trained(s: Stage, **settings: str) -> dict[str, Any]:
    run = s.training("--json", **settings)
    assert run.wait() == 0, run.errors
    told: dict[str, Any] = json.loads(run.output.splitlines()[-1])
    view = Registry(s.load(OFFNORMAL_MODEL__NAME=told["model"])).view()
    return told | {"features": list(view.card(told["version"]).features), "run": run}


def scored_to_the_end(s: Stage, **settings: str) -> Process:
    worker = s.worker("--until-end", **settings)
    assert worker.wait(90) == 0, worker.errors
    return worker


def named(s: Stage, places: Iterable[tuple[int, int]]) -> int:
    """How many of these records were published as anomalies."""
    events = {tuple(map(int, event["id"].split("/")[1:3])) for event in s.events()}
    return len(events & set(places))


@pytest.mark.parametrize(
    ("document", "clock", "prefix"),
    [
        (
            lambda t, readings: {"fields": readings, "name": "press", "tags": {"host": "a"}, "timestamp": t},
            "timestamp",
            "fields.",
        ),
        (lambda t, readings: {"before": None, "after": readings, "op": "c", "ts_ms": 1000 * t}, "ts_ms", "after."),
    ],
    ids=["Telegraf", "Debezium"],
)
def test_the_readings_of_an_envelope_are_features_and_its_clock_is_none(
    stage: MakeStage,
    apache: Broker,
    rng: np.random.Generator,
    begin: int,
    document: Callable[..., Any],
    clock: str,
    prefix: str,
) -> None:
    s = stage(**QUICK).make_topics(3)
    send(s, ((b"press-%d" % (i % 2), begin + i, document(begin + i, press(rng))) for i in range(1500)))
    model = trained(s)
    assert model["features"] == [prefix + name for name in ("speed", "pressure", "flow", "heat")]
    (told,) = model["run"].log("time_column_detected")
    assert told["column"] == clock


def test_no_model_is_made_of_the_clock_of_an_envelope(
    stage: MakeStage, apache: Broker, rng: np.random.Generator, begin: int
) -> None:
    s = stage(**QUICK).make_topics(3)
    pairs = [{"name": "speed", "value": 50.0}]
    send(s, ((b"press-%d" % (i % 2), begin + i, {"metrics": pairs, "timestamp": begin + i}) for i in range(1500)))
    run = s.training()
    assert run.wait() == 5, run.errors
    assert "time: timestamp" in run.errors and "arrays of objects: metrics" in run.errors
    assert '"name": "speed"' in run.errors, "a record is shown"
    assert not Registry(s.settings).view().versions()


def test_a_time_in_the_record_is_no_sensor_and_later_ones_are_no_anomalies(
    stage: MakeStage, apache: Broker, rng: np.random.Generator, begin: int
) -> None:
    s = stage(**QUICK).make_topics(3)
    send(s, presses(rng, 6000, begin, machines=4, ts=lambda t: 1000 * t))
    model = trained(s)
    assert model["features"] == ["speed", "pressure", "flow", "heat"]
    (told,) = model["run"].log("time_column_detected")
    assert (told["column"], told["unit"]) == ("ts", "ms")
    assert "OFFNORMAL_INPUT__TIME_FIELD=ts" in told["hint"]
    later = send(s, presses(rng, 800, begin + 18_000, machines=4, ts=lambda t: 1000 * t))
    scored_to_the_end(s)
    assert named(s, later) <= 800 * 3 * max(model["quality"]["false_alarm_rate"]["asked"], 0.01)


def test_a_reading_that_is_null_from_now_on_keeps_the_rate_and_hides_no_fault(
    stage: MakeStage, apache: Broker, rng: np.random.Generator, begin: int
) -> None:
    s = stage(**QUICK, OFFNORMAL_DETECTION__FALSE_ALARM_RATE="0.01").make_topics(3)
    send(s, presses(rng, 8000, begin, machines=4))
    trained(s)
    places, faulty = {}, []
    for k, name in enumerate(("speed", "pressure", "flow", "heat")):
        later = begin + 9000 + 1000 * k
        messages = list(presses(rng, 800, later, machines=4))
        places[name] = send(s, [(key, when, {**document, name: None}) for key, when, document in messages])
        other = "heat" if name == "pressure" else "pressure"
        moved = [(key, when + 800, {**d, name: None, other: d[other] + 20}) for key, when, d in messages[:20]]
        faulty += send(s, moved)
    scored_to_the_end(s)
    shares = {name: named(s, of_sensor) / 800 for name, of_sensor in places.items()}
    assert all(share < 0.03 for share in shares.values()), shares
    assert named(s, faulty) > 0.8 * len(faulty)


def test_nan_of_json_dumps_is_a_missing_reading(
    stage: MakeStage, apache: Broker, rng: np.random.Generator, begin: int
) -> None:
    s = stage(**QUICK).make_topics(1)
    messages = list(presses(rng, 3000, begin))
    for _, _, document in messages[::10]:
        document["flow"] = math.nan
    send(s, messages)
    assert trained(s)["rows"]["rejected_records"] == 0
    scored_to_the_end(s)
    assert not s.read(s.topics.dead_letters)
    assert not any(np.isnan(score.rows[0][0]) for scores in s.scores().values() for score in scores)


def test_each_route_is_trained_on_its_own_features_and_no_default_is_needed(
    stage: MakeStage, apache: Broker, rng: np.random.Generator, begin: int
) -> None:
    s = stage(**QUICK, OFFNORMAL_MODEL__ROUTES='{"pump-*": "pumps", "fan-*": "fans"}').make_topics(2)

    def messages(n: int, at: int) -> Iterator[Message]:
        for i in range(n):
            speed, rpm = rng.normal(50, 10), rng.normal(900, 50)
            if i % 30:  # nearly all are pumps
                yield b"pump-1", at + i, {"speed": speed, "flow": 0.6 * speed + rng.normal(0, 0.5)}
            else:
                yield b"fan-1", at + i, {"rpm": rpm, "current": rpm / 100 + rng.normal(0, 0.2)}

    send(s, messages(9000, begin))
    more = {"OFFNORMAL_TRAINING__MIN_ROWS": "200"}
    assert trained(s, OFFNORMAL_MODEL__NAME="pumps", **more)["features"] == ["speed", "flow"]
    waiting = s.worker()
    (told,) = waiting.await_log("champion_awaited")
    assert told["models"] == ["fans"] and "OFFNORMAL_MODEL__NAME=fans" in told["hint"]
    waiting.stop()
    run = s.training("--json", OFFNORMAL_MODEL__NAME="fans", **more)
    assert run.wait() == 0, run.errors
    worker = s.worker()
    until(lambda: sum(s.committed().values()) == 9000, 60)
    assert len(s.scores()) == 9000
    check = s.worker("check")
    assert check.wait() == 0, check.output + check.errors
    # A key that no route has is neither skipped nor lost: it waits for a model.
    (stray,) = send(s, [(b"saw-1", begin + 9000, {"speed": 50.0, "flow": 30.0})])
    (told, *_) = worker.await_log("work_redone")
    assert "saw-1" in told["reason"] and "champion of default" in told["reason"]
    fallback = s.training(OFFNORMAL_INPUT__FEATURES='["speed", "flow"]', OFFNORMAL_MODEL__NAME="default", **more)
    assert fallback.wait() == 5, "there are no records to train on"
    assert worker.stop() == 0
    routes = '{"pump-*": "pumps", "fan-*": "fans", "saw-*": "pumps"}'
    routed = s.worker(OFFNORMAL_MODEL__ROUTES=routes)
    until(lambda: sum(s.committed().values()) == 9001, 60)
    assert routed.stop() == 0
    assert stray in s.scores()


def test_windows_begin_anew_where_a_clock_is_set_back(
    stage: MakeStage, apache: Broker, rng: np.random.Generator, begin: int
) -> None:
    def boiler(t: int) -> dict[str, float]:
        w, v = math.sin(2 * math.pi * t / 5400), math.cos(2 * math.pi * t / 7200)
        return {"a": 50 + 20 * w + rng.normal(0, 0.3), "b": 10 + 4 * w + 2 * v + rng.normal(0, 0.1), "c": 5 * v}

    s = stage(**QUICK, OFFNORMAL_MODEL__WINDOW="8", OFFNORMAL_INPUT__TIME_FIELD="ts").make_topics(1)
    t = [begin - 10_000 + 5 * i for i in range(5520)]
    send(s, ((b"m1", each, {**boiler(each), "ts": each}) for each in t[:4800]))
    trained(s)
    scored_to_the_end(s)
    readings = {each: boiler(each) for each in t[4800:]}
    back = {each: 600 * (i >= 240) for i, each in enumerate(readings)}
    later = send(s, ((b"m1", each, {**x, "ts": each - back[each]}) for each, x in readings.items()))
    control = send(s, ((b"m2", each, {**x, "ts": each}) for each, x in readings.items()))
    worker = scored_to_the_end(s)
    (told,) = worker.log("event_time_reversed")
    assert told["entity"] == "m1"
    found = s.scores()
    scores, expected = (np.array([found[place][0].rows[0][0] for place in places]) for places in (later, control))
    disorder, cold = 4, 7  # rows that may be late by disorder; rows until a window of 8 is full
    assert np.flatnonzero(np.isnan(scores)).tolist() == list(range(240, 240 + disorder + cold))
    np.testing.assert_array_equal(scores[251:], expected[251:], "no window holds rows from before")


def test_what_is_refused_is_told_with_reason_and_place(
    stage: MakeStage, apache: Broker, rng: np.random.Generator, begin: int
) -> None:
    s = stage(**QUICK, OFFNORMAL_INPUT__FEATURES='["speed","pressure","flow","heat"]').make_topics(1)
    texts = [
        (key, t, {name: str(value) for name, value in document.items()})
        for key, t, document in presses(rng, 1200, begin)
    ]
    send(s, texts)
    run = s.training()
    assert run.wait() == 5
    assert "1200 records did not parse" in run.errors
    assert "speed: the reading is no number but str" in run.errors and "offset 0" in run.errors
    assert trained(s, OFFNORMAL_INPUT__COERCE="true")["features"] == ["speed", "pressure", "flow", "heat"]


def test_records_without_any_feature_are_told_and_are_no_silent_sensor(
    stage: MakeStage, apache: Broker, rng: np.random.Generator, begin: int
) -> None:
    s = stage(**QUICK, OFFNORMAL_DRIFT__ENABLED="true").make_topics(1)
    paths = [*(f"fields.{name}" for name in ("speed", "pressure", "flow", "heat")), "tags"]
    send(s, presses(rng, 3000, begin))
    trained(s)
    enveloped = ((b"press-0", begin + 3000 + i, {"fields": press(rng), "tags": {}}) for i in range(3000))
    send(s, enveloped)
    worker = scored_to_the_end(s)
    (told, *_) = worker.log("records_unmatched")
    assert (told["reason"], told["keys"]) == ("no-feature", paths)
    assert not s.read(s.topics.drift) and not worker.log("sensor_fault_detected")
    check = s.worker("check")
    assert check.wait() == 2, check.output
    assert f"none of the features (speed, pressure, flow, heat); keys: {', '.join(paths)}" in check.output
    rejected = send(s, ((b"press-0", begin + 6000 + i, {"fields": press(rng)}) for i in range(10)))
    scored_to_the_end(s, OFFNORMAL_INPUT__REJECT_EMPTY="true")
    letters = s.read(s.topics.dead_letters)
    assert len(letters) == len(rejected)
    assert all(("offnormal-reason", b"no-feature") in letter.headers for letter in letters)


def test_fields_that_no_record_has_are_told(
    stage: MakeStage, apache: Broker, rng: np.random.Generator, begin: int
) -> None:
    s = stage(**QUICK, OFFNORMAL_INPUT__TIME_FIELD="timestmap", OFFNORMAL_INPUT__ENTITY_FIELD="tags.host").make_topics(
        1
    )
    send(s, presses(rng, 3000, begin))
    trained(s)
    worker = scored_to_the_end(s)
    assert {line["reason"] for line in worker.log("records_unmatched")} == {"no-entity-field", "no-time-field"}
    check = s.worker("check")
    assert check.wait() == 2, check.output
    assert "timestmap" in check.output and "tags.host" in check.output


def test_a_meter_that_sends_once_an_hour_has_windows(
    stage: MakeStage, apache: Broker, rng: np.random.Generator, begin: int
) -> None:
    s = stage(**QUICK, OFFNORMAL_MODEL__WINDOW="8", OFFNORMAL_TRAINING__LOOKBACK="100d").make_topics(1)
    send(s, ((b"meter", begin - (1500 - i) * 3600 + int(rng.integers(-20, 20)), press(rng)) for i in range(1500)))
    run = s.training(OFFNORMAL_INPUT__MAX_GAP="1h")
    assert run.wait() == 5
    assert "OFFNORMAL_INPUT__MAX_GAP" in run.errors
    assert trained(s)["rows"]["cold"] == 7, "its interval was learned"
    scored_to_the_end(s)
    scores = s.scores()
    assert sum(bool(np.isnan(found[0].rows[0][0])) for found in scores.values()) == 7


def test_a_sensor_that_is_taken_out_does_not_block_training(
    stage: MakeStage, apache: Broker, rng: np.random.Generator
) -> None:
    """The worker is started anew while the sensor is gone, so that nothing has seen when it fell silent. A person then
    dismisses the fault; the other ways out are in tests/unit/training/data/test_evidence.py.
    """
    s = stage(**SETTINGS | {"OFFNORMAL_TRAINING__MIN_ROWS": "1000"}).make_topics(1)
    plant = Plant(s)
    plant.send(normal_rows(3000, rng))
    assert s.training().wait() == 0
    assert s.worker("--until-end").wait() == 0
    without = normal_rows(4000, rng)
    without[:, 3] = np.nan
    began = plant.time
    plant.send(without)
    worker = s.worker()
    (told, *_) = worker.await_log("sensor_fault_detected")
    assert (told["feature"], told["fault"]) == (FEATURES[3], "silent")
    until(lambda: sum(s.committed().values()) == plant.sent)
    assert worker.stop() == 0
    (fault, *_) = drift_events(s)
    assert datetime.fromisoformat(fault["since"]).timestamp() == pytest.approx(began, abs=ROWS)
    label = s.worker("label", told["id"], "dismissed")
    assert label.wait() == 0, label.errors
    training = s.training("--json")
    assert training.wait() == 0, training.errors
    version = json.loads(training.output.splitlines()[-1])["version"]
    card = Registry(s.settings).view().card(version)
    assert tuple(card.features) == tuple(FEATURES[:3])
    assert training.log("features_excluded")
    assert card.rows["faulty"] == 0
