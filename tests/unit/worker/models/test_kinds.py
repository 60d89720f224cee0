"""What every kind of autoencoder in KINDS has to keep to, whatever it is made of. test_kinds_training.py trains it."""

import copy
import inspect
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.unit.worker.models.trained_kinds import WIDTH, holey, odd_rows, quick, rows, scores, tensor
from training.fitting.fit import fit
from worker.detection.roc import roc_auc
from worker.models import KINDS, Artefact, Detector, ModelCard

pytestmark = pytest.mark.usefixtures("one_thread")

SAME: dict[str, Any] = {
    "rtol": 1e-5,
    "atol": 1e-6,
}  # what a score may change by where only the order of summation differs
CLOSE = 1e-3  # relative: float32 against float64


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
        z, _ = detector.module._filled(tensor(x))
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
    expected, shares, _ = detector.module.explain(tensor(x))
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
    _, shares, _ = detector.module.explain(tensor(x))
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
