"""A series that is followed: a sensor that leaves its range for good must not hide faults of the others."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from training.evaluation.series_scores import followed
from training.fitting.fit import fit, split
from worker.models import Artefact, ModelCard
from worker.models.entities import ANY_ENTITY
from worker.native.arrays import Float32s, Int64s
from worker.serving.loaded_model import LoadedModel
from worker.serving.model_swap import ResidentModels
from worker.settings import DetectionSettings, Settings

SENSORS, GONE = 12, 3
RATE = 1e-2


def plant(n: int, seed: int) -> Float32s:
    """Twelve sensors that follow four slow causes, with noise."""
    rng = np.random.default_rng(seed)
    causes, steps = np.zeros((n, 4)), rng.normal(size=(n, 4))
    for i in range(1, n):
        causes[i] = 0.95 * causes[i - 1] + 0.31 * steps[i]
    mix = np.random.default_rng(99).normal(size=(4, SENSORS))
    x = np.tanh(causes @ mix * 0.7) * 2 + causes @ mix * 0.5 + 0.2 * rng.normal(size=(n, SENSORS))
    return x.astype(np.float32)


def with_faults(x: Float32s, sensors: Sequence[int]) -> tuple[Float32s, Int64s]:
    """Every hundred rows, one of the sensors is off by 1.5 to 4 standard deviations for 5 to 20 rows."""
    rng, x, y, deviation = np.random.default_rng(5), x.copy(), np.zeros(len(x), np.int64), x.std(0)
    for begin in range(200, len(x) - 50, 100):
        sensor, rows = rng.choice(sensors), slice(begin, begin + rng.integers(5, 20))
        x[rows, sensor] += deviation[sensor] * rng.choice([-1, 1]) * rng.uniform(1.5, 4)
        y[rows] = 1
    return x, y


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    rows, held_out = split(plant(8000, seed=1), 0.2)
    features = tuple(f"f{i}" for i in range(SENSORS))
    detector = fit(rows, held_out, features, "denoising", seed=0, steps=1500).detector
    card = ModelCard(
        name="default",
        version="v",
        kind="denoising",
        architecture=detector.module.autoencoder.architecture(),
        features=features,
        created=datetime.now(UTC).isoformat(),
        rows={},
        trained_on={},
        quality={},
        seed=0,
    )
    settings = Settings(detection=DetectionSettings(false_alarm_rate=RATE))
    return ResidentModels(settings).load(Artefact.make(card, detector, held_out).dump())


def test_a_sensor_that_jumps_and_stays_does_not_hide_the_others(model: LoadedModel) -> None:
    x, y = with_faults(plant(12_000, seed=2), [j for j in range(SENSORS) if j != GONE])
    jumped = x.copy()
    jumped[4000:, GONE] += 200 * x[:, GONE].std()
    score, explained = followed(model, jumped, ANY_ENTITY)
    before, after = slice(0, 4000), slice(7200, None)
    assert (score[4000:4500] >= model.threshold).mean() > 0.9
    assert roc_auc_score(y[after], score[after]) > roc_auc_score(y[before], score[before]) - 0.005
    assert (score[after][y[after] == 0] >= model.threshold).mean() < 2 * RATE
    assert (explained.contributions[after][:, GONE] == 0).all()
    plain = model.score(jumped)
    assert (plain[after] >= model.threshold).all()


def test_a_plant_that_stays_as_it_was_is_scored_as_without(model: LoadedModel) -> None:
    x, y = with_faults(plant(6000, seed=3), range(SENSORS))
    score, _ = followed(model, x, ANY_ENTITY)
    assert abs(roc_auc_score(y, score) - roc_auc_score(y, model.score(x))) < 0.005


def test_a_slow_drift_does_not_become_alarms(model: LoadedModel) -> None:
    x = plant(30_000, seed=4)
    x[:, 5] += np.linspace(0, 3, len(x), dtype=np.float32) * x[:, 5].std()
    score, _ = followed(model, x, ANY_ENTITY)
    plain = model.score(x)
    late = slice(20_000, None)
    named, without = ((s[late] >= model.threshold).mean() for s in (score, plain))
    assert named < 0.3 * without
