"""The sparse kind: a code wider than the readings, of which few units are in use."""

import pytest
import torch

from tests.unit.worker.models.trained_kinds import odd_rows, rows, tensor, trained
from worker.models.sparse import Sparse

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("width", [1, 2, 9, 500, 1024, 3000])
def test_sparse_has_more_hidden_units_than_readings(width: int) -> None:
    module = Sparse(width)
    assert module.encode(torch.zeros(1, width)).shape[1] == module.hidden > width


@pytest.mark.parametrize("active", [0.05, 0.1, 0.5])
def test_sparse_uses_no_more_than_the_active_share_of_its_code(active: float) -> None:
    module = Sparse(9, hidden=200, active=active)
    code = module.encode(torch.randn(1000, 9, generator=torch.Generator().manual_seed(0)) * 5)
    assert ((code != 0).sum(1) <= round(200 * active)).all()
    assert (code != 0).any(1).all()


def test_sparse_tells_how_sparse_it_is() -> None:
    fitted = trained("sparse")
    module = fitted.detector.module.autoencoder
    assert isinstance(module, Sparse)
    least = 1 - round(module.hidden * module.active) / module.hidden
    assert least <= fitted.sparsity < 1
    held = rows(2500, seed=0)[2000:]
    assert fitted.sparsity == pytest.approx(float((fitted.detector.module.encode(tensor(held)) == 0).float().mean()))
    for x in (rows(500, seed=60), odd_rows()):
        assert ((fitted.detector.module.encode(tensor(x)) == 0).float().mean(1) >= least - 1e-6).all()
