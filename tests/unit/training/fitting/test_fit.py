"""Fitting: reproducible, robust against contamination and odd columns, and scores that do not depend on neighbours."""

import numpy as np
import pytest
import torch

from tests.models import FEATURES, normal_rows
from training.fitting.fit import Fitted, fit
from worker.detection.roc import roc_auc
from worker.errors import NoModelError


def quick(rows: np.ndarray, seed: int = 0, steps: int = 10, names: tuple[str, ...] = FEATURES) -> Fitted:
    cut = len(rows) * 4 // 5
    return fit(rows[:cut], rows[cut:], names, "stacked", seed=seed, steps=steps)


def scores(fitted: Fitted, x: np.ndarray) -> np.ndarray:
    return fitted.detector.score(torch.from_numpy(x.astype(np.float32))).numpy()


def test_the_same_seed_gives_the_same_model(rng: np.random.Generator) -> None:
    rows = normal_rows(1000, rng)
    first, second, other = quick(rows, 1), quick(rows, 1), quick(rows, 2)
    np.testing.assert_array_equal(scores(first, rows), scores(second, rows))
    assert (scores(first, rows) != scores(other, rows)).any()


def test_a_frequent_fault_is_not_learned(rng: np.random.Generator) -> None:
    x = normal_rows(4000, rng)
    faulty = rng.random(4000) < 0.07
    x[faulty] += np.array([0, 6, 0, -9], np.float32)
    fitted = quick(x, steps=600)
    assert roc_auc(faulty, scores(fitted, x).astype(float)) > 0.95


def test_odd_columns_train_and_score(rng: np.random.Generator) -> None:
    x = normal_rows(600, rng)
    odd = np.column_stack([x, x[:, 0], np.full(600, 3.0), x[:, 1] * 1e12, x[:, 2] * 1e-12]).astype(np.float32)
    odd[rng.random(odd.shape) < 0.1] = np.nan
    fitted = quick(odd, names=tuple("abcdefgh"))
    found = scores(fitted, odd)
    assert np.isfinite(found).all()
    assert np.median(found) < 5


def test_extreme_readings_have_finite_scores(rng: np.random.Generator) -> None:
    fitted = quick(normal_rows(500, rng))
    extreme = np.array([[3e38, 0, 0, 0], [-3e38] * 4, [1e-38] * 4], np.float32)
    found = scores(fitted, extreme)
    assert np.isfinite(found).all()
    assert found[0] > fitted.detector.calibration.threshold(1e-4)
    expected, contributions, _ = fitted.detector.module.explain(torch.from_numpy(extreme))
    assert expected.isfinite().all() and contributions.isfinite().all()


def test_an_empty_column_is_refused_by_name(rng: np.random.Generator) -> None:
    x = normal_rows(100, rng)
    x[:, 2] = np.nan
    with pytest.raises(NoModelError, match="speed"):
        quick(x)


def test_a_score_does_not_depend_on_the_batch(rng: np.random.Generator) -> None:
    fitted = quick(normal_rows(1000, rng))
    x = normal_rows(300, rng)
    x[::7] *= 30
    x[::11, 1] = np.nan
    alone = np.concatenate([scores(fitted, x[i : i + 1]) for i in range(300)])
    np.testing.assert_allclose(scores(fitted, x), alone, rtol=1e-5)
    np.testing.assert_allclose(scores(fitted, x[::-1])[::-1], alone, rtol=1e-5)


def test_contributions_are_shares_and_point_at_the_fault(rng: np.random.Generator) -> None:
    fitted = quick(normal_rows(1500, rng), steps=400)
    x = normal_rows(50, rng)
    x[:, 3] += 40
    x[0, 0] = np.nan
    _, shares, _ = fitted.detector.module.explain(torch.from_numpy(x))
    assert (shares >= 0).all()
    torch.testing.assert_close(shares.sum(1), torch.ones(50))
    assert shares[0, 0] == 0, "a missing reading is not guilty"
    assert (shares.argmax(1) == 3).float().mean() > 0.9


@pytest.mark.parametrize("width", [1, 2, 9, 500])
def test_any_width_trains(width: int, rng: np.random.Generator) -> None:
    x = rng.normal(size=(60, width)).astype(np.float32)
    assert np.isfinite(scores(quick(x, steps=30, names=tuple(map(str, range(width)))), x)).all()


def test_the_largest_readings_score_over_the_smallest_scales(rng: np.random.Generator) -> None:
    fitted = quick(normal_rows(500, rng) * np.float32(0.01))
    found = scores(fitted, np.array([[3e38, 0, 0, 0], [-3e38, 3e38, 0, 0]], np.float32))
    assert (found > fitted.detector.calibration.threshold(1e-4)).all()


@pytest.mark.parametrize(("factor", "offset"), [(1e-9, 0.0), (5.0, 1e7), (1e-7, 0.0)])
def test_a_fault_is_seen_whatever_the_unit(factor: float, offset: float, rng: np.random.Generator) -> None:
    x = normal_rows(1500, rng).astype(float)
    x[:, 1] = x[:, 1] * factor + offset
    fitted = quick(x.astype(np.float32), steps=200)
    faulty = x[:200].copy()
    faulty[:, 1] += 20 * factor
    found = np.concatenate([scores(fitted, x[200:]), scores(fitted, faulty)])
    assert roc_auc(np.arange(len(found)) >= len(x) - 200, found.astype(float)) > 0.95


def test_a_sensor_that_was_silent_while_held_out_may_speak_again(rng: np.random.Generator) -> None:
    x = normal_rows(1000, rng)
    silent = x.copy()
    silent[800:, 2] = np.nan
    fitted = quick(silent, steps=200)
    assert (scores(fitted, x) >= fitted.detector.calibration.threshold(1e-3)).mean() < 0.05
