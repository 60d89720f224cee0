"""Whitened residuals: independent for normal rows, exact where readings are missing, not bent by anomalies."""

import numpy as np
import pytest
import torch

from worker.models import Whitening

MIX = 2 * np.eye(6) + 0.6 * np.random.default_rng(1).normal(size=(6, 6))


def residuals(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy((np.random.default_rng(seed).normal(size=(n, 6)) @ MIX + 3).astype(np.float32))


def test_whitened_residuals_are_independent_with_variance_one() -> None:
    r = residuals(20_000)
    w = Whitening.fit(r, torch.ones_like(r))(r, None)
    np.testing.assert_allclose(np.cov(w.T.numpy()), np.eye(6), atol=0.05)
    np.testing.assert_allclose(w.mean(0).numpy(), 0, atol=0.05)


def test_the_distance_of_an_incomplete_row_is_that_of_what_is_there() -> None:
    r = residuals(3000)
    whitening = Whitening.fit(r, torch.ones_like(r))
    present = (torch.rand(200, 6, generator=torch.Generator().manual_seed(0)) > 0.4).float()
    got = whitening(r[:200] * present, present).square().sum(1).numpy()
    covariance = np.linalg.inv((whitening.root @ whitening.root).double().numpy())
    for i in range(200):
        seen = present[i].numpy() > 0
        if seen.any():
            centred = (r[i].numpy() - whitening.mean.numpy())[seen]
            exact = centred @ np.linalg.solve(covariance[np.ix_(seen, seen)], centred)
            assert got[i] == pytest.approx(exact, rel=1e-3)


def test_what_stands_in_the_place_of_a_missing_reading_does_not_matter() -> None:
    r = residuals(500)
    whitening, present = Whitening.fit(r, torch.ones_like(r)), torch.ones_like(r)
    present[:, 2] = 0
    other = r.clone()
    other[:, 2] = 1e6
    torch.testing.assert_close(whitening(other, present), whitening(r, present))


@pytest.mark.parametrize("share", [0.02, 0.07])
def test_anomalies_among_the_rows_do_not_bend_it(share: float) -> None:
    """Without trimming a direction in which a tenth of the rows lies far out would count as usual."""
    r = residuals(4000)
    bent = r.clone()
    bent[: int(4000 * share)] += torch.tensor([30.0, 0, 0, -20, 0, 0])
    clean, fitted = (Whitening.fit(x, torch.ones_like(x)) for x in (r, bent))
    far = bent[:50]
    distance, expected = (w(far, None).square().sum(1) for w in (fitted, clean))
    assert (distance > 0.7 * expected).all()


def test_coloured_noise_is_like_the_residuals() -> None:
    r = residuals(20_000)
    whitening = Whitening.fit(r, torch.ones_like(r))
    drawn = whitening.colour(torch.randn(20_000, 6, generator=torch.Generator().manual_seed(0)))
    np.testing.assert_allclose(np.cov(drawn.T.numpy()), np.cov(r.T.numpy()), atol=0.5)
    np.testing.assert_allclose(drawn.mean(0).numpy(), r.mean(0).numpy(), atol=0.15)
