"""Drift is noticed, sensors at fault are told apart from it, and what is normal is neither."""

from dataclasses import replace

import jsonschema
import numpy as np
import numpy.typing as npt
import orjson
import pytest

from tests.models import FEATURES, normal_rows
from training.fitting.champion_scores import ChampionScores
from training.fitting.drift_reference import reference
from worker.blocks import TopicSet
from worker.drift import Drift, SensorFault
from worker.drift.model_watch import ModelWatch
from worker.models import Artefact, Detector, Reference
from worker.publishing.cloudevents import schema
from worker.publishing.encoder import EventEncoder
from worker.serving.loaded_model import LoadedModel
from worker.serving.model_swap import ResidentModels
from worker.serving.sample import Sample
from worker.settings import DetectionSettings, Settings

Rows = npt.NDArray[np.float32]

ROWS = 500  # of a summary
SETTINGS = Settings(detection=DetectionSettings(false_alarm_rate=0.01))


@pytest.fixture(scope="module")
def resident(artefact: Artefact) -> LoadedModel:
    """That of the test's model, with a reference."""
    rows = normal_rows(30_000, np.random.default_rng(5))
    found = reference_of(artefact.detector, rows)
    assert found.rows == ROWS
    return ResidentModels(SETTINGS).load(replace(artefact, reference=found).dump())


def reference_of(detector: Detector, rows: Rows, entity: npt.NDArray[np.int64] | None = None) -> Reference:
    p_values = [ChampionScores.of(detector, part).p_value for part in np.array_split(rows, 10)]
    codes = np.zeros(len(rows), np.int64) if entity is None else entity
    names = [f"m{code}" for code in range(int(codes.max()) + 1)]
    return reference(rows, codes, names, p_values, 1.0, 0.0)


class Watched:
    """Sends rows to a watch, minute by minute."""

    def __init__(self, resident: LoadedModel):
        assert resident.reference is not None
        self._resident = resident
        self.watch = ModelWatch("default", resident.version, tuple(resident.features), resident.reference, 10)
        self.time = 0
        self.found: list[Drift | SensorFault] = []

    def send(self, rows: Rows, entity: str | None = "m0") -> None:
        for part in np.array_split(rows, max(len(rows) // 100, 1)):
            n = len(part)
            sample = Sample(
                self._resident,
                part,
                self._resident.score(part),
                np.arange(self.time, self.time + n),
                np.ones(n),
                np.full(n, hash(entity) % 2**63, np.uint64),
                {hash(entity) % 2**63: (0, entity)},
                TopicSet.of("sensors"),
                np.zeros((n, 3), np.int64),
                part,
                None,
            )
            self.time += n
            self.found += self.watch.take(sample)

    @property
    def drifts(self) -> list[Drift]:
        return [each for each in self.found if isinstance(each, Drift)]

    @property
    def faults(self) -> list[SensorFault]:
        return [each for each in self.found if isinstance(each, SensorFault)]


def test_normal_operation_is_no_drift(resident: LoadedModel) -> None:
    watched = Watched(resident)
    watched.send(normal_rows(60_000, np.random.default_rng(6)))
    assert watched.found == []


def test_a_shift_is_noticed_within_some_summaries_with_its_feature_and_time(resident: LoadedModel) -> None:
    rng = np.random.default_rng(7)
    watched = Watched(resident)
    watched.send(normal_rows(10_000, rng))
    shifted = normal_rows(20 * ROWS, rng)
    deviation = float(normal_rows(10_000, rng)[:, 1].std())
    shifted[:, 1] += deviation
    watched.send(shifted)
    drift = watched.drifts[0]
    assert drift.noticed <= 10_000 + 16 * ROWS
    assert abs(drift.since - 10_000) <= ROWS
    (shift,) = drift.features
    assert shift.name == FEATURES[1]
    assert shift.shift == pytest.approx(1, abs=0.2)
    assert watched.faults == []


def test_a_broken_correlation_is_noticed_by_the_p_values(resident: LoadedModel) -> None:
    rng = np.random.default_rng(8)
    watched = Watched(resident)
    watched.send(normal_rows(10_000, rng))
    broken = normal_rows(40 * ROWS, rng)
    broken[:, 3] = rng.permutation(broken[:, 3])
    watched.send(broken)
    assert {"adwin", "kswin", "page_hinkley"} & {name for drift in watched.drifts for name in drift.detectors}
    assert all(not drift.features for drift in watched.drifts), "no feature's mean has changed"


def test_a_burst_of_anomalies_is_no_drift(resident: LoadedModel) -> None:
    rng = np.random.default_rng(9)
    watched = Watched(resident)
    for _ in range(4):
        watched.send(normal_rows(20 * ROWS, rng))
        watched.send(normal_rows(5 * ROWS, rng) + np.float32(5))
    watched.send(normal_rows(20 * ROWS, rng))
    assert watched.found == []


@pytest.mark.parametrize(
    ("fault", "to"),
    [
        ("frozen", lambda x: np.full_like(x, 9.5)),
        ("silent", lambda x: np.full_like(x, np.nan)),
        ("unit", lambda x: 1000 * x),
        ("unit", lambda x: 1.8 * x + 32),
        ("unit", lambda x: x + 273.15),
    ],
)
def test_a_sensor_at_fault_is_told_and_is_no_drift(resident: LoadedModel, fault: str, to) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(10)
    watched = Watched(resident)
    watched.send(normal_rows(20 * ROWS, rng))
    bad = normal_rows(40 * ROWS, rng)
    bad[:, 0] = to(bad[:, 0])
    watched.send(bad)
    watched.send(normal_rows(20 * ROWS, rng))
    assert watched.drifts == []
    assert {(each.fault, each.feature, each.entity) for each in watched.faults} == {(fault, FEATURES[0], "m0")}
    first, last = watched.faults[0], watched.faults[-1]
    assert first.until is None and 19 * ROWS <= first.since <= 20 * ROWS
    assert first.latest <= 24 * ROWS, "it is told soon"
    assert last.until is not None and 60 * ROWS <= last.until <= 64 * ROWS
    assert len(watched.faults) in (2 + 3, 2 + 4), "and again while it lasts"
    assert watched.watch.faults == []


@pytest.mark.parametrize(
    ("fault", "to"), [("frozen", lambda x: np.full_like(x, 9.5)), ("silent", lambda x: np.full_like(x, np.nan))]
)
def test_a_fault_that_a_worker_finds_when_it_starts_began_then(resident: LoadedModel, fault: str, to) -> None:  # type: ignore[no-untyped-def]
    watched = Watched(resident)
    watched.time = begin = 1_790_000_000_000
    bad = normal_rows(40 * ROWS, np.random.default_rng(10))
    bad[:, 0] = to(bad[:, 0])
    watched.send(bad)
    assert {(each.fault, each.feature, each.since) for each in watched.faults} == {(fault, FEATURES[0], begin)}


def test_a_reading_that_often_stands_still_is_not_frozen(artefact: Artefact) -> None:
    rng = np.random.default_rng(11)

    def rows(n: int) -> Rows:
        x = normal_rows(n, rng)
        x[:, 2] = np.repeat(rng.normal(size=-(-n // 1500)), 1500)[:n]  # changes every third summary
        return x

    models = ResidentModels(SETTINGS)
    watched = Watched(models.load(replace(artefact, reference=reference_of(artefact.detector, rows(30_000))).dump()))
    watched.send(rows(30_000))
    assert watched.faults == []


def test_all_sensors_in_another_range_are_a_drift_and_no_sensors_fault(resident: LoadedModel) -> None:
    rng = np.random.default_rng(12)
    watched = Watched(resident)
    watched.send(normal_rows(10 * ROWS, rng))
    watched.send(10 * normal_rows(30 * ROWS, rng))
    assert watched.faults == []
    assert watched.drifts


def test_one_machine_of_a_fleet_drifts(artefact: Artefact) -> None:
    rng = np.random.default_rng(13)
    rows, entity = normal_rows(30_000, rng), np.arange(30_000) % 3
    found = reference_of(artefact.detector, rows, entity)
    assert found.entities == ("m0", "m1", "m2")
    watched = Watched(ResidentModels(SETTINGS).load(replace(artefact, reference=found).dump()))
    for minute in range(40):
        for machine in ("m0", "m1", "m2"):
            x = normal_rows(ROWS, rng)
            if machine == "m1" and minute >= 10:
                x[:, 1] += 2 * rows[:, 1].std()
            watched.send(x, machine)
    assert "m1" in {drift.entity for drift in watched.drifts}
    assert not {"m0", "m2"} & {drift.entity for drift in watched.drifts}


def test_a_model_without_reference_is_served(artefact: Artefact) -> None:
    assert ResidentModels(SETTINGS).load(replace(artefact, reference=None).dump()).reference is None


def test_events_are_as_their_schema_says_and_ask_for_a_training(resident: LoadedModel) -> None:
    rng = np.random.default_rng(14)
    watched = Watched(resident)
    bad = normal_rows(30 * ROWS, rng)
    bad[:, 0] = 3.0
    watched.send(normal_rows(10 * ROWS, rng))
    watched.send(normal_rows(30 * ROWS, rng) + np.float32(3))
    watched.send(normal_rows(10 * ROWS, rng), None)
    watched.send(bad, None)
    assert watched.drifts and watched.faults
    outputs = {each.topic: list(each) for each in EventEncoder(SETTINGS).findings(watched.found)}
    validator = jsonschema.Draft202012Validator(schema("drift"), format_checker=jsonschema.FormatChecker())
    ids = set()
    for record in outputs[SETTINGS.topics.drift]:
        event = orjson.loads(record.value or b"")
        validator.validate(event)
        ids.add(event["id"])
    assert len(ids) == len(watched.found)
    (request, *_) = outputs[SETTINGS.topics.training_requests]
    doc = orjson.loads(request.value or b"")
    assert doc["model"] == "default" and doc["reason"].startswith("drift: ") and doc["who"] == "urn:offnormal:offnormal"


def test_a_reading_that_stands_still_where_the_plant_has_moved_is_no_fault(resident: LoadedModel) -> None:
    rng = np.random.default_rng(15)
    watched = Watched(resident)
    watched.send(normal_rows(10 * ROWS, rng))
    other = normal_rows(30 * ROWS, rng) + 4 * normal_rows(5000, rng).std(0)
    other[:, 1] = 0.5
    watched.send(other)
    assert watched.faults == [] and watched.drifts


def test_a_model_that_knows_a_reading_to_stand_still_ends_its_fault(resident: LoadedModel) -> None:
    rng = np.random.default_rng(16)
    watched = Watched(resident)
    watched.send(normal_rows(10 * ROWS, rng))
    frozen = normal_rows(10 * ROWS, rng)
    frozen[:, 1] = 0.5
    watched.send(frozen)
    assert len(watched.watch.faults) == 1 and resident.reference is not None
    for still, left in ((0.0, 1), (50.0, 0)):
        learned = replace(resident.reference, still=np.full(4, still))
        successor = ModelWatch("default", "later", tuple(resident.features), learned, 10)
        over = successor.take_over(watched.watch)
        assert len(successor.faults) == left
        assert [fault.until is not None for fault in over if isinstance(fault, SensorFault)] == [True] * (1 - left)


@pytest.mark.parametrize("gone", [slice(5, 6), slice(0, 30_000)])
def test_held_out_rows_without_a_score_leave_a_reference_that_can_be_served(artefact: Artefact, gone: slice) -> None:
    rows = normal_rows(30_000, np.random.default_rng(17))
    p_values = [np.random.default_rng(18).random(3000) for _ in range(10)]
    flat = np.concatenate(p_values)
    flat[gone] = np.nan
    found = reference(rows, np.zeros(len(rows), np.int64), [""], np.array_split(flat, 10), 1.0, 0.0)
    assert np.isfinite(found.p_values).all()
    watched = Watched(ResidentModels(SETTINGS).load(replace(artefact, reference=found).dump()))
    watched.send(normal_rows(10 * ROWS, np.random.default_rng(19)))
    assert watched.found == []
