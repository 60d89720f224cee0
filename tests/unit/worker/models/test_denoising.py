"""The denoising kind: what its encoder sees in training."""

import pytest
import torch

from tests.unit.worker.models.trained_kinds import WIDTH
from worker.models.denoising import Denoising

pytestmark = pytest.mark.usefixtures("one_thread")

NONE = (1e-30, 1e-30)  # of noise: its logarithm is taken


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """No readings are dropped: how many is no argument of the constructor."""
    monkeypatch.setattr("worker.models.base.DROPPED", 0.0)


def corrupted(module: Denoising, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """z, whose readings are all of them different, none near 0; and what the encoder sees."""
    z = torch.arange(1.0, 1 + 4000 * WIDTH).reshape(4000, WIDTH)
    return z, module.corrupt(z, torch.Generator().manual_seed(seed))


def test_denoising_adds_noise_of_another_strength_to_each_row(whole: None) -> None:
    z, seen = corrupted(Denoising(WIDTH, noise=(0.1, 3.0), swapped=0.0))
    noise = seen - z
    strength = noise.square().mean(1).sqrt()
    assert abs(float(noise.mean())) < 0.05
    assert strength.quantile(0.05) < 0.2 and strength.quantile(0.95) > 2
    assert 0.4 < strength.median() < 0.7, "evenly in its logarithm: the median is the geometric mean of both ends"
    _, steady = corrupted(Denoising(WIDTH, noise=(2.0, 2.0), swapped=0.0))
    assert float((steady - z).std()) == pytest.approx(2, rel=0.03)


def test_denoising_swaps_readings_of_the_same_feature(whole: None) -> None:
    z, seen = corrupted(Denoising(WIDTH, noise=NONE, swapped=0.2))
    changed = seen != z
    assert float(changed.float().mean()) == pytest.approx(0.2, abs=0.01)
    assert (seen % WIDTH == z % WIDTH).all(), "a reading comes from another row of its own column"
    assert changed.any(1).float().mean() > 0.7, "each reading is swapped by itself, not whole rows"


def test_denoising_drops_readings_of_half_of_the_rows() -> None:
    z, seen = corrupted(Denoising(WIDTH, noise=NONE, swapped=0.0))
    dropped = seen == 0
    assert (seen[~dropped] == z[~dropped]).all()
    assert float(dropped.float().mean()) == pytest.approx(0.075, abs=0.01), "half of the rows, 0 to 30 % of them"
    assert 0.25 < dropped.any(1).float().mean() < 0.5


def test_denoising_leaves_its_input_alone_with_nothing_to_do(whole: None) -> None:
    z, seen = corrupted(Denoising(WIDTH, noise=NONE, swapped=0.0))
    assert torch.equal(seen, z)


def test_denoising_changes_its_input_in_all_ways_at_once_by_its_generator() -> None:
    module = Denoising(WIDTH)
    z, first = corrupted(module, seed=1)
    assert torch.equal(corrupted(module, seed=1)[1], first)
    assert not torch.equal(corrupted(module, seed=2)[1], first)
    far = (first - z).abs() > 20
    assert (first == 0).any() and (far & (first != 0)).any() and ((first != z) & ~far).any()
