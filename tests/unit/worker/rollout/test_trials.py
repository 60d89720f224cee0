"""Two models on the same vectors: when a challenger has proved itself, and a champion is to be taken back."""

from dataclasses import replace

import numpy as np
import pytest

from tests.models import make_artefact, normal_rows
from worker.blocks import TopicSet
from worker.models import Artefact
from worker.rollout.rate_test import FEWEST, RateTest
from worker.rollout.trial import Kind, Trial
from worker.serving.loaded_model import LoadedModel
from worker.serving.model_swap import ResidentModels
from worker.serving.sample import Sample
from worker.settings import DetectionSettings, Settings

SETTINGS = Settings(detection=DetectionSettings(false_alarm_rate=0.01))


def test_a_rate_is_decided_on_with_few_errors() -> None:
    rng = np.random.default_rng(0)
    found = []
    for rate in (1e-3, 1e-2):
        wrong = 0
        for _ in range(500):
            test = RateTest(1e-3, 1e-2, 0.01)
            while (outcome := test.look(int(rng.binomial(500, rate)), 500)) is None:
                pass
            wrong += outcome != ("good" if rate == 1e-3 else "bad")
        found.append(wrong / 500)
    assert max(found) <= 0.02


def test_one_burst_decides_nothing() -> None:
    test = RateTest(1e-3, 1e-2, 0.01)
    assert [test.look(500, 500) for _ in range(FEWEST)] == [None] * (FEWEST - 1) + ["bad"]
    test = RateTest(1e-3, 1e-2, 0.01)
    assert test.look(500, 500) is None
    assert [test.look(0, 500) for _ in range(30)].index("good") >= FEWEST


def residents(loud: float = 1.0) -> tuple[LoadedModel, LoadedModel]:
    """Two sound models; with `loud` the newer one's threshold is this part of what it should be."""
    models = ResidentModels(SETTINGS)
    older, newer = models.load(make_artefact(seed=1).dump()), models.load(make_artefact(seed=2).dump())
    return replace(newer, promise=newer.promise._replace(threshold=newer.threshold * loud)), older


def sample(resident: LoadedModel, x: np.ndarray) -> Sample:
    n = len(x)
    entity = np.ones(n, np.uint64)
    place = np.column_stack((np.zeros(n, np.int64), np.arange(n), np.zeros(n, np.int64)))
    scores = resident.score(x)
    return Sample(
        resident, x, scores, np.arange(n), np.ones(n), entity, {1: (0, "m")}, TopicSet.of("t"), place, x, None
    )


def outcome(trial: Trial, looks: int, offset: float = 0.0) -> tuple[str | None, int]:
    rng = np.random.default_rng(3)
    in_service = trial.older if trial.kind == "shadow" else trial.newer
    for look in range(1, looks + 1):
        found, *_ = trial.take(sample(in_service, normal_rows(500, rng) + np.float32(offset)))
        if found is not None:
            return found, look
    return None, looks


def test_a_sound_challenger_is_promoted() -> None:
    newer, older = residents()
    found, looks = outcome(Trial("shadow", newer, older), 100)
    assert found == "good" and looks >= FEWEST


def test_a_loud_challenger_is_dropped() -> None:
    newer, older = residents(loud=0.3)
    assert outcome(Trial("shadow", newer, older), 20)[0] == "bad"


def test_a_loud_champion_in_probation_is_found_and_a_sound_one_is_not() -> None:
    newer, older = residents(loud=0.3)
    assert outcome(Trial("probation", newer, older), 20) == ("bad", FEWEST)
    newer, older = residents()
    assert outcome(Trial("probation", newer, older), 200)[0] is None


def test_a_champion_is_not_taken_back_for_one_that_is_louder_still() -> None:
    newer, older = residents(loud=0.3)
    louder = replace(older, promise=older.promise._replace(threshold=older.threshold * 0.1))
    assert outcome(Trial("probation", newer, louder), 40)[0] is None


@pytest.mark.parametrize("kind", ["shadow", "probation"])
def test_real_anomalies_are_held_against_nobody(kind: Kind) -> None:
    newer, older = residents()
    trial = Trial(kind, newer, older)
    outcome(trial, 20, offset=6.0)
    figures = trial.figures()
    assert figures["rate"] > 0.9 and figures["agreement"] > 0.9
    assert outcome(trial, 3, offset=6.0)[0] != "bad"


def test_a_trial_says_what_it_saw() -> None:
    newer, older = residents(loud=0.5)
    trial = Trial("probation", newer, older)
    x = normal_rows(500, np.random.default_rng(4))
    _, others, named = trial.take(replace(sample(newer, x), stands_for=np.full(500, 10.0)))
    np.testing.assert_array_equal(others, older.score(x))
    np.testing.assert_array_equal(named, others >= older.threshold)
    figures = trial.figures()
    assert figures["rows"] == 5000
    assert figures["rate"] == pytest.approx((newer.score(x) >= newer.threshold).mean())
    assert figures["rate_of_older"] == pytest.approx((older.score(x) >= older.threshold).mean())


def test_a_challenger_of_a_fleet_scores_by_its_own_scalers(artefact: Artefact) -> None:
    fleet = ResidentModels(SETTINGS).load(make_artefact(seed=3, entities=("m", "n")).dump())
    older = ResidentModels(SETTINGS).load(artefact.dump())
    x = normal_rows(50, np.random.default_rng(5))
    _, others, _ = Trial("shadow", fleet, older).take(sample(older, x))
    np.testing.assert_allclose(others, fleet.score(x, fleet.entity_rows(["m"] * 50, None)))
