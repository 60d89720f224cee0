"""The fused and the staged scorer give the module's scores, for every kind that they fit, whatever the rows."""

import numpy as np
import pytest
import torch

from worker.models import Scaler
from worker.models.attribution import Attribution
from worker.models.detector import ScoringModule
from worker.models.incomplete import IncompleteScores
from worker.models.kinds import KINDS
from worker.models.whitening import Whitening
from worker.serving.cpu_scorer import ROWS, FusedScorer
from worker.serving.cuda_scorer import SIZES, StagedScorer

LEAST = 0.5
INCOMPLETE = IncompleteScores(torch.tensor([0.0, 0.5]), torch.tensor([[0.5, 1.0, 4.0], [0.4, 2.0, 16.0]]))


def module(kind: str, width: int, n: int = 300, seed: int = 0) -> ScoringModule:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n, width)) * 10 ** rng.uniform(-3, 3, width) + rng.normal(size=width) * 50).astype(np.float32)
    scaler, autoencoder = Scaler.fit(x), KINDS[kind](width)
    with torch.no_grad():
        z, _ = scaler(torch.from_numpy(x))
        residual, present = z - autoencoder(z), torch.ones_like(z)
        made = ScoringModule(
            scaler, autoencoder, Whitening.fit(residual, present), Attribution.fit(residual, z, present), INCOMPLETE
        )
    return made.eval()


def rows(of: ScoringModule, n: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    location, scale = of.scaler.location.numpy(), of.scaler.scale.numpy()
    return (location + scale * rng.normal(size=(n, len(scale)))).astype(np.float32)


def both(of: ScoringModule, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        return FusedScorer(of, LEAST).score(x), of(torch.from_numpy(x), LEAST).numpy()


@pytest.mark.parametrize("kind", ["stacked", "denoising", "variational"])
@pytest.mark.parametrize("width", [1, 3, 16, 17, 33])
def test_scores_are_those_of_the_module(kind: str, width: int) -> None:
    made = module(kind, width)
    found, expected = both(made, rows(made, 500))
    # Sums in another order: how far they are off depends on the processor.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("n", [0, 1, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 7])
def test_any_number_of_rows(n: int) -> None:
    made = module("stacked", 5)
    found, expected = both(made, rows(made, n))
    assert len(found) == n
    # Sums in another order: how far they are off depends on the processor.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("value", [np.nan, 1e6, -1e6, 3e38, -3e38])
@pytest.mark.parametrize("where", [0, ROWS - 1, ROWS, 2 * ROWS - 1])
def test_missing_and_far_readings_are_scored_by_the_module(value: float, where: int) -> None:
    made = module("stacked", 4)
    x = rows(made, 2 * ROWS)
    x[where, 2] = value
    x[(where + 1) % len(x)] = np.nan
    found, expected = both(made, x)
    assert np.isnan(found).tolist() == np.isnan(expected).tolist()
    assert np.isnan(found[(where + 1) % len(x)])
    there = ~np.isnan(expected)
    np.testing.assert_allclose(found[there], expected[there], rtol=2e-6, atol=1e-9)


def test_scores_far_out_are_finite_and_equal() -> None:
    made = module("stacked", 40)
    x = made.scaler.location.numpy() + 29 * made.scaler.scale.numpy() * np.sign(rows(made, 100))
    found, expected = both(made, x.astype(np.float32))
    assert np.isfinite(found).all()
    # Sums in another order: how far they are off depends on the processor.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    made = module("denoising", 6)
    x = rows(made, 100)
    alone = np.concatenate([both(made, x[i : i + 1])[0] for i in range(len(x))])
    np.testing.assert_allclose(both(made, x)[0], alone, rtol=2e-6, atol=1e-9)


def test_a_kind_that_is_no_chain_is_not_fused() -> None:
    with pytest.raises(ValueError, match="no chain"):
        FusedScorer(module("sparse", 4), LEAST)


DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("n", [0, 1, SIZES[0], SIZES[0] + 1, 3 * SIZES[1] + 7])
def test_stages_give_the_scores_of_the_module(device: str, kind: str, n: int) -> None:
    made = module(kind, 5)
    x = rows(made, n)
    x[::7, 2] = np.nan
    x[::50, :4] = np.nan
    x[3::11, 1] = 1e9
    with torch.inference_mode():
        expected = made(torch.from_numpy(x), LEAST).numpy()
        scorer = StagedScorer(made.to(device), LEAST)
        for _ in range(2):  # the stages hold rows of an earlier batch by then
            np.testing.assert_allclose(scorer.score(x), expected, rtol=1e-3 if device == "cuda" else 2e-6, atol=1e-4)
    assert np.isnan(expected).any() == (n > 0)
