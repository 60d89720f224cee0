"""The judge and the events: severity, attribution, and what is published."""

import json

import jsonschema
import numpy as np
import pytest

from tests.models import FEATURES, normal_rows
from tests.record_blocks import block_of, published
from worker.blocks import VectorBlock
from worker.decoding import Decoder
from worker.detection import Judge
from worker.models import Artefact
from worker.publishing.cloudevents import schema
from worker.publishing.encoder import EventEncoder
from worker.serving.loaded_model import LoadedModel
from worker.serving.model_swap import ResidentModels
from worker.settings import DetectionSettings, InputSettings, PerVectorOutput, Settings

BUDGET = 0.01


@pytest.fixture(scope="module")
def resident(artefact: Artefact) -> LoadedModel:
    settings = Settings(device="cpu", detection=DetectionSettings(false_alarm_rate=BUDGET))
    return ResidentModels(settings).load(artefact.dump())


def block(x: np.ndarray, time: int = 1_700_000_000_000, key: bytes | None = b"m") -> VectorBlock:
    records = block_of([row.astype("<f4").tobytes() for row in x], keys=[key] * len(x), time=time)
    return Decoder(InputSettings(format="f32"), FEATURES).decode(records)


def events(resident: LoadedModel, vectors: VectorBlock, top: int = 3) -> list[dict]:  # type: ignore[type-arg]
    found = Judge(top).anomalies(vectors, resident.score(vectors.x), resident)
    return [json.loads(output.value) for output in EventEncoder(Settings()).anomalies(found, vectors, resident)]


def test_events_fit_the_schema_and_the_budget(resident: LoadedModel, rng: np.random.Generator) -> None:
    x = normal_rows(3000, rng)
    x[::100] += 20
    found = events(resident, block(x))
    validator = jsonschema.Draft202012Validator(schema("anomaly"))
    for event in found:
        validator.validate(event)
        data = event["data"]
        assert data["p_value"] <= BUDGET * 1.0001
        assert data["score"] >= data["threshold"]
        assert data["severity"] == ("alarm" if data["p_value"] <= BUDGET / 10 else "warning")
        shares = [feature["contribution"] for feature in data["features"]]
        assert shares == sorted(shares, reverse=True) and len(shares) == 3
    assert {"t/0/0/0", "t/0/2900/0"} <= {event["id"] for event in found}
    assert 30 <= len(found) < 30 + 3000 * BUDGET * 2.5


def test_a_missing_reading_is_told(resident: LoadedModel) -> None:
    (event,) = events(resident, block(np.array([[np.nan, 900, -5, 100]], np.float32)), top=4)
    missing = next(f for f in event["data"]["features"] if f["name"] == "pressure")
    assert missing["missing"] and missing["actual"] is None and missing["contribution"] == 0


@pytest.mark.parametrize("time", [-1, 0, 10**18, -(10**18)])
def test_absurd_clocks_make_valid_events(resident: LoadedModel, time: int) -> None:
    (event,) = events(resident, block(np.array([[900, 0, -5, 100]], np.float32), time=time))
    jsonschema.Draft202012Validator(schema("anomaly"), format_checker=jsonschema.FormatChecker()).validate(event)


def test_without_a_key_there_is_no_subject(resident: LoadedModel) -> None:
    (event,) = events(resident, block(np.array([[900, 0, -5, 100]], np.float32), key=None))
    assert "subject" not in event and event["data"]["entity"] is None


def test_too_much_missing_is_not_scored(resident: LoadedModel) -> None:
    x = np.array([[900, np.nan, np.nan, np.nan], [900, np.nan, np.nan, 100], [900, 0, -5, 100]], np.float32)
    scores = resident.score(x)
    assert np.isnan(scores).tolist() == [True, False, False]
    assert [event["id"] for event in events(resident, block(x))] == ["t/0/1/0", "t/0/2/0"]


def test_dead_letters_keep_the_bytes_and_say_why() -> None:
    records = block_of([b"\xff{", b"[1]"], keys=[b"k", None])
    vectors = Decoder(InputSettings(), FEATURES).decode(records)
    first, second = EventEncoder(Settings()).dead_letters(vectors.rejects, vectors)
    assert (first.value, first.key) == (b"\xff{", b"k")
    assert second.key is None
    headers = dict(second.headers)
    assert headers["offnormal-reason"] == b"wrong-length"
    assert (headers["offnormal-topic"], headers["offnormal-offset"]) == (b"t", b"1")


def test_scores_of_several_rows_are_one_record(resident: LoadedModel, rng: np.random.Generator) -> None:
    x = normal_rows(3, rng)
    x[1] = np.nan
    records = block_of([x.tobytes(), x[:1].tobytes()], keys=[b"a", b"b"])
    vectors = Decoder(InputSettings(format="f32"), FEATURES).decode(records)
    scores = resident.score(vectors.x)
    outputs = published(EventEncoder(Settings(input=InputSettings(format="f32"))), "scores", vectors, resident)
    assert [output.key for output in outputs] == [b"a", b"b"]
    rows = np.frombuffer(outputs[0].value, "<f4").reshape(-1, 2)
    np.testing.assert_array_equal(rows[:, 0], scores[:3])
    assert np.isnan(rows[1]).all()
    (told, _) = published(EventEncoder(Settings()), "scores", vectors, resident)
    assert json.loads(told.value)["rows"][1] == [None, None]
    assert dict(told.headers)["offnormal-model"] == f"default/{resident.version}".encode()


def test_large_blocks_are_scored_in_pieces(artefact: Artefact, rng: np.random.Generator) -> None:
    from worker.settings import BatchSettings

    small = ResidentModels(Settings(device="cpu", batch=BatchSettings(max_rows=16))).load(artefact.dump())
    large = ResidentModels(Settings(device="cpu")).load(artefact.dump())
    x = normal_rows(100, rng)
    np.testing.assert_allclose(small.score(x), large.score(x), rtol=1e-5)


def test_a_block_without_any_row_has_no_scores(resident: LoadedModel) -> None:
    vectors = Decoder(InputSettings(), FEATURES).decode(block_of([b"no json", None]))
    assert len(published(EventEncoder(Settings()), "scores", vectors, resident)) == 0


def test_published_p_values_are_never_zero(resident: LoadedModel) -> None:
    vectors = block(np.array([[1e30, 0, -5, 100]], np.float32))
    (output,) = published(EventEncoder(Settings(input=InputSettings(format="f32"))), "scores", vectors, resident)
    assert 0 < np.frombuffer(output.value, "<f4")[1] < 1e-6


@pytest.mark.parametrize("output", ["latents", "reconstructions"])
def test_latents_and_cleaned_vectors_are_what_the_model_says(
    resident: LoadedModel, rng: np.random.Generator, output: PerVectorOutput
) -> None:
    x = normal_rows(3, rng)
    x[0, 1], x[1] = np.nan, np.nan
    vectors = Decoder(InputSettings(format="f32"), FEATURES).decode(block_of([x.tobytes()], keys=[b"a"]))
    (made,) = published(EventEncoder(Settings(input=InputSettings(format="f32"))), output, vectors, resident)
    rows = np.frombuffer(made.value, "<f4").reshape(3, -1)
    expected = resident.encode(x) if output == "latents" else resident.reconstruct(x)
    np.testing.assert_array_equal(rows[[0, 2]], expected[[0, 2]])
    assert np.isfinite(rows[0]).all(), "what was missing is filled in"
    assert np.isnan(rows[1]).all(), "a row without a score has no code either"
    assert (made.topic, made.key) == (f"offnormal.{output}", b"a")
    (told,) = published(EventEncoder(Settings()), output, vectors, resident)
    np.testing.assert_allclose(json.loads(told.value)["rows"][2], rows[2], rtol=1e-6)


def test_an_event_lists_what_was_imputed(resident: LoadedModel, rng: np.random.Generator) -> None:
    x = normal_rows(2, rng)
    x[:, 3] += 90
    x[0, 1] = np.nan
    first, second = events(resident, block(x))
    assert first["data"]["imputed"] == [FEATURES[1]]
    assert second["data"]["imputed"] == []
