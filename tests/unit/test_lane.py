"""A lane: windows, entities and models in the way of one block."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.models import make_artefact, normal_rows
from tests.unit.blocks import block_of
from worker.detection import Incidents
from worker.engine import Engine, Resident
from worker.events import EventEncoder
from worker.kafka import Redo
from worker.lane import Lane
from worker.metrics import Metrics
from worker.settings import DetectionSettings, InputSettings, ModelSettings, Settings
from worker.trials import Trials
from worker.vectors import RecordBlock

WINDOW = 4
SETTINGS = Settings(
    model=ModelSettings(window=WINDOW),
    input=InputSettings(format="f32"),
    detection=DetectionSettings(false_alarm_rate=0.01),
)


@pytest.fixture(scope="module")
def resident() -> Resident:
    return Engine(SETTINGS).load(make_artefact(seed=0, window=WINDOW).dump())


@pytest.fixture
def lane(resident: Resident) -> Lane:
    metrics = Metrics()
    made = Lane(
        SETTINGS, Incidents(SETTINGS.incidents, "t"), EventEncoder(SETTINGS), metrics, Trials(SETTINGS, metrics)
    )
    made.serve(resident)
    return made


def records(x: np.ndarray, first: int = 0) -> RecordBlock:
    block = block_of([row.tobytes() for row in x], [b"press"] * len(x))
    return replace(block, offset=block.offset + first)


def test_cold_vectors_are_counted_and_have_no_score(lane: Lane) -> None:
    scored = lane.score(records(normal_rows(10, np.random.default_rng(0))))
    assert (scored.cold, scored.unscorable, len(scored.block)) == (WINDOW - 1, 0, 10)


def test_records_read_back_fill_the_windows_and_put_nothing_out(lane: Lane) -> None:
    x = normal_rows(10, np.random.default_rng(0))
    lane.refill(records(x))
    assert lane.score(records(x, first=10)).cold == 0
    lane.forget(0)
    assert lane.score(records(x, first=20)).cold == WINDOW - 1


def test_an_event_tells_the_guilty_vectors_of_the_window(lane: Lane) -> None:
    x = normal_rows(30, np.random.default_rng(0))
    x[-1, 2] += 50
    events = [
        json.loads(output.value)["data"]
        for outputs in lane.score(records(x)).outputs
        if outputs.topic == SETTINGS.topics.anomalies
        for output in outputs
    ]
    last = events[-1]
    assert last["features"][0]["name"] == "speed"
    assert last["features"][0]["actual"] == pytest.approx(float(x[-1, 2]))
    assert abs(last["features"][0]["expected"] + 5) < 15, "of the newest vector"
    assert len(last["lags"]) == WINDOW and sum(last["lags"]) == pytest.approx(1, abs=1e-3)
    assert max(last["lags"]) == last["lags"][0]


def test_a_vector_with_hardly_a_reading_is_not_scored_however_full_its_window(lane: Lane) -> None:
    x = normal_rows(10, np.random.default_rng(0))
    x[7, :3] = np.nan
    scored = lane.score(records(x))
    assert (scored.cold, scored.unscorable) == (WINDOW - 1, 1)


def test_the_same_features_keep_their_windows_and_others_have_them_filled(lane: Lane, resident: Resident) -> None:
    x = normal_rows(10, np.random.default_rng(0))
    lane.refill(records(x))
    newer = replace(resident)
    assert lane.serve(newer) and not lane.serve(newer)
    assert lane.score(records(x, first=10)).cold == 0
    other = Engine(SETTINGS).load(make_artefact(seed=1, features=("a", "b"), window=WINDOW).dump())
    with pytest.raises(Redo):
        lane.serve(other)
    assert not lane.serve(other), "told once"
    assert lane.score(records(x[:, :2].copy(), first=20)).cold == WINDOW - 1


def test_the_same_version_may_come_again(lane: Lane) -> None:
    """Promoted, and taken back, and promoted: it is loaded anew, and makes events like before."""
    again = make_artefact(seed=0, window=WINDOW).dump()
    far = np.full((WINDOW, 4), 1e6, np.float32)
    for k in range(3):
        lane.serve(Engine(SETTINGS).load(again))
        assert lane.score(records(far, first=WINDOW * k)).severities


def test_each_entity_is_scored_by_its_own_scaler() -> None:
    settings = Settings(input=InputSettings(format="f32"), model=ModelSettings(scaler="entity"))
    metrics = Metrics()
    made = Lane(
        settings, Incidents(settings.incidents, "t"), EventEncoder(settings), metrics, Trials(settings, metrics)
    )
    resident = Engine(settings).load(make_artefact(seed=0, entities=("a", "b")).dump())
    made.serve(resident)
    x = normal_rows(3, np.random.default_rng(0))
    block = block_of([np.concatenate((x, x)).tobytes(), x.tobytes(), x.tobytes()], [b"b", None, b"a"])
    scored = made.score(block)
    rows = made._entities(scored.block, resident)
    assert rows is not None
    assert rows.tolist() == [2] * 6 + [0] * 3 + [1] * 3
