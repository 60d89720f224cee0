"""The calibration, further: p-values bin by bin, order, few or equal scores; and what `explained` drops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings as budget, strategies as st

from training.fitting.calibration_rows import SUSPECT_BELOW, explained
from worker.models import Calibration

DRAWS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "exponential": lambda rng, n: rng.exponential(size=n),
    "lognormal": lambda rng, n: rng.lognormal(size=n),
    "uniform": lambda rng, n: rng.uniform(size=n),
    "far": lambda rng, n: 1e6 + rng.gamma(4.0, size=n),
}


@pytest.mark.parametrize("name", DRAWS)
def test_p_values_of_fresh_draws_are_uniform(name: str) -> None:
    rng = np.random.default_rng(11)
    fitted = Calibration.fit(DRAWS[name](rng, 10_000))
    p = fitted.p_value(DRAWS[name](rng, 100_000))
    counts, _ = np.histogram(p, bins=10, range=(0, 1))
    # both samples vary: about 100 000 (.1 +- .003 +- .001) to a bin
    assert np.abs(counts / len(p) - 0.1).max() < 0.02


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("n", [2, 3, 11, 50, 1000, 50_000])
def test_threshold_and_p_value_are_inverse(name: str, n: int) -> None:
    fitted = Calibration.fit(DRAWS[name](np.random.default_rng(n), n))
    for p in (0.9 if n > 50 else 1 / n, 0.1 / n, 1e-4, 1e-9):
        assert fitted.p_value(fitted.threshold(p)) == pytest.approx(p, rel=0.02)


@pytest.mark.parametrize("name", DRAWS)
def test_a_smaller_budget_never_has_a_smaller_threshold(name: str) -> None:
    fitted = Calibration.fit(DRAWS[name](np.random.default_rng(5), 3000))
    thresholds = [fitted.threshold(p) for p in np.geomspace(0.999, 1e-30, 400)]
    assert (np.diff(thresholds) >= 0).all()


scores = st.lists(st.floats(0, 1e6, width=32), min_size=2, max_size=60)


@budget(max_examples=40, deadline=None)
@given(scores, st.lists(st.floats(-1e9, 1e30), min_size=2, max_size=20))
def test_any_scores_give_p_values_in_order_within_0_and_1(sample: list[float], asked: list[float]) -> None:
    fitted = Calibration.fit(sample)
    p = fitted.p_value(np.sort(asked))
    assert (np.diff(p) <= 0).all()
    assert (p > 0).all() and (p <= 1).all()


@pytest.mark.parametrize("score", [-np.inf, -1e300, 1e300, np.inf])
@pytest.mark.parametrize("name", DRAWS)
def test_the_farthest_scores_have_a_p_value(score: float, name: str) -> None:
    p = float(Calibration.fit(DRAWS[name](np.random.default_rng(0), 500)).p_value(score))
    assert p == 1 if score < 0 else 0 < p < 1e-6


def test_not_a_number_stays_none_among_others(rng: np.random.Generator) -> None:
    p = Calibration.fit(rng.exponential(size=500)).p_value([0.5, np.nan, 50.0])
    assert np.isnan(p).tolist() == [False, True, False]


def test_two_scores_calibrate() -> None:
    fitted = Calibration.fit([1.0, 2.0])
    assert fitted.p_value(1.0) == 1
    assert 2.0 < fitted.threshold(1e-4) < 1e6


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-12, 1e12])
def test_equal_scores_calibrate_and_what_lies_beyond_is_rare(value: float) -> None:
    fitted = Calibration.fit([value] * 500)
    assert fitted.p_value(value) == 1
    assert fitted.threshold(1e-4) > value
    assert fitted.p_value(value + max(value, 1.0)) < 1e-6


def test_coarse_scores_keep_the_budget() -> None:
    """Scores in steps, as quantised sensors give them: many ties, in the body and in the tail."""
    rng = np.random.default_rng(2)
    fitted = Calibration.fit(np.round(rng.exponential(size=20_000), 1))
    rate = (np.round(rng.exponential(size=400_000), 1) >= fitted.threshold(1e-3)).mean()
    assert 1e-3 / 2.5 < rate < 1e-3 * 2.5


def test_one_wild_score_among_many_does_not_lift_the_threshold_over_itself(rng: np.random.Generator) -> None:
    clean = rng.exponential(size=5000)
    assert Calibration.fit([*clean, 1e9]).threshold(1e-3) < 3 * Calibration.fit(clean).threshold(1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_uniform_p_values_lose_nearly_no_row(seed: int) -> None:
    p = np.random.default_rng(seed).uniform(size=30_000)
    assert (~explained(p, -np.log(p))).mean() < 5e-3


def test_rows_that_are_no_suspects_are_never_dropped(rng: np.random.Generator) -> None:
    p = np.concatenate([np.full(5000, 1e-9), rng.uniform(SUSPECT_BELOW + 1e-9, 1, 100)])
    assert explained(p, rng.normal(size=len(p)))[5000:].all()


def test_the_excess_goes_by_the_new_models_score() -> None:
    p, scores_ = np.full(1000, 1e-12), np.arange(1000.0)
    kept = explained(p, scores_)
    assert 0 < kept.sum() < 5
    assert kept[: kept.sum()].all(), "the rows that the new model finds nearest stay"


def test_a_bin_keeps_what_chance_allows() -> None:
    p = np.concatenate([np.full(600, 0.07), np.full(9400, 0.5)])
    expected = 0.05 * 10_000
    assert explained(p, np.arange(10_000.0))[:600].sum() == math.ceil(expected + 2 * math.sqrt(expected))


def test_rows_without_p_value_stay_beside_planted_ones(rng: np.random.Generator) -> None:
    p = np.concatenate([rng.uniform(size=2000), np.full(300, 1e-10), np.full(50, np.nan)])
    kept = explained(p, np.concatenate([np.zeros(2000), np.ones(300), np.full(50, 2.0)]))
    assert kept[2300:].all() and kept[2000:2300].sum() < 5


@pytest.mark.parametrize("seed", range(3))
def test_five_retrainings_on_stationary_data_do_not_shrink_the_threshold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = champion = Calibration.fit(rng.gamma(3.0, size=8000))
    for _ in range(5):
        fresh = rng.gamma(3.0, size=8000)
        champion = Calibration.fit(fresh[explained(champion.p_value(fresh), fresh)])
    assert champion.threshold(1e-3) > 0.9 * first.threshold(1e-3)


def test_rows_that_chance_hardly_has_are_few_in_all_not_few_in_each_bin() -> None:
    rng = np.random.default_rng(3)
    p = np.concatenate((rng.random(2000), 10.0 ** -np.arange(4, 16, 0.5)))  # one in each of the smallest bins
    kept = explained(p, -np.log(p))
    assert kept[2000:].sum() <= 3
    assert kept[:2000].mean() > 0.99
