"""What every kind of autoencoder in KINDS has to keep to, whatever it is made of; then what single kinds promise."""

import copy
import inspect
import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.models import normal_rows
from training.fitting.fit import Fitted, fit
from worker.detection.roc import roc_auc
from worker.errors import NoModelError
from worker.models import KINDS, Artefact, Autoencoder, Detector, ModelCard
from worker.models.denoising import Denoising
from worker.models.sparse import Sparse
from worker.models.variational import Variational

Rows = npt.NDArray[np.float32]

WIDTH = 8
SAME: dict[str, Any] = {
    "rtol": 1e-5,
    "atol": 1e-6,
}  # what a score may change by where only the order of summation differs
CLOSE = 1e-3  # relative: float32 against float64


def rows(n: int, seed: int) -> Rows:
    """[n, 8]: two machines of 4 readings and two hidden causes each."""
    rng = np.random.default_rng(seed)
    return np.column_stack([normal_rows(n, rng), normal_rows(n, rng)])


def holey(x: Rows, share: float, seed: int) -> Rows:
    return np.where(np.random.default_rng(seed).random(x.shape) < share, np.float32(np.nan), x)


def odd_rows() -> Rows:
    """[300, 8]: ordinary rows, far ones, wild ones, partly missing ones, and one without any reading."""
    x = rows(300, seed=20)
    x[::7] *= 30
    x[::13, 2] = 1e30
    x[::17, 5] = -1e30
    x[::29] *= np.float32(1e6)
    x[::3] = holey(x[::3], 0.3, seed=21)
    x[5] = np.nan
    return x


def quick(kind: str, x: Rows, seed: int = 0, steps: int = 30) -> Fitted:
    cut = len(x) * 4 // 5
    return fit(x[:cut], x[cut:], tuple(f"x{i}" for i in range(x.shape[1])), kind, seed=seed, steps=steps)


@cache
def trained(kind: str) -> Fitted:
    """One for all tests: they leave it as it is."""
    return quick(kind, rows(2500, seed=0), steps=300)


def scores(detector: Detector, x: Rows) -> npt.NDArray[np.float64]:
    return detector.score(torch.from_numpy(np.ascontiguousarray(x))).numpy().astype(np.float64)


def tensor(x: Rows) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def detector(kind: str) -> Detector:
    return trained(kind).detector


@pytest.fixture
def autoencoder(kind: str) -> Autoencoder:
    """A copy, to do anything with."""
    return copy.deepcopy(trained(kind).detector.module.autoencoder)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models so small are slower with several, and much slower where others compute, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def threads(one_thread: None) -> Iterator[Callable[[int], None]]:
    yield torch.set_num_threads
    torch.set_num_threads(1)


# --- Scores ---


def test_the_same_vector_always_gets_the_same_score_whatever_the_state_of_chance(detector: Detector) -> None:
    x = odd_rows()
    torch.manual_seed(1)
    first = scores(detector, x)
    torch.manual_seed(2)
    np.testing.assert_array_equal(scores(detector, x), first)
    np.testing.assert_array_equal(scores(detector, x), first)


def test_scoring_draws_nothing_from_the_global_generators(detector: Detector) -> None:
    x = tensor(odd_rows())
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    detector.score(x)
    detector.module.explain(x)
    detector.module.reconstruct(detector.module.reconstruct(x))
    detector.module.encode(x)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (str(np.random.get_state()), random.getstate()) == before[1:]


def test_scoring_leaves_its_input_and_its_weights_alone(detector: Detector) -> None:
    x = odd_rows()
    given = x.copy()
    weights = copy.deepcopy(detector.module.state_dict())
    detector.score(torch.from_numpy(given))
    detector.module.explain(torch.from_numpy(given))
    np.testing.assert_array_equal(given, x)
    for name, weight in detector.module.state_dict().items():
        assert torch.equal(weight, weights[name]), name


@pytest.mark.parametrize("size", [1, 2, 7, 64, 299])
def test_a_score_does_not_depend_on_the_batch(detector: Detector, size: int) -> None:
    x = odd_rows()
    parts = np.concatenate([scores(detector, x[i : i + size]) for i in range(0, len(x), size)])
    np.testing.assert_allclose(parts, scores(detector, x), **SAME)


def test_a_score_does_not_depend_on_neighbours_and_position(detector: Detector) -> None:
    x, ordinary = odd_rows(), rows(300, seed=22)
    order = np.random.default_rng(23).permutation(len(x))
    np.testing.assert_allclose(scores(detector, x[order]), scores(detector, x)[order], **SAME)
    among_odd = scores(detector, np.concatenate([x, ordinary]))[300:]
    np.testing.assert_allclose(among_odd, scores(detector, ordinary), **SAME)


@pytest.mark.parametrize("filler", [0.0, np.nan, 3e38])
def test_a_score_does_not_depend_on_padding(detector: Detector, filler: float) -> None:
    for x in (rows(100, seed=24), odd_rows()):
        padded = np.concatenate([x, np.full((412, WIDTH), filler, np.float32)])
        np.testing.assert_allclose(scores(detector, padded)[: len(x)], scores(detector, x), **SAME)


def test_a_score_does_not_depend_on_the_number_of_threads(detector: Detector, threads: Callable[[int], None]) -> None:
    x = np.tile(odd_rows(), (20, 1))
    found = []
    for number in (1, 2, 4):
        threads(number)
        found.append(scores(detector, x))
    np.testing.assert_allclose(found[1], found[0], **SAME)
    np.testing.assert_allclose(found[2], found[0], **SAME)


def test_a_p_value_does_not_depend_on_the_batch(detector: Detector) -> None:
    x = rows(300, seed=28)
    alone = np.concatenate([detector.p_value(tensor(x[i : i + 1])) for i in range(len(x))])
    np.testing.assert_allclose(alone, detector.p_value(tensor(x)), rtol=1e-3)


ALIKE: dict[str, Callable[[np.random.Generator], npt.NDArray[np.floating]]] = {
    "constants": lambda rng: np.tile([5.0, 0.0, -3.7, 1e5], (2500, 1)),
    "one switch, thrice": lambda rng: np.repeat(rng.integers(0, 2, (2500, 1)), 3, axis=1).astype(float),
    "switches": lambda rng: rng.integers(0, 2, (2500, 3)).astype(float),
}


@pytest.mark.parametrize("name", ALIKE)
def test_rounding_does_not_make_an_anomaly_of_a_row_like_many_others(kind: str, name: str) -> None:
    x = ALIKE[name](np.random.default_rng(29)).astype(np.float32)
    detector = quick(kind, x, steps=60).detector
    p = detector.p_value(tensor(x[:100]))
    assert p.min() > 0.05, "of eight kinds of rows at most, none is rare"
    alone = np.concatenate([detector.p_value(tensor(x[i : i + 1])) for i in range(100)])
    assert alone.min() > 0.05, f"alone {alone.min():.1e}, among others {p[alone.argmin()]:.1e}"
    rounded = detector.calibration.p_value(scores(detector, x[:100]) * (1 + 1e-6) + 1e-7)
    assert rounded.min() > 0.05, f"with other last bits {rounded.min():.1e}, with these {p[rounded.argmin()]:.1e}"


def test_only_a_row_without_any_reading_has_no_score(detector: Detector) -> None:
    x = odd_rows()
    np.testing.assert_array_equal(np.isfinite(scores(detector, x)), ~np.isnan(x).all(1))
    assert len(scores(detector, x[:0])) == 0


def test_float32_scores_are_near_those_in_float64(detector: Detector) -> None:
    exact = copy.deepcopy(detector.module).double()
    for x in (rows(500, seed=25), holey(rows(500, seed=26), 0.2, seed=27)):
        with torch.inference_mode():
            want = exact(torch.from_numpy(x.astype(np.float64)))
        assert want.dtype == torch.float64
        np.testing.assert_allclose(scores(detector, x), want.numpy(), rtol=CLOSE)


# --- Codes, reconstructions, contributions ---


def test_codes_and_reconstructions_are_finite_and_have_their_shapes(detector: Detector) -> None:
    for x in (rows(50, seed=30), holey(rows(50, seed=31), 0.5, seed=32), odd_rows(), odd_rows()[5:6], odd_rows()[:0]):
        z, _ = detector.module.scaler(tensor(x))
        code = detector.module.autoencoder.encode(z)
        assert code.ndim == 2 and len(code) == len(x) and code.shape[1] >= 1
        assert code.isfinite().all()
        assert torch.equal(detector.module.encode(tensor(x)), code)
        decoded = detector.module.autoencoder.decode(code)
        assert decoded.shape == x.shape and decoded.isfinite().all()
        assert torch.equal(detector.module.autoencoder(z), decoded), "forward is decode of encode"


def test_reconstructions_have_nothing_missing_and_the_readings_units(detector: Detector) -> None:
    for x in (rows(50, seed=33), odd_rows()):
        assert detector.module.reconstruct(tensor(x)).isfinite().all()
    clean = rows(1000, seed=34)
    x = holey(clean, 0.1, seed=35)
    gone = np.isnan(x)
    off = np.abs(detector.module.reconstruct(tensor(x)).numpy() - clean) / clean.std(0)
    for i in range(WIDTH):  # in standard deviations; the mean of a normal distribution would be 0.8 of them off
        assert off[~gone[:, i], i].mean() < 0.7
        assert off[gone[:, i], i].mean() < 1


def test_codes_and_reconstructions_do_not_depend_on_the_batch(detector: Detector) -> None:
    x = tensor(holey(rows(200, seed=36), 0.1, seed=37))
    for get in (detector.module.encode, detector.module.reconstruct):
        alone = torch.cat([get(x[i : i + 1]) for i in range(len(x))])
        torch.testing.assert_close(get(x), alone, rtol=1e-4, atol=1e-4)


def test_contributions_are_shares(detector: Detector) -> None:
    x = odd_rows()
    expected, shares = detector.module.explain(tensor(x))
    assert expected.isfinite().all()
    assert (shares >= 0).all()
    torch.testing.assert_close(shares.sum(1), torch.ones(len(x)), rtol=0, atol=1e-5)
    missing = np.isnan(x)
    partly = missing & ~missing.all(1, keepdims=True)
    assert partly.any() and missing[5].all()
    assert (shares.numpy()[partly] == 0).all(), "a missing reading is not guilty"


@pytest.mark.parametrize("wild", [1e30, -1e30, 3.4e38, 1e-45])
def test_contributions_are_shares_where_every_reading_is_wild(detector: Detector, wild: float) -> None:
    x = np.full((4, WIDTH), wild, np.float32)
    x[1, ::2] *= -1
    x[2, 3] = np.nan
    x[3, 1:] = np.nan
    _, shares = detector.module.explain(tensor(x))
    assert (shares >= 0).all()
    torch.testing.assert_close(shares.sum(1), torch.ones(4), rtol=0, atol=1e-5)
    assert shares[2, 3] == 0 and shares[3, 0] == 1


# --- The artefact ---


def test_an_artefact_gives_back_the_same_scores_codes_and_contributions(kind: str, detector: Detector) -> None:
    card = ModelCard(
        name="default",
        version="20260101T000000-0123456789ab",
        kind=kind,
        architecture=detector.module.autoencoder.architecture(),
        features=detector.features,
        created="2026-01-01T00:00:00+00:00",
        rows={"fitted": 2000},
        trained_on={},
        quality={},
    )
    loaded = Artefact.load(Artefact.make(card, detector, odd_rows()).dump())
    assert loaded.card == card
    assert type(loaded.detector.module.autoencoder) is KINDS[kind]
    x = odd_rows()
    np.testing.assert_array_equal(scores(loaded.detector, x), scores(detector, x))
    np.testing.assert_array_equal(loaded.detector.p_value(tensor(x)), detector.p_value(tensor(x)))
    assert torch.equal(loaded.detector.module.encode(tensor(x)), detector.module.encode(tensor(x)))
    for got, want in zip(loaded.detector.module.explain(tensor(x)), detector.module.explain(tensor(x)), strict=True):
        assert torch.equal(got, want)


def shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in module.state_dict().items()}


@pytest.mark.parametrize("width", [1, 2, 9, 500])
def test_the_architecture_rebuilds_the_module(kind: str, width: int) -> None:
    first = KINDS[kind](width)
    again = KINDS[kind](**first.architecture())
    assert first.kind == kind and first.width == again.width == width
    assert shapes(first) == shapes(again)
    assert first.architecture() == again.architecture()


OTHER_THAN_DEFAULT: dict[str, dict[str, Any]] = {
    "denoising": {"sizes": [7, 3], "noise": [0.2, 1.5], "swapped": 0.05},
    "sparse": {"hidden": 77, "active": 0.25},
    "stacked": {"sizes": [7, 5, 3]},
    "variational": {"sizes": [7, 5, 3], "beta": 0.5, "free_nats": 0.2},
}


def test_the_architecture_tells_all_arguments_in_json(kind: str) -> None:
    arguments = {"width": 9, **OTHER_THAN_DEFAULT[kind]}
    assert set(arguments) == set(inspect.signature(KINDS[kind]).parameters), "an argument for each parameter"
    module = KINDS[kind](**arguments)
    told = json.loads(json.dumps(module.architecture()))
    assert told == arguments
    assert shapes(KINDS[kind](**told)) == shapes(module) != shapes(KINDS[kind](9))
    x = rows(100, seed=38)
    fitted = fit(x[:80], x[80:], tuple("abcdefgh"), kind, architecture=OTHER_THAN_DEFAULT[kind], steps=30)
    assert fitted.detector.module.autoencoder.architecture() == {**arguments, "width": WIDTH}


# --- Training ---


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
    _, shares = fitted.detector.module.explain(tensor(x))
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


# --- Detection ---


def test_a_broken_correlation_scores_above_normal_rows(detector: Detector) -> None:
    normal = rows(4000, seed=50)
    middle, spread = normal.mean(0), normal.std(0)
    limit = np.quantile(scores(detector, normal), 0.99)
    for i in range(WIDTH):
        # Within its own range, and some thirty standard deviations of the noise from what the others say.
        broken = normal[np.abs(normal[:, i] - middle[i]) > 1.5 * spread[i]]
        broken[:, i] = 2 * middle[i] - broken[:, i]
        assert (scores(detector, broken) > limit).mean() > 0.99, f"reading {i}"


@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_a_fault_is_found_also_where_readings_are_missing(detector: Detector, missing: float) -> None:
    rng = np.random.default_rng(51)
    x = rows(3000, seed=52)
    spread = x.std(0)
    faulty = rng.random(len(x)) < 0.1
    for i in np.flatnonzero(faulty):
        two = rng.choice(WIDTH, 2, replace=False)
        x[i, two] += 6 * spread[two] * rng.choice([-1, 1], 2)
    assert roc_auc(faulty, scores(detector, holey(x, missing, seed=53))) > (0.9 if missing else 0.99)


def test_p_values_of_unseen_normal_rows_are_about_even(detector: Detector) -> None:
    p = detector.p_value(tensor(rows(4000, seed=54)))
    assert ((p > 0) & (p <= 1)).all()
    for level in (0.1, 0.5):
        assert 0.5 * level < (p <= level).mean() < 1.6 * level


# --- Sparse ---


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


# --- Denoising ---

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


# --- Variational ---


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
