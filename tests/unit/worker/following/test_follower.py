"""What a follower learns from residuals, and how quickly."""

import math

import numpy as np
import pytest
import torch

from worker.following import follower as f
from worker.following.follower import Basis, Follower
from worker.models.usual import Usual
from worker.models.whitening import Whitening
from worker.native.arrays import Float32s

D = 4


def basis(deviation: float = 1.0) -> Basis:
    whitening = Whitening(torch.zeros(D), torch.eye(D) / deviation)
    sizes = np.full(D, 1.645, np.float32)  # of a normal distribution
    usual = Usual(sizes, np.zeros(D, np.float32), np.ones(D, np.float32))
    return Basis(whitening, np.full(D, deviation, np.float32), usual)


def noise(n: int, seed: int = 0) -> Float32s:
    return np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)


def taken(
    follower: Follower,
    residual: Float32s,
    z: Float32s | None = None,
    seconds: float = math.inf,
    stands_for: float = 1.0,
) -> Follower:
    follower.take(np.zeros_like(residual) if z is None else z, residual, seconds, stands_for)
    return follower


def test_a_shift_is_half_followed_after_h_rows() -> None:
    residual = noise(f.ROWS) + np.array([2, 0, -1, 0], np.float32)
    trim = taken(Follower(basis()), residual).trim
    np.testing.assert_allclose(trim.shift, [1, 0, -0.5, 0], atol=0.06)
    assert not trim.ignored.any()


def test_one_wild_row_moves_it_by_three_deviations_of_a_row() -> None:
    trim = taken(Follower(basis(0.5)), np.full((1, D), 1e6, np.float32)).trim
    np.testing.assert_allclose(trim.shift, 1.5 * math.log(2) / f.ROWS, rtol=1e-5)


def test_normal_operation_changes_next_to_nothing() -> None:
    follower = taken(Follower(basis()), noise(10 * f.ROWS))
    assert np.abs(follower.trim.shift).max() < 0.06
    assert follower.trim.looseness.max() < 0.1


def test_a_restless_column_counts_half_at_least_and_full_once_it_is_quiet() -> None:
    residual = noise(2 * f.ROWS)
    residual[:, 2] *= 10
    follower = taken(Follower(basis()), residual)
    assert follower.trim.looseness[2] == pytest.approx(f.LOOSEST)
    assert follower.trim.looseness[[0, 1, 3]].max() < 0.1
    taken(follower, noise(f.ROWS, seed=1))
    assert follower.trim.looseness[2] < f.LOOSEST - 0.05
    taken(follower, noise(15 * f.ROWS, seed=2))
    assert follower.trim.looseness.max() < 0.1


def test_what_was_learned_of_the_others_meanwhile_is_forgotten_when_a_sensor_is_ignored() -> None:
    follower, z = Follower(basis()), np.zeros((50, D), np.float32)
    for k in range(40):
        taken(follower, noise(50, seed=k) + 1, z)
    before = follower.trim.shift
    z[:, 3] = 100
    while not follower.ignored.any():
        taken(follower, noise(50) + 5, z)
    np.testing.assert_allclose(follower.trim.shift, before, atol=0.1)
    assert follower.trim.looseness.max() < 0.3


def test_vectors_that_come_fast_do_not_make_it_faster() -> None:
    """A thousand rows a second: half of an hour's way is what three thousand rows would be in an hour."""
    residual = noise(f.ROWS) + 2
    slow = taken(Follower(basis()), residual, seconds=f.SECONDS / f.ROWS)
    fast = taken(Follower(basis()), residual, seconds=0.001)
    np.testing.assert_allclose(slow.trim.shift, 1, atol=0.06)
    np.testing.assert_allclose(fast.trim.shift, 2 * math.log(2) * f.ROWS * 0.001 / f.SECONDS, rtol=0.1)
    assert (taken(Follower(basis()), residual, seconds=0.0).trim.shift == 0).all()


def test_rows_of_a_sample_count_for_those_they_stand_for() -> None:
    trim = taken(Follower(basis()), noise(f.ROWS // 10) + 2, stands_for=10).trim
    np.testing.assert_allclose(trim.shift, 1, atol=0.2)
    few = taken(Follower(basis()), noise(f.FEWEST) + 2, stands_for=1e6).trim
    np.testing.assert_allclose(few.shift, 1, atol=0.3)


def test_a_missing_reading_teaches_nothing() -> None:
    residual = noise(2000) + 1
    residual[:, 1] = np.nan
    trim = taken(Follower(basis()), residual, np.where(np.isnan(residual), np.nan, np.float32(0))).trim
    assert trim.shift[1] == 0 and trim.looseness[1] == 0
    assert trim.shift[0] > 0.2


def test_a_sensor_that_leaves_its_range_for_good_is_ignored_until_it_is_back() -> None:
    follower, z = Follower(basis()), np.zeros((50, D), np.float32)
    away = z.copy()
    away[:, 3] = 100
    rows = 0
    while not follower.ignored.any():
        taken(follower, noise(50), away)
        rows += 50
    assert 2900 <= rows <= 3100 and follower.trim.ignored.tolist() == [False, False, False, True]
    again = Follower(basis(), follower.trim)
    assert taken(again, noise(50), away).ignored[3]
    for _ in range(62):
        taken(again, noise(50), z)
    assert not again.ignored.any()


def test_an_outlier_now_and_then_and_a_short_fault_do_not_count_as_gone() -> None:
    follower, z = Follower(basis()), np.zeros((1000, D), np.float32)
    z[::2, 1] = 1e6
    z[100:900, 2] = 1e6
    assert not taken(follower, noise(1000), z).ignored.any()


def test_it_takes_five_minutes_at_least() -> None:
    away = np.full((31_000, D), 100, np.float32) * (np.arange(D) == 0)
    assert not taken(Follower(basis()), noise(29_000), away[:29_000], seconds=0.01).ignored.any()
    assert taken(Follower(basis()), noise(31_000), away, seconds=0.01).ignored[0]


def test_of_few_sensors_none_is_ignored_and_so_not_the_only_one() -> None:
    whitening = Whitening(torch.zeros(1), torch.eye(1))
    one = np.ones(1, np.float32)
    follower = Follower(Basis(whitening, one, Usual(one, one * 0, one)))
    follower.take(np.full((5000, 1), 100, np.float32), noise(5000)[:, :1])
    assert not follower.ignored.any()


def test_if_most_sensors_leave_the_plant_runs_differently_and_none_is_ignored() -> None:
    away = np.full((5000, D), 100, np.float32)
    away[:, 0] = 0
    assert not taken(Follower(basis()), noise(5000), away).ignored.any()
