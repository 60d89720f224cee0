"""A pipeline: windows, entities and models in the way of one block."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.models import make_artefact, normal_rows
from tests.record_blocks import block_of
from worker.blocks import RecordBlock
from worker.kafka import Rewind
from worker.runtime.pipeline import Pipeline
from worker.serving.loaded_model import LoadedModel
from worker.serving.model_swap import ResidentModels
from worker.settings import DetectionSettings, InputSettings, ModelSettings, Settings

WINDOW = 4
SETTINGS = Settings(
    model=ModelSettings(window=WINDOW),
    input=InputSettings(format="f32"),
    detection=DetectionSettings(false_alarm_rate=0.01),
)


@pytest.fixture(scope="module")
def resident() -> LoadedModel:
    return ResidentModels(SETTINGS).load(make_artefact(seed=0, window=WINDOW).dump())


@pytest.fixture
def pipeline(resident: LoadedModel) -> Pipeline:
    made = Pipeline.standalone(SETTINGS)
    made.serve(resident)
    return made


def records(x: np.ndarray, first: int = 0) -> RecordBlock:
    block = block_of([row.tobytes() for row in x], [b"press"] * len(x))
    return replace(block, offset=block.offset + first)


def test_cold_vectors_are_counted_and_have_no_score(pipeline: Pipeline) -> None:
    scored = pipeline.score(records(normal_rows(10, np.random.default_rng(0))))
    assert (scored.counts.cold, scored.counts.unscorable, len(scored.block)) == (WINDOW - 1, 0, 10)


def test_records_read_back_fill_the_windows_and_put_nothing_out(pipeline: Pipeline) -> None:
    x = normal_rows(10, np.random.default_rng(0))
    pipeline.refill(records(x))
    assert pipeline.score(records(x, first=10)).counts.cold == 0
    pipeline.forget(0)
    assert pipeline.score(records(x, first=20)).counts.cold == WINDOW - 1


def test_an_event_tells_the_guilty_vectors_of_the_window(pipeline: Pipeline) -> None:
    x = normal_rows(30, np.random.default_rng(0))
    x[-1, 2] += 50
    events = [
        json.loads(output.value)["data"]
        for outputs in pipeline.score(records(x)).outputs
        if outputs.topic == SETTINGS.topics.anomalies
        for output in outputs
    ]
    last = events[-1]
    assert last["features"][0]["name"] == "speed"
    assert last["features"][0]["actual"] == pytest.approx(float(x[-1, 2]))
    assert abs(last["features"][0]["expected"] + 5) < 15, "of the newest vector"
    assert len(last["lags"]) == WINDOW and sum(last["lags"]) == pytest.approx(1, abs=1e-3)
    assert max(last["lags"]) == last["lags"][0]


def test_a_vector_with_hardly_a_reading_is_not_scored_however_full_its_window(pipeline: Pipeline) -> None:
    x = normal_rows(10, np.random.default_rng(0))
    x[7, :3] = np.nan
    scored = pipeline.score(records(x))
    assert (scored.counts.cold, scored.counts.unscorable) == (WINDOW - 1, 1)


def test_the_same_features_keep_their_windows_and_others_have_them_filled(
    pipeline: Pipeline, resident: LoadedModel
) -> None:
    x = normal_rows(10, np.random.default_rng(0))
    pipeline.refill(records(x))
    newer = replace(resident)
    assert pipeline.serve(newer) and not pipeline.serve(newer)
    assert pipeline.score(records(x, first=10)).counts.cold == 0
    other = ResidentModels(SETTINGS).load(make_artefact(seed=1, features=("a", "b"), window=WINDOW).dump())
    with pytest.raises(Rewind):
        pipeline.serve(other)
    assert not pipeline.serve(other), "told once"
    assert pipeline.score(records(x[:, :2].copy(), first=20)).counts.cold == WINDOW - 1


def test_the_same_version_may_come_again(pipeline: Pipeline) -> None:
    """Promoted, and taken back, and promoted: it is loaded anew, and makes events like before."""
    again = make_artefact(seed=0, window=WINDOW).dump()
    far = np.full((WINDOW, 4), 1e6, np.float32)
    for k in range(3):
        pipeline.serve(ResidentModels(SETTINGS).load(again))
        assert pipeline.score(records(far, first=WINDOW * k)).counts.events


def test_each_entity_is_scored_by_its_own_scaler() -> None:
    settings = Settings(input=InputSettings(format="f32"), model=ModelSettings(scaler="entity"))
    made = Pipeline.standalone(settings)
    resident = ResidentModels(settings).load(make_artefact(seed=0, entities=("a", "b")).dump())
    made.serve(resident)
    x = normal_rows(3, np.random.default_rng(0))
    block = block_of([np.concatenate((x, x)).tobytes(), x.tobytes(), x.tobytes()], [b"b", None, b"a"])
    scored = made.score(block)
    rows = made._entities(scored.block, resident)
    assert rows.scaler is not None and rows.trim is None
    assert rows.scaler.tolist() == [2] * 6 + [0] * 3 + [1] * 3
