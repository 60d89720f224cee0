"""Where the line is between a burst of anomalies and a new way of running."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from training.data.regime import begins

N = 10_000
ALL = np.ones(N, bool)


def rows(rng: np.random.Generator, level: npt.NDArray[Any] | float = 0.0) -> npt.NDArray[np.float32]:
    return (rng.normal(size=(N, 5)) + np.broadcast_to(level, (N,))[:, None]).astype(np.float32)


def p_values(rng: np.random.Generator, unusual: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    return np.where(unusual, 1e-7, rng.random(N))


def test_a_change_that_lasts_is_found_where_it_is(rng: np.random.Generator) -> None:
    new = np.arange(N) >= 5300
    assert abs((begins(rows(rng, 5.0 * new), p_values(rng, new), ALL, 0.4) or 0) - 5300) < 100


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3])
def test_anomalies_spread_over_the_window_are_none(rng: np.random.Generator, share: float) -> None:
    bad = rng.random(N) < share
    assert begins(rows(rng, 5.0 * bad), p_values(rng, bad), ALL, 0.4) is None


@pytest.mark.parametrize("begin", [1000, 4000, 7000])
def test_a_stretch_of_thirty_percent_is_none_wherever_it_lies(rng: np.random.Generator, begin: int) -> None:
    bad = (np.arange(N) >= begin) & (np.arange(N) < begin + 3000)
    assert begins(rows(rng, 5.0 * bad), p_values(rng, bad), ALL, 0.4) is None


def test_what_the_plant_has_come_back_from_is_none(rng: np.random.Generator) -> None:
    bad = (np.arange(N) >= 2000) & (np.arange(N) < 9500)
    assert begins(rows(rng, 5.0 * bad), p_values(rng, bad), ALL, 0.4) is None


def test_a_fault_that_goes_on_growing_is_none(rng: np.random.Generator) -> None:
    new = np.arange(N) >= 4000
    level = np.where(new, (np.arange(N) - 4000) / 300, 0)
    assert begins(rows(rng, level), p_values(rng, new), ALL, 0.4) is None


def test_a_regime_with_anomalies_of_its_own_is_one(rng: np.random.Generator) -> None:
    new = np.arange(N) >= 5000
    level = np.where(new, 5.0, 0.0) + np.where(rng.random(N) < 0.1, 8.0, 0.0)
    assert begins(rows(rng, level), p_values(rng, new), ALL, 0.4) is not None


def test_confirmed_anomalies_and_faulty_sensors_do_not_count(rng: np.random.Generator) -> None:
    new = np.arange(N) >= 5000
    assert begins(rows(rng, 5.0 * new), p_values(rng, new), ~new, 0.4) is None


def test_a_slight_shift_of_all_rows_counts_though_few_are_over_budget(rng: np.random.Generator) -> None:
    new = np.arange(N) >= 5000
    p = np.where(new, 0.04 * rng.random(N), rng.random(N))
    assert begins(rows(rng, 1.0 * new), p, ALL, 0.4) is not None
