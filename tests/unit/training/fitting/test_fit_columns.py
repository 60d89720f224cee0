"""Fitting, further: what a column may be like, what scores and contributions keep to, and what a champion changes."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.models import FEATURES, normal_rows
from training.fitting.champion_scores import ChampionScores
from training.fitting.fit import Fitted, Round, fit
from worker.detection.roc import roc_auc
from worker.errors import NoModelError
from worker.models import Detector

Rows = npt.NDArray[np.float32]


def quick(rows: Rows, steps: int = 8, seed: int = 0) -> Fitted:
    cut = len(rows) * 4 // 5
    names = FEATURES if rows.shape[1] == 4 else tuple(f"x{i}" for i in range(rows.shape[1]))
    return fit(rows[:cut], rows[cut:], names, "stacked", seed=seed, steps=steps)


def opinions(champion: Detector, *rows: Rows) -> tuple[ChampionScores, ChampionScores]:
    first, second = (ChampionScores.of(champion, x) for x in rows)
    return first, second


def scores(fitted: Fitted, x: Rows) -> npt.NDArray[np.float64]:
    return fitted.detector.score(torch.from_numpy(x)).numpy().astype(np.float64)


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return quick(normal_rows(1500, np.random.default_rng(0)), steps=300)


@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_the_same_seed_gives_the_same_weights_and_calibration(missing: float) -> None:
    rng = np.random.default_rng(1)
    rows = normal_rows(800, rng)
    rows[rng.random(rows.shape) < missing] = np.nan
    first, second = quick(rows, seed=3).detector, quick(rows, seed=3).detector
    for name, tensor in first.module.state_dict().items():
        assert torch.equal(tensor, second.module.state_dict()[name]), name
    assert first.calibration.threshold(1e-4) == second.calibration.threshold(1e-4)


def test_a_clustered_fault_in_the_training_rows_is_still_found() -> None:
    rng = np.random.default_rng(4)
    x = normal_rows(4000, rng)
    faulty = rng.random(4000) < 0.07
    x[faulty] = rng.normal([14, -3, -9, 90], 0.2, (faulty.sum(), 4))
    assert roc_auc(faulty, scores(quick(x, steps=600), x)) > 0.95


COLUMNS = {
    "constant": lambda x, rng: np.full(len(x), 3.0),
    "constant and large": lambda x, rng: np.full(len(x), 1e9),
    "zero": lambda x, rng: np.zeros(len(x)),
    "duplicate": lambda x, rng: x[:, 0],
    "large": lambda x, rng: x[:, 1] * 1e12,
    "small": lambda x, rng: x[:, 1] * 1e-12,
    "half missing": lambda x, rng: np.where(rng.random(len(x)) < 0.5, np.nan, x[:, 1]),
    "nearly all missing": lambda x, rng: np.where(rng.random(len(x)) < 0.95, np.nan, x[:, 1]),
    "nearly always zero": lambda x, rng: np.where(rng.random(len(x)) < 0.98, 0, x[:, 1]),
    "binary": lambda x, rng: (x[:, 0] > 10).astype(float),
    "heavy-tailed": lambda x, rng: rng.standard_cauchy(len(x)),
    "rising": lambda x, rng: np.arange(len(x)) * 1e3,
}


@pytest.mark.parametrize("name", COLUMNS)
def test_beside_an_odd_column_a_fault_elsewhere_is_found(name: str) -> None:
    rng = np.random.default_rng(6)
    x = normal_rows(1200, rng)
    odd = np.column_stack([x, COLUMNS[name](x, rng)]).astype(np.float32)
    broken = odd[-200:].copy()
    broken[:, 2] += 25
    both = scores(quick(odd, steps=150), np.concatenate([odd[-200:], broken]))
    assert np.isfinite(both).all()
    assert roc_auc(np.arange(400) >= 200, both) > 0.95


def test_every_empty_column_is_named() -> None:
    x = normal_rows(100, np.random.default_rng(0))
    x[:, [0, 2]] = np.nan
    with pytest.raises(NoModelError, match="pressure, speed.*OFFNORMAL_INPUT__FEATURES"):
        quick(x)


def test_a_constant_column_that_moves_is_noticed() -> None:
    x = np.column_stack([normal_rows(1000, np.random.default_rng(2)), np.full(1000, 5.0)]).astype(np.float32)
    moved = x[-200:].copy()
    moved[:, 4] = 9
    detector = quick(x).detector
    assert (detector.p_value(torch.from_numpy(moved)) < 1e-3).all()


@pytest.mark.parametrize("size", [1, 3, 64, 299])
def test_a_score_is_the_same_in_a_batch_of_any_size(fitted: Fitted, size: int) -> None:
    rng = np.random.default_rng(8)
    x = normal_rows(300, rng)
    x[::5] *= 20
    x[::7, 1] = np.nan
    parts = [scores(fitted, x[i : i + size]) for i in range(0, 300, size)]
    np.testing.assert_allclose(np.concatenate(parts), scores(fitted, x), rtol=1e-5)


def test_scoring_does_not_write_to_its_input(fitted: Fitted) -> None:
    x = normal_rows(20, np.random.default_rng(0)) * 50
    x[3, 1] = np.nan
    before = x.copy()
    fitted.detector.score(torch.from_numpy(x))
    np.testing.assert_array_equal(x, before)


def test_contributions_are_shares_in_ordinary_and_in_wild_rows(fitted: Fitted) -> None:
    rng = np.random.default_rng(9)
    x = normal_rows(200, rng) * rng.choice([1, 10, 1e6, 1e30], size=(200, 1)).astype(np.float32)
    x[rng.random(x.shape) < 0.2] = np.nan
    x[:, 0] = 10
    _, shares, _ = fitted.detector.module.explain(torch.from_numpy(x))
    assert (shares >= 0).all()
    torch.testing.assert_close(shares.sum(1), torch.ones(200))
    assert (shares.numpy()[np.isnan(x)] == 0).all(), "a missing reading has no contribution"


def test_the_expected_reading_of_a_missing_one_is_near_what_it_was(fitted: Fitted) -> None:
    x = normal_rows(300, np.random.default_rng(10))
    expected, _, _ = fitted.detector.module.explain(torch.from_numpy(x))
    assert np.abs(expected.numpy() - x).mean(0).max() < 0.7 * x.std(0).max()


@pytest.mark.parametrize("reading", [3e38, -3e38, 3.4028235e38, 1e-45])
@pytest.mark.parametrize("column", range(4))
def test_a_reading_at_the_ends_of_float32_has_a_finite_score(fitted: Fitted, reading: float, column: int) -> None:
    x = normal_rows(3, np.random.default_rng(0))
    x[1, column] = reading
    x[2, (column + 1) % 4] = np.nan
    assert np.isfinite(scores(fitted, x)).all()


def test_farther_readings_never_score_less() -> None:
    x = normal_rows(1000, np.random.default_rng(3))
    far = np.repeat(x[:1], 12, axis=0)
    far[:, 1] += np.geomspace(10, 1e30, 12, dtype=np.float32)
    assert (np.diff(scores(quick(x, steps=300), far)) > 0).all()


def test_a_row_without_any_reading_has_no_score(fitted: Fitted) -> None:
    x = normal_rows(3, np.random.default_rng(0))
    x[1] = np.nan
    assert np.isnan(scores(fitted, x)).tolist() == [False, True, False]


def test_a_champion_keeps_a_fault_out_of_the_calibration(fitted: Fitted) -> None:
    rng = np.random.default_rng(12)
    rows, held = normal_rows(1500, rng), normal_rows(1000, rng)
    held[::12] += np.array([0, 8, 0, -9], np.float32)
    told = fit(rows, held, FEATURES, "stacked", opinions=opinions(fitted.detector, rows, held), steps=150)
    untold = fit(rows, held, FEATURES, "stacked", steps=150)
    assert untold.calibrated == 1000
    assert 900 <= told.calibrated <= 930
    assert told.detector.calibration.threshold(1e-2) < untold.detector.calibration.threshold(1e-2) / 2


def test_a_champion_keeps_a_cluster_of_faults_from_being_learned(fitted: Fitted) -> None:
    rng, fault = np.random.default_rng(13), np.array([0, 3, 3, 0], np.float32)
    rows, held = normal_rows(1200, rng), normal_rows(300, rng)
    rows[::12] += fault
    held[::12] += fault
    second = fit(rows, held, FEATURES, "denoising", opinions=opinions(fitted.detector, rows, held), steps=600).detector
    fresh = normal_rows(1000, rng)
    usual = np.quantile(second.score(torch.from_numpy(fresh)), 0.99)
    assert (second.score(torch.from_numpy(fresh + fault)).numpy() > usual).mean() > 0.95


def test_a_champion_that_does_not_know_the_plant_any_more_leaves_nothing_out(fitted: Fitted) -> None:
    rows = normal_rows(1500, np.random.default_rng(14)) + np.float32(50)
    told = opinions(fitted.detector, rows[:1200], rows[1200:])
    second = fit(rows[:1200], rows[1200:], FEATURES, "denoising", opinions=told, steps=300).detector
    assert np.median(second.score(torch.from_numpy(rows))) < 5


def test_progress_is_told_after_each_round_with_an_end_in_sight() -> None:
    told: list[Round] = []
    parts: list[tuple[int, int]] = []
    rows = normal_rows(500, np.random.default_rng(0))
    fit(
        rows[:400],
        rows[400:],
        FEATURES,
        "stacked",
        steps=60,
        progress=told.append,
        calibrating=lambda *part: parts.append(part),
    )
    assert parts == [(k, 6) for k in range(7)]
    assert [r.number for r in told] == list(range(1, told[-1].of + 1))
    assert told[-1].eta == 0
