"""p-values: uniform on fresh normal scores, inverse to thresholds, never zero; and which rows calibrate."""

import numpy as np
import pytest

from training.fitting.calibration_rows import WITHIN, calibrate, explained
from worker.models import Calibration

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


def test_more_rows_promise_smaller_rates_and_slow_machines_larger_ones(rng: np.random.Generator) -> None:
    rates = [calibrate(rng.exponential(size=n)).promisable for n in (20, 200, 2000, 20_000, 200_000)]
    assert rates == sorted(rates, reverse=True)
    assert 0.05 < rates[0] <= 0.3 and rates[2] < 5e-3 and rates[3] < 1e-3
    slow = [calibrate(moving(rng, 20_000, over)).promisable for over in (1, 20, 200)]
    assert slow[0] < slow[1] < slow[2]


@pytest.mark.parametrize(("n", "over"), [(300, 1), (3000, 1), (3000, 30)])
def test_what_is_promised_is_kept_within_a_factor_of_two(n: int, over: int) -> None:
    """The truth is known: thresholds are set by n scores, and looked up in a million others."""
    kept = []
    fresh = np.sort(moving(np.random.default_rng(99), 1_000_000, over))
    for seed in range(60):
        fitted = calibrate(moving(np.random.default_rng(seed), n, over))
        for asked in (1e-2, 1e-3, 1e-4):
            promised = fitted.promised(asked)
            observed = 1 - np.searchsorted(fresh, fitted.threshold(promised)) / len(fresh)
            kept.append(promised / WITHIN <= observed <= promised * WITHIN)
    assert np.mean(kept) >= 0.85, f"{np.mean(kept):.2f}"


def test_the_rate_asked_for_is_taken_where_it_can_be_promised(rng: np.random.Generator) -> None:
    fitted = calibrate(rng.exponential(size=2000))
    assert fitted.promised(0.05) == 0.05
    assert fitted.promised(1e-9) == fitted.promisable


def test_calibration_is_the_same_each_time(rng: np.random.Generator) -> None:
    scores = rng.exponential(size=700)
    assert calibrate(scores).promisable == calibrate(scores).promisable


@pytest.mark.parametrize("scores", [[1.0, 2.0], [3.0] * 100, [0.0] * 50 + [1.0] * 50])
def test_odd_samples_promise_something(scores: list[float]) -> None:
    assert 0 < calibrate(np.array(scores)).promisable < 1
