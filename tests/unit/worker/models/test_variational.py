"""The variational kind: its samples, its posterior, and a code that does not collapse."""

import pytest
import torch

from tests.unit.worker.models.trained_kinds import WIDTH, rows, tensor, trained
from worker.models.variational import Variational

pytestmark = pytest.mark.usefixtures("one_thread")


def variational() -> Variational:
    module = trained("variational").detector.module.autoencoder
    assert isinstance(module, Variational)
    return module


def test_variational_samples_by_its_generator_alone() -> None:
    module = variational()
    first = module.sample(500, torch.Generator().manual_seed(1))
    torch.manual_seed(9)
    state = torch.get_rng_state()
    assert torch.equal(module.sample(500, torch.Generator().manual_seed(1)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(module.sample(500, torch.Generator().manual_seed(2)), first)
    assert first.shape == (500, WIDTH) and first.isfinite().all()


def test_variational_samples_vary_as_normal_rows_do() -> None:
    z, _ = trained("variational").detector.module.scaler(tensor(rows(2000, seed=70)))
    sample = variational().sample(2000, torch.Generator().manual_seed(0))
    assert (sample.std(0) > 0.3 * z.std(0)).any() and (sample.std(0) < 3 * z.std(0)).all()
    assert ((sample.mean(0) - z.mean(0)).abs() < z.std(0)).all()


def test_variational_does_not_collapse() -> None:
    code = trained("variational").detector.module.encode(tensor(rows(2000, seed=71)))
    assert code.var(0).max() > 0.3, "of a dimension in use, nearly 1; of a collapsed one, nearly 0"


def test_variational_codes_are_the_means_of_the_posterior() -> None:
    module = variational()
    z = torch.randn(100, WIDTH, generator=torch.Generator().manual_seed(0))
    mean, log_variance = module.posterior(z)
    assert torch.equal(module.encode(z), mean)
    assert mean.shape == log_variance.shape and log_variance.isfinite().all()
    assert torch.equal(module(z), module.decode(mean))
