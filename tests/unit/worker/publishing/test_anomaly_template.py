"""Judge and events, further: where a warning becomes an alarm, and what is published, to the byte."""

import json
from collections.abc import Sequence
from typing import Any

import jsonschema
import numpy as np
import numpy.typing as npt
import pytest

from tests.models import FEATURES, normal_rows
from tests.record_blocks import block_of, published
from worker.blocks import VectorBlock
from worker.blocks.timestamps import iso
from worker.decoding import Decoder
from worker.detection import Judge
from worker.detection.judge import _leading
from worker.kafka import Output
from worker.models import Artefact
from worker.publishing.cloudevents import schema
from worker.publishing.encoder import EventEncoder
from worker.serving.loaded_model import LoadedModel
from worker.serving.model_swap import ResidentModels
from worker.settings import DetectionSettings, InputSettings, KafkaSettings, Settings, TopicSettings

BUDGET = 0.01
WHEN = 1_700_000_000_123
VALIDATOR = jsonschema.Draft202012Validator(schema("anomaly"), format_checker=jsonschema.FormatChecker())
Rows = npt.NDArray[np.float32]
FAR = np.array([[10, 900, -5, 100]], np.float32)


@pytest.fixture(scope="module")
def resident(artefact: Artefact) -> LoadedModel:
    settings = Settings(device="cpu", detection=DetectionSettings(false_alarm_rate=BUDGET))
    return ResidentModels(settings).load(artefact.dump())


def vectors(values: Sequence[bytes | None], time: int = WHEN, keys: Any = None, **settings: Any) -> VectorBlock:
    return Decoder(InputSettings(**settings), FEATURES).decode(block_of(values, keys, time=time))


def f32(x: Rows, time: int = WHEN, key: bytes | None = b"m") -> VectorBlock:
    return vectors([row.tobytes() for row in x], time, [key] * len(x), format="f32")


def outputs(resident: LoadedModel, block: VectorBlock, top: int = 4, **settings: Any) -> list[Output]:
    found = Judge(top).anomalies(block, resident.score(block.x), resident)
    return EventEncoder(Settings(**settings)).anomalies(found, block, resident)


def event(resident: LoadedModel, block: VectorBlock, **settings: Any) -> dict[str, Any]:
    (only,) = outputs(resident, block, **settings)
    told: dict[str, Any] = json.loads(only.value)
    VALIDATOR.validate(told)
    return told


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema("anomaly"))


def test_nothing_over_the_threshold_is_no_anomaly(resident: LoadedModel) -> None:
    block = f32(normal_rows(50, np.random.default_rng(0)))
    scores = np.nextafter(np.full(50, resident.threshold, np.float32), np.float32(0)) - np.float32(1e-3)
    assert len(Judge(3).anomalies(block, scores, resident)) == 0


def test_a_score_that_is_none_is_no_anomaly(resident: LoadedModel) -> None:
    assert len(Judge(3).anomalies(f32(FAR), np.array([np.nan], np.float32), resident)) == 0


def test_an_alarm_is_a_tenth_of_the_budget(resident: LoadedModel) -> None:
    x = np.repeat(FAR, 400, axis=0)
    edge = resident.calibration.threshold(BUDGET / 10)
    scores = np.linspace(resident.threshold * 1.0001, 2 * edge - resident.threshold, 400).astype(np.float32)
    found = Judge(1).anomalies(f32(x), scores, resident)
    assert found.alarm.tolist() == (found.p_value <= BUDGET / 10).tolist()
    assert set(found.severities()) == {"alarm", "warning"}
    clear = abs(found.score - edge) > 1e-5 * edge
    assert found.alarm[clear].tolist() == (found.score >= edge)[clear].tolist()


def test_an_anomaly_points_at_its_vector(resident: LoadedModel) -> None:
    x = normal_rows(40, np.random.default_rng(1))
    x[[3, 30]] = FAR
    found = Judge(2).anomalies(f32(x), resident.score(x), resident)
    assert {3, 30} <= set(found.index.tolist())
    at = found.index.tolist().index(30)
    assert found.score[at] == resident.score(x)[30]
    assert FEATURES[found.top[at, 0]] == "flow"
    assert found.actual[at, 0] == 900


@pytest.mark.parametrize("top", [1, 2, 4, 9])
def test_the_guiltiest_come_first_and_no_more_than_asked(resident: LoadedModel, top: int) -> None:
    (output,) = outputs(resident, f32(FAR), top=top)
    shares = [f["contribution"] for f in json.loads(output.value)["data"]["features"]]
    assert len(shares) == min(top, 4)
    assert shares == sorted(shares, reverse=True)


def test_all_contributions_of_an_event_make_one(resident: LoadedModel) -> None:
    told = event(resident, f32(FAR))
    assert sum(f["contribution"] for f in told["data"]["features"]) == pytest.approx(1, abs=1e-5)


def test_an_event_is_the_cloud_event_of_the_contract(resident: LoadedModel) -> None:
    settings: dict[str, Any] = {
        "kafka": KafkaSettings(group="plant-7"),
        "topics": TopicSettings(anomalies="out"),
    }
    (output,) = outputs(resident, f32(FAR, key=b"press-4"), **settings)
    told = json.loads(output.value)
    VALIDATOR.validate(told)
    assert (output.topic, output.key) == ("out", b"press-4")
    assert dict(output.headers)["content-type"].startswith(b"application/cloudevents+json")
    assert (told["type"], told["source"]) == ("offnormal.anomaly.v1", "urn:offnormal:plant-7")
    assert told["subject"] == told["data"]["entity"] == "press-4"
    assert told["time"] == told["data"]["time"] == "2023-11-14T22:13:20.123Z"
    assert told["data"]["model"] == {"name": resident.name, "version": resident.version}
    assert told["data"]["threshold"] == resident.threshold


def test_the_id_is_the_place_of_the_row(resident: LoadedModel) -> None:
    x = normal_rows(3, np.random.default_rng(2))
    x[1] = FAR
    block = vectors([None, b"{", x.tobytes()], format="f32")
    ids = {json.loads(o.value)["id"] for o in outputs(resident, block)}
    assert "t/0/2/1" in ids and ids <= {"t/0/2/0", "t/0/2/1", "t/0/2/2"}


def test_the_entity_of_the_payload_is_the_key_of_the_event(resident: LoadedModel) -> None:
    block = vectors(
        [b'{"flow": 900, "who": "\xc3\xbcber", "at": 1700000005}'], keys=[b"k"], entity_field="who", time_field="at"
    )
    scores = np.array([1e6], np.float32)
    found = Judge(4).anomalies(block, scores, resident)
    (output,) = EventEncoder(Settings()).anomalies(found, block, resident)
    told = json.loads(output.value)
    VALIDATOR.validate(told)
    assert (output.key, told["subject"], told["time"]) == ("über".encode(), "über", "2023-11-14T22:13:25.000Z")


@pytest.mark.parametrize(("key", "entity"), [(None, None), (b"", "")])
def test_without_an_entity_there_is_no_subject(resident: LoadedModel, key: bytes | None, entity: str | None) -> None:
    (output,) = outputs(resident, f32(FAR, key=key))
    told = json.loads(output.value)
    VALIDATOR.validate(told)
    assert "subject" not in told and told["data"]["entity"] == entity and output.key == key


def test_a_key_that_is_no_text_makes_a_valid_event(resident: LoadedModel) -> None:
    assert event(resident, f32(FAR, key=b"\xff\x00"))["subject"] == "\ufffd\0"


def test_a_missing_reading_is_null_and_expected_nevertheless(resident: LoadedModel) -> None:
    x = FAR.copy()
    x[0, 3] = np.nan
    heat = next(f for f in event(resident, f32(x))["data"]["features"] if f["name"] == "heat")
    assert (heat["actual"], heat["missing"], heat["contribution"]) == (None, True, 0)
    assert np.isfinite(heat["expected"])


@pytest.mark.parametrize("reading", [3e38, -3e38])
def test_the_farthest_readings_make_a_valid_event(resident: LoadedModel, reading: float) -> None:
    told = event(resident, f32(np.full((1, 4), reading, np.float32)))
    assert told["data"]["severity"] == "alarm" and told["data"]["p_value"] > 0


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (-1, "1970-01-01T00:00:00.000Z"),
        (-(2**63), "1970-01-01T00:00:00.000Z"),
        (1, "1970-01-01T00:00:00.001Z"),
        (WHEN, "2023-11-14T22:13:20.123Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (253_402_300_800_000, "9999-12-31T23:59:59.999Z"),
        (2**63 - 1, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_a_clock_is_held_within_the_years_of_the_format(resident: LoadedModel, time: int, text: str) -> None:
    assert event(resident, f32(FAR, time=time))["time"] == iso(time) == text


def test_a_dead_letter_keeps_bytes_and_key_and_says_where_from_and_why() -> None:
    block = vectors([b"[1, 2, 3, 4]", b"\xff\0{", b'{"heat": "hot"}'], keys=[b"a", b"\xfe", None])
    first, second = EventEncoder(Settings(topics=TopicSettings(dead_letters="dead"))).dead_letters(block.rejects, block)
    assert (first.topic, first.value, first.key) == ("dead", b"\xff\0{", b"\xfe")
    headers = dict(first.headers)
    assert headers.pop("offnormal-error")
    assert headers == {
        "offnormal-topic": b"t",
        "offnormal-partition": b"0",
        "offnormal-offset": b"1",
        "offnormal-timestamp": b"%d" % WHEN,
        "offnormal-reason": b"unparseable",
    }
    assert (second.value, second.key) == (b'{"heat": "hot"}', None)
    assert dict(second.headers)["offnormal-reason"] == b"wrong-type"


def test_an_empty_record_is_an_empty_dead_letter() -> None:
    block = vectors([b""])
    (letter,) = EventEncoder(Settings()).dead_letters(block.rejects, block)
    assert letter.value == b""


def test_the_error_of_a_dead_letter_is_short() -> None:
    block = vectors([json.dumps({"x" * 5000: 1}).encode()], strict=True)
    (letter,) = EventEncoder(Settings()).dead_letters(block.rejects, block)
    assert 0 < len(dict(letter.headers)["offnormal-error"]) <= 500


@pytest.fixture(scope="module")
def mixed() -> VectorBlock:
    x = normal_rows(4, np.random.default_rng(3))
    x[1, :3] = np.nan
    return vectors([x[:3].tobytes(), b"?", None, x[3:].tobytes()], keys=[b"a", b"b", b"c", None], format="f32")


def test_scores_in_f32_are_score_and_p_value_of_each_row(resident: LoadedModel, mixed: VectorBlock) -> None:
    scores = resident.score(mixed.x)
    made = published(EventEncoder(Settings(input=InputSettings(format="f32"))), "scores", mixed, resident)
    expected = np.column_stack([scores, resident.calibration.p_value(scores)]).astype("<f4")
    assert [output.value for output in made] == [expected[:3].tobytes(), expected[3:].tobytes()]
    assert np.isnan(np.frombuffer(made[0].value, "<f4").reshape(-1, 2)[1]).all()
    assert [output.key for output in made] == [b"a", None]
    assert dict(made[1].headers) == {
        "offnormal-source": b"t/0/3",
        "offnormal-model": f"default/{resident.version}".encode(),
        "content-type": b"f32",
    }


def test_scores_in_json_are_the_same_under_rows(resident: LoadedModel, mixed: VectorBlock) -> None:
    scores = resident.score(mixed.x)
    made = published(EventEncoder(Settings()), "scores", mixed, resident)
    rows = [json.loads(output.value)["rows"] for output in made]
    assert [len(r) for r in rows] == [3, 1]
    assert rows[0][1] == [None, None], "JSON has no NaN"
    np.testing.assert_allclose(rows[1], [[scores[3], resident.calibration.p_value(scores[3])]], rtol=1e-6)
    assert dict(made[0].headers)["content-type"] == b"application/json"


@pytest.mark.parametrize("t", [1, 3, 7])
def test_the_leading_features_are_those_of_a_stable_sort(t: int, rng: np.random.Generator) -> None:
    shares = rng.integers(0, 4, (500, 7)).astype(np.float32)  # many are equal
    top = np.empty((500, t), np.int64)
    _leading(shares, top)
    np.testing.assert_array_equal(top, np.argsort(-shares, axis=1, kind="stable")[:, :t])
