"""What the training of every kind in KINDS has to keep to: any rows, its seed, its losses."""

import copy
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.models import normal_rows
from tests.unit.worker.models.trained_kinds import WIDTH, Rows, holey, quick, rows, scores, tensor
from training.fitting.fit import fit
from worker.errors import NoModelError
from worker.models import KINDS, Autoencoder

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("width", "n"), [(1, 200), (2, 200), (9, 200), (500, 60)])
def test_any_width_trains(kind: str, width: int, n: int) -> None:
    check_trains(kind, np.random.default_rng(40).normal(size=(n, width)).astype(np.float32))


COLUMNS: dict[str, Callable[[Rows, np.random.Generator], npt.NDArray[np.floating]]] = {
    "constant": lambda x, rng: np.full((len(x), 2), (3.0, 0.0)),
    "duplicate": lambda x, rng: x[:, [0, 0, 1]],
    "heavy-tailed": lambda x, rng: rng.standard_cauchy((len(x), 2)),
    "tiny and huge": lambda x, rng: x[:, [0, 1]] * np.array([1e-20, 1e20]),
    "partly missing": lambda x, rng: np.where(rng.random((len(x), 3)) < 0.2, np.nan, x[:, :3]),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "beside normal ones"])
def test_odd_columns_train(kind: str, name: str, alone: bool) -> None:
    rng = np.random.default_rng(41)
    x = normal_rows(300, rng)
    odd = COLUMNS[name](x, rng)
    check_trains(kind, (odd if alone else np.column_stack([x, odd])).astype(np.float32))


def test_all_odd_columns_at_once_train_on_fifty_rows(kind: str) -> None:
    rng = np.random.default_rng(42)
    x = normal_rows(50, rng)
    columns = np.column_stack([x, *(column(x, rng) for column in COLUMNS.values())]).astype(np.float32)
    check_trains(kind, columns)
    check_trains(kind, x)


def check_trains(kind: str, x: Rows) -> None:
    fitted = quick(kind, x)
    there = ~np.isnan(x).all(1)
    found, p = scores(fitted.detector, x), fitted.detector.p_value(tensor(x))
    assert np.isfinite(found[there]).all()
    assert ((p > 0) & (p <= 1))[there].all()
    assert np.isfinite([fitted.loss, fitted.held_out_loss]).all() and 0 <= fitted.sparsity <= 1
    assert fitted.detector.module.reconstruct(tensor(x)).isfinite().all()
    _, shares, _ = fitted.detector.module.explain(tensor(x))
    torch.testing.assert_close(shares.sum(1), torch.ones(len(x)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 19, 20, 21, 31])
def test_any_number_of_steps_trains(steps: int) -> None:
    assert np.isfinite(quick(next(iter(KINDS)), rows(100, seed=47), steps=steps).held_out_loss)


def test_a_column_without_any_reading_is_refused_by_name(kind: str) -> None:
    x = rows(100, seed=43)
    x[:, [2, 5]] = np.nan
    with pytest.raises(NoModelError, match="x2, x5"):
        quick(kind, x)


@pytest.mark.parametrize(("n", "held"), [(39, 10), (10, 39), (1, 1), (60, 0)])
def test_too_few_rows_are_refused_with_their_number(kind: str, n: int, held: int) -> None:
    x = rows(n + held, seed=44)
    with pytest.raises(NoModelError, match=rf"{n} rows and {held} held out: 50 "):
        fit(x[:n], x[n:], tuple("abcdefgh"), kind, steps=30)


def test_a_seed_gives_one_model(kind: str) -> None:
    x = holey(rows(400, seed=45), 0.05, seed=46)
    torch.manual_seed(5)
    first = quick(kind, x, seed=1)
    torch.manual_seed(6)
    second, other = quick(kind, x, seed=1), quick(kind, x, seed=2)
    same, others = second.detector.module.state_dict(), other.detector.module.state_dict()
    for name, weight in first.detector.module.state_dict().items():
        assert torch.equal(weight, same[name]), name
        if name.startswith("autoencoder.") and name.endswith("weight"):
            assert not torch.equal(weight, others[name]), name
    assert first.detector.calibration.threshold(1e-3) == second.detector.calibration.threshold(1e-3)
    assert (first.loss, first.held_out_loss) == (second.loss, second.held_out_loss)


def test_corruption_is_for_training_only(autoencoder: Autoencoder) -> None:
    z = torch.randn(100, WIDTH, generator=torch.Generator().manual_seed(0))
    training, scoring = autoencoder.train()(z), autoencoder.eval()(z)
    assert torch.equal(training, scoring)
    assert torch.equal(autoencoder.train().encode(z), autoencoder.eval().encode(z))
    assert not torch.equal(autoencoder.corrupt(z, torch.Generator().manual_seed(0)), z)


@pytest.mark.parametrize("training", [True, False])
def test_all_chance_of_a_loss_comes_from_its_generator(autoencoder: Autoencoder, training: bool) -> None:
    z = torch.randn(100, WIDTH, generator=torch.Generator().manual_seed(0))
    present = torch.ones_like(z)

    def losses(seed: int) -> torch.Tensor:
        # A copy each time, since a kind may count its training steps.
        return copy.deepcopy(autoencoder).train(training).losses(z, present, torch.Generator().manual_seed(seed))

    torch.manual_seed(1)
    first = losses(3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(losses(3), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(losses(4), first)
    assert first.shape == (100,) and first.isfinite().all()


def test_a_missing_reading_adds_nothing_to_a_loss(autoencoder: Autoencoder) -> None:
    z = torch.randn(100, WIDTH, generator=torch.Generator().manual_seed(0))
    z[:, 3] = 0
    present = torch.ones_like(z)
    present[:, 3] = 0
    autoencoder.eval()
    before = autoencoder.losses(z, present, torch.Generator().manual_seed(1))
    last = [p for p in autoencoder.parameters() if p.shape == (WIDTH,)][-1]  # the decoder's bias
    with torch.no_grad():
        last[3] += 100
    assert torch.equal(autoencoder.losses(z, present, torch.Generator().manual_seed(1)), before)
