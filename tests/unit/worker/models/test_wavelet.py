"""A window's coefficients, there and back; shares over features and lags."""

import numpy as np
import pytest
import torch

from training.data.series import windows
from worker.models.wavelet import blocks, by_feature, by_lag, columns, newest, spans
from worker.settings import ModelSettings, Settings

WINDOWS = [1, 2, 3, 4, 7, 8, 12, 32]


@pytest.mark.parametrize("window", WINDOWS)
def test_the_newest_reading_is_in_the_coefficients(window: int) -> None:
    x = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32) * 100
    rows = windows(x, Settings(model=ModelSettings(window=window)), padded=False)
    assert rows.shape == (101 - window, 3 * blocks(window))
    np.testing.assert_allclose(newest(torch.from_numpy(rows), window).numpy(), x[window - 1 :], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("window", WINDOWS)
def test_columns_have_names_of_their_own(window: int) -> None:
    names = columns(("a", "b"), window)
    assert len(set(names)) == len(names) == 2 * blocks(window)


@pytest.mark.parametrize("window", [w for w in WINDOWS if w > 1])
def test_shares_add_up_over_features_and_lags(window: int) -> None:
    shares = np.random.default_rng(0).random((5, 3 * blocks(window))).astype(np.float32)
    shares /= shares.sum(1, keepdims=True)
    np.testing.assert_allclose(by_feature(shares, window).sum(1), 1, rtol=1e-5)
    lags = by_lag(shares, window)
    assert lags.shape == (5, window)
    np.testing.assert_allclose(lags.sum(1), 1, rtol=1e-5)


def test_a_difference_is_of_its_two_sides() -> None:
    shares = np.zeros((1, blocks(8) * 2), np.float32)
    shares[0, 2 * 2 + 1] = 1  # newest 2 - 2 before, of the second feature
    assert by_feature(shares, 8).tolist() == [[0, 1]]
    assert by_lag(shares, 8).tolist() == [[0.25, 0.25, 0.25, 0.25, 0, 0, 0, 0]]
    assert spans(8) == [(1, 2), (2, 4), (4, 8)]
