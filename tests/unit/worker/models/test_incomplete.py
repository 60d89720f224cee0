"""Rows with missing readings: filled in by the model, and scored as rare as they are."""

import numpy as np
import pytest
import torch

from tests.models import make_artefact, normal_rows
from training.data.series import windows
from training.fitting.fit import fit, split
from worker.models import Artefact
from worker.models.incomplete import IncompleteScores, filled, taken_away
from worker.settings import ModelSettings, Settings


def correlated(n: int, seed: int = 0) -> np.ndarray:
    """Twelve readings of three causes."""
    rng = np.random.default_rng(seed)
    causes = rng.normal(size=(n, 3))
    return (causes @ np.random.default_rng(9).normal(size=(3, 12)) + 0.1 * rng.normal(size=(n, 12))).astype(np.float32)


def test_normal_rows_keep_the_rate_whatever_is_missing() -> None:
    """At random, and of single columns for good; fresh rows, of which no model has seen any."""
    features = tuple(f"f{j}" for j in range(12))
    detector = fit(*split(correlated(6000), 0.2), features, "denoising", seed=0, steps=1500).detector
    fresh, rng = correlated(20_000, seed=1), np.random.default_rng(2)
    threshold = detector.calibration.threshold(0.01)

    def rate(x: np.ndarray) -> float:
        return float((detector.score(torch.from_numpy(x)).numpy() >= threshold).mean())

    found = {f"{share:.0%}": rate(taken_away(fresh, share, rng)) for share in (0.1, 0.3, 0.5)}
    for columns in ([0], [7], [3, 11], [1, 4, 6, 9]):
        dead = fresh.copy()
        dead[:, columns] = np.nan
        found[str(columns)] = rate(dead)
    assert all(0.002 < value < 0.03 for value in found.values()), found


def test_faults_are_found_beside_missing_readings() -> None:
    features = tuple(f"f{j}" for j in range(12))
    detector = fit(*split(correlated(6000), 0.2), features, "denoising", seed=0, steps=1500).detector
    faulty, rng = correlated(2000, seed=1), np.random.default_rng(2)
    faulty[:, 5] += 6 * faulty[:, 5].std()
    seen = taken_away(faulty, 0.3, rng)
    seen = seen[~np.isnan(seen[:, 5])]
    scores = detector.score(torch.from_numpy(seen)).numpy()
    assert (scores >= detector.calibration.threshold(0.01)).mean() > 0.9


def test_the_quantiles_of_a_share_lead_to_those_of_complete_rows() -> None:
    rng = np.random.default_rng(0)
    complete, half = rng.exponential(size=4000), 3 + 5 * rng.exponential(size=4000)
    scale = IncompleteScores.fit([0.0, 0.5], [complete, half])
    fresh = torch.from_numpy(3 + 5 * rng.exponential(size=100_000)).float()
    found = scale(fresh, torch.full_like(fresh, 0.5)).numpy()
    for share in (0.5, 0.1, 0.01):
        assert np.quantile(found, 1 - share) == pytest.approx(-np.log(share), rel=0.15)
    between = scale(torch.tensor([3.0]), torch.tensor([0.25])).item()
    assert scale(torch.tensor([3.0]), torch.tensor([0.5])).item() < between < 3.0
    assert scale(torch.tensor([3.0]), torch.tensor([0.9])) == scale(torch.tensor([3.0]), torch.tensor([0.5]))


def test_it_is_monotone_and_leaves_complete_rows_and_nan_alone() -> None:
    rng = np.random.default_rng(0)
    scale = IncompleteScores.fit([0.0, 0.1, 0.5], [rng.exponential(size=500) * k for k in (1, 2, 9)])
    scores = torch.linspace(0, 100, 5000)
    for missing in (0.0, 0.05, 0.3, 0.5, 1.0):
        found = scale(scores, torch.full_like(scores, missing))
        assert (found.diff() >= 0).all() and found[0] == 0 and found.isfinite().all()
    assert torch.equal(scale(scores, torch.zeros_like(scores)), scores)
    assert scale(torch.tensor([torch.nan]), torch.tensor([0.3])).isnan().all()
    assert torch.equal(IncompleteScores.none()(scores, torch.ones_like(scores)), scores)


def test_few_or_equal_scores_are_no_fault() -> None:
    equal = [np.zeros(3), np.zeros(3)], [np.ones(1), np.ones(2)], [np.ones(5), np.empty(0)], [np.full(9, 7e4)] * 2
    for levels in equal:
        scale = IncompleteScores.fit([0.0, 0.5], levels)
        assert (scale.quantiles.diff(dim=1) > 0).all()
        assert scale(torch.tensor([2.0, 7e4, 7.1e4]), torch.tensor([0.5, 0.5, 0.5])).isfinite().all()


@pytest.mark.parametrize("width", [1, 2, 11])
@pytest.mark.parametrize("n", [50, 60, 101])
def test_a_model_of_few_rows_can_be_loaded(n: int, width: int) -> None:
    """Of ten held-out rows, as many readings may be taken away at one share as at another, or none."""
    x, features = correlated(n)[:, :width].copy(), tuple(f"f{j}" for j in range(width))
    fitted = fit(*split(x, 0.2), features, "stacked", seed=0, steps=60)
    shares = fitted.detector.module.incomplete.shares
    assert (shares.diff() > 0).all()
    card = make_artefact(seed=0).card.model_copy(
        update={"features": features, "architecture": fitted.detector.module.autoencoder.architecture()}
    )
    assert Artefact.load(Artefact.make(card, fitted.detector, x).dump())


@pytest.mark.parametrize("every", [2, 3])
def test_windows_of_a_sensor_with_many_gaps_have_a_model(every: int) -> None:
    """No difference of its newest readings is ever known; its level is."""
    settings = Settings(model=ModelSettings(window=16))
    raw = correlated(2000)
    raw[np.arange(2000) % every == 0, 4] = np.nan
    x = windows(raw, settings, padded=False)
    assert np.isnan(x).all(0).sum() > 0
    features = tuple(f"f{j}" for j in range(12))
    detector = fit(*split(x, 0.2), features, "stacked", window=16, seed=0, steps=150).detector
    fresh = correlated(2000, seed=1)
    fresh[np.arange(2000) % every == 0, 4] = np.nan
    scores = detector.score(torch.from_numpy(windows(fresh, settings, padded=False))).numpy()
    assert np.isfinite(scores).all()
    assert (scores >= detector.calibration.threshold(0.01)).mean() < 0.05


def test_only_what_is_missing_is_filled_in() -> None:
    module = make_artefact(seed=0).detector.module
    x = normal_rows(50, np.random.default_rng(0))
    x[::2, 1] = np.nan
    z, present = module.scaler(torch.from_numpy(x))
    rows = filled(module.autoencoder, z, present)
    assert torch.equal(rows * present, z * present) and (rows[::2, 1] != 0).all() and (z[::2, 1] == 0).all()
    assert torch.equal(filled(module.autoencoder, z[1::2], present[1::2]), z[1::2])


def test_it_travels_with_the_model() -> None:
    artefact = make_artefact(seed=0)
    loaded = Artefact.load(artefact.dump()).detector
    x = torch.from_numpy(taken_away(normal_rows(200, np.random.default_rng(0)), 0.3, np.random.default_rng(1)))
    assert torch.equal(loaded.score(x).nan_to_num(), artefact.detector.score(x).nan_to_num())
    assert len(loaded.module.incomplete.shares) > 1
