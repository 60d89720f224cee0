"""p-values: uniform on fresh normal scores, inverse to thresholds, never zero; and which rows calibrate."""

from dataclasses import replace

import numpy as np
import pytest

from training.fitting.calibration_rows import calibrate, explained, extremal_index
from worker.models import Calibration
from worker.models.calibration import WITHIN

DRAWS = {
    "normal": lambda rng, n: np.abs(rng.normal(size=n)),
    "exponential": lambda rng, n: rng.exponential(size=n),
    "lognormal": lambda rng, n: rng.lognormal(size=n),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize(("budget", "factor"), [(0.1, 1.3), (0.01, 1.5), (0.001, 2.5)])
def test_the_false_alarm_rate_is_kept_on_fresh_draws(name: str, budget: float, factor: float) -> None:
    rates = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        fitted = Calibration.fit(DRAWS[name](rng, 5000))
        rates.append((DRAWS[name](rng, 200_000) >= fitted.threshold(budget)).mean())
    assert budget / factor < np.mean(rates) < budget * factor


def test_threshold_and_p_value_are_inverse_and_monotone(rng: np.random.Generator) -> None:
    fitted = Calibration.fit(rng.exponential(size=3000))
    for p in (0.5, 0.1, 0.05, 1e-3, 1e-6, 1e-12):
        assert fitted.p_value(fitted.threshold(p)) == pytest.approx(p, rel=0.02)
    p_values = fitted.p_value(np.linspace(-1, 1000, 5000))
    assert (np.diff(p_values) <= 0).all()
    assert p_values[-1] > 0 and p_values[0] == 1


def test_far_scores_and_missing_ones(rng: np.random.Generator) -> None:
    fitted = Calibration.fit(rng.normal(size=1000) ** 2)
    assert fitted.p_value(1e30) > 0
    assert np.isnan(fitted.p_value(np.nan))


@pytest.mark.parametrize("scores", [[1.0, 2.0], [3.0] * 100, [0.0] * 50 + [1.0] * 50])
def test_odd_samples(scores: list[float]) -> None:
    fitted = Calibration.fit(scores)
    assert np.isfinite(fitted.threshold(1e-4))
    assert 0 < fitted.p_value(max(scores) * 2 + 1) < 0.5


def test_uniform_p_values_are_explained(rng: np.random.Generator) -> None:
    p = rng.uniform(size=20_000)
    assert explained(p, -p).mean() > 0.999


def test_the_excess_of_a_planted_fault_is_not(rng: np.random.Generator) -> None:
    p = np.concatenate([rng.uniform(size=9300), 10 ** rng.uniform(-8, -3, size=700)])
    kept = explained(p, -np.log(p))
    assert kept[9300:].sum() < 60
    assert kept[:9300].mean() > 0.995


def test_rows_without_a_p_value_stay() -> None:
    assert explained(np.full(10, np.nan), np.zeros(10)).all()


def test_retraining_on_stationary_data_does_not_move_the_threshold() -> None:
    rng = np.random.default_rng(3)
    champion = Calibration.fit(rng.exponential(size=4000))
    for _ in range(6):
        scores = rng.exponential(size=4000)
        champion = Calibration.fit(scores[explained(champion.p_value(scores), scores)])
    assert (rng.exponential(size=400_000) >= champion.threshold(1e-3)).mean() == pytest.approx(1e-3, rel=0.7)


@pytest.mark.parametrize("resting", [0.8, 0.91, 0.97])
def test_the_rate_is_kept_where_most_scores_are_equal(resting: float) -> None:
    rng = np.random.default_rng(4)

    def draw(n: int) -> np.ndarray:
        return np.where(rng.random(n) < resting, 0.0, rng.exponential(size=n))

    threshold = Calibration.fit(draw(20_000)).threshold(1e-3)
    assert (draw(400_000) >= threshold).mean() == pytest.approx(1e-3, rel=0.6)


def moving(rng: np.random.Generator, n: int, over: int) -> np.ndarray:
    """Scores of a slow machine: each shares `over` - 1 of its causes with its neighbour."""
    causes = rng.normal(size=n + over)
    return np.abs(np.convolve(causes, np.ones(over) / over**0.5, "valid")[:n])


def test_more_rows_make_the_threshold_less_cautious_and_slow_machines_make_it_more_so() -> None:
    rng = np.random.default_rng(0)
    truth = -np.log(1e-3)
    excess = [calibrate(rng.exponential(size=n)).promise(1e-3).threshold / truth for n in (200, 2000, 20_000, 200_000)]
    assert excess[0] > excess[1] > excess[2] > 0.95 and excess[3] == pytest.approx(1, abs=0.1)
    slow = [calibrate(moving(rng, 20_000, over)).promise(1e-4) for over in (1, 20, 200)]
    assert slow[0].expected > slow[1].expected > slow[2].expected
    assert slow[0].lacking < slow[1].lacking < slow[2].lacking


@pytest.mark.parametrize(
    ("n", "over", "surely"),
    [(50, 1, 0.95), (300, 1, 0.95), (3000, 1, 0.95), (3000, 30, 0.9), (20_000, 300, 0.8), (3000, 300, 0.7)],
)
def test_no_more_alarms_than_were_asked_for(n: int, over: int, surely: float) -> None:
    """The truth is known: thresholds are set by n scores, and looked up in a million others.

    With ten independent rows (3000 of which 300 are alike) it is kept less often than it is said to be.
    """
    kept = []
    fresh = np.sort(moving(np.random.default_rng(99), 1_000_000, over))
    for seed in range(40):
        fitted = calibrate(moving(np.random.default_rng(seed), n, over))
        for asked in (1e-2, 1e-3, 1e-4):
            promise = fitted.promise(asked)
            observed = 1 - np.searchsorted(fresh, promise.threshold) / len(fresh)
            kept.append(observed <= WITHIN * asked)
            assert promise.expected <= asked and promise.at_most >= promise.expected
    assert np.mean(kept) >= surely, f"{np.mean(kept):.2f}"


def test_the_share_of_independent_exceedances() -> None:
    """Of exceedances in clusters of m, one in m is independent of the one before."""
    rng = np.random.default_rng(0)
    for m in (1, 5, 50):
        exceeds = np.zeros(400_000, bool)
        for start in rng.integers(400_000 - m, size=400):
            exceeds[start : start + m] = True
        assert extremal_index(exceeds) == pytest.approx(1 / m, rel=0.25)
    for few in (np.zeros(9, bool), np.ones(9, bool), np.arange(9) < 2):
        assert 0 < extremal_index(few) <= 1


def test_enough_rows_leave_the_threshold_where_it_was_asked_for(rng: np.random.Generator) -> None:
    fitted = calibrate(rng.exponential(size=5000))
    promise = fitted.promise(0.05)
    assert promise.threshold == fitted.threshold(0.05) and promise.expected == pytest.approx(0.05)
    assert 0.05 <= promise.at_most < 0.1 and promise.lacking == 1 and not promise.is_cautious
    unknown = replace(fitted, upper=None).promise(0.05)
    assert unknown.threshold == promise.threshold and np.isnan(unknown.at_most)


@pytest.mark.parametrize("asked", [0.5, 0.3, 1e-6, 1e-9, 1e-12])
def test_rates_beyond_the_table_have_thresholds_too(rng: np.random.Generator, asked: float) -> None:
    promise = calibrate(rng.exponential(size=500)).promise(asked)
    assert 0 < promise.expected <= asked and promise.at_most > 0 and np.isfinite(promise.threshold)


@pytest.mark.parametrize("asked", [0.2, 0.5, 0.9])
def test_a_rate_that_few_rows_can_show_is_taken_as_it_is(asked: float) -> None:
    fitted = calibrate(np.random.default_rng(0).exponential(size=30))
    promise = fitted.promise(asked)
    assert promise.threshold == fitted.threshold(asked) and promise.lacking == 1 and not promise.is_cautious


def test_calibration_is_the_same_each_time(rng: np.random.Generator) -> None:
    scores = rng.exponential(size=700)
    assert calibrate(scores).promise(1e-5) == calibrate(scores).promise(1e-5)


@pytest.mark.parametrize("scores", [[1.0, 2.0], [3.0] * 100, [0.0] * 50 + [1.0] * 50])
def test_odd_samples_have_a_threshold(scores: list[float]) -> None:
    promise = calibrate(np.array(scores)).promise(1e-3)
    assert np.isfinite(promise.threshold) and 0 < promise.expected <= 1e-3
