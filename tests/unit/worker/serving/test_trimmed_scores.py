"""Scores by trims: the fast scorers give those of the module, and a trim does what worker/models/trim.py says."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.models import make_artefact, normal_rows
from tests.unit.worker.serving.test_scorers import DEVICES, LEAST, module, rows
from worker.models import Artefact
from worker.models.entities import EntityRows
from worker.models.trim import PlacedTrims, Trim, Trims
from worker.native.arrays import UInt64s
from worker.serving.cpu_scorer import ROWS, FusedScorer
from worker.serving.cuda_scorer import StagedScorer
from worker.serving.loaded_model import LoadedModel
from worker.serving.model_swap import ResidentModels
from worker.settings import Settings

HASHES = (3, 2**64 - 5, 77)


def some_trims(width: int, ignored: bool = False) -> dict[int, Trim]:
    rng = np.random.default_rng(5)
    return {
        entity: Trim(
            rng.normal(scale=0.3, size=width).astype(np.float32),
            rng.uniform(0, 0.7, width).astype(np.float32),
            np.arange(width) == (1 if ignored and entity == 77 else -1),
        )
        for entity in HASHES
    }


@pytest.fixture(scope="module")
def artefact() -> Artefact:
    return make_artefact(seed=4)


def trimmed(artefact: Artefact, trims: dict[int, Trim], **more: object) -> LoadedModel:
    model = ResidentModels(Settings()).load(artefact.dump())
    return replace(model.trimmed({"t/0": PlacedTrims(trims, (1,))}, 8), **more)  # type: ignore[arg-type]


def of(model: LoadedModel, *entities: int) -> EntityRows:
    return model.entity_rows(None, np.array(entities, np.uint64))


@pytest.mark.parametrize("kind", ["stacked", "variational"])
@pytest.mark.parametrize(("n", "entities"), [(0, 1), (1, 1), (ROWS + 9, 4), (ROWS + 9, 1)])
def test_the_fused_scorer_gives_the_modules_scores(kind: str, n: int, entities: int) -> None:
    made = module(kind, 17)
    x, row = rows(made, n), 3 - np.arange(n) % entities
    x[::7, 2] = np.nan
    x[3::11, 1] = 1e9
    with torch.inference_mode():
        trims = Trims(some_trims(17), made.whitening, 17)
        found = FusedScorer(made, LEAST).trimmed(trims).score(x, row)
        expected = made(torch.from_numpy(x), LEAST, trims, torch.from_numpy(row)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_stages_give_the_modules_scores(device: str) -> None:
    made = module("stacked", 5)
    x, row = rows(made, 3000), np.arange(3000) % 4
    x[::7, 2] = np.nan
    with torch.inference_mode():
        expected = made(
            torch.from_numpy(x), LEAST, Trims(some_trims(5), made.whitening, 5), torch.from_numpy(row)
        ).numpy()
        there = made.to(device)
        scorer = StagedScorer(there, LEAST).trimmed(Trims(some_trims(5), there.whitening, 5))
        for _ in range(2):
            np.testing.assert_allclose(
                scorer.score(x, row), expected, rtol=1e-3 if device == "cuda" else 1e-4, atol=1e-4
            )


def test_rows_are_found_by_the_hash() -> None:
    trims = Trims(some_trims(5), module("stacked", 5).whitening, 5)
    asked: UInt64s = np.array([77, 4, 3, 3, 2**64 - 5, 0, 2**64 - 1, 77], np.uint64)
    assert trims.rows(asked).tolist() == [2, 0, 1, 1, 3, 0, 0, 2]
    assert trims.entities.tolist() == sorted(HASHES)


def test_a_trim_of_nothing_changes_nothing(artefact: Artefact) -> None:
    x = normal_rows(500, np.random.default_rng(1))
    model = trimmed(artefact, {3: Trim.none(4, 4)})
    plain = ResidentModels(Settings()).load(artefact.dump())
    for entity in (3, 4):
        np.testing.assert_allclose(model.score(x, of(model, *[entity] * 500)), plain.score(x), rtol=1e-4)
    assert (plain.scored_by, model.scored_by) == (plain.version, f"{plain.version}+8")


def test_a_shift_is_taken_off_and_a_loose_column_counts_less(artefact: Artefact) -> None:
    x = normal_rows(500, np.random.default_rng(1))
    plain = ResidentModels(Settings()).load(artefact.dump())
    off = x.copy()
    off[:, 1] += 1.5
    moved = (np.nanmean(plain.residual(off) - plain.residual(x), axis=0)).astype(np.float32)
    shifted = trimmed(artefact, {3: replace(Trim.none(4, 4), shift=moved)})
    loose = trimmed(artefact, {3: replace(Trim.none(4, 4), looseness=np.full(4, np.log(2), np.float32))})
    before, after = plain.score(x).mean(), plain.score(off).mean()
    assert after > 5 * before
    assert shifted.score(off, of(shifted, *[3] * 500)).mean() < 0.3 * after
    np.testing.assert_array_equal(shifted.score(off, of(shifted, *[4] * 500)), plain.score(off))
    assert before / 4.2 < loose.score(x, of(loose, *[3] * 500)).mean() < before / 3.5


def test_an_ignored_sensor_is_as_if_it_were_missing(artefact: Artefact) -> None:
    x = normal_rows(500, np.random.default_rng(1))
    x[:, 1] = 1e6
    gone = x.copy()
    gone[:, 1] = np.nan
    model = trimmed(artefact, {77: replace(Trim.none(4, 4), ignored=np.arange(4) == 1), 3: Trim.none(4, 4)})
    rows_of = of(model, *[77] * 500)
    np.testing.assert_allclose(model.score(x, rows_of), model.score(gone), rtol=1e-5)
    assert (model.explain(x, rows_of).contributions[:, 1] == 0).all()
    np.testing.assert_allclose(model.reconstruct(x, rows_of), model.reconstruct(gone), rtol=1e-5)
    assert model.score(x, of(model, *[3] * 500)).mean() > 10 * model.score(x, rows_of).mean()
    mixed = np.where(np.arange(500) % 2, 77, 3).astype(np.uint64)
    np.testing.assert_allclose(model.score(x, model.entity_rows(None, mixed))[1::2], model.score(gone)[1::2], rtol=1e-5)


def test_what_is_followed_is_no_evidence(artefact: Artefact) -> None:
    x = normal_rows(200, np.random.default_rng(1))
    plain = ResidentModels(Settings()).load(artefact.dump())
    x[:, 1] += 1.5
    model = trimmed(artefact, {3: replace(Trim.none(4, 4), shift=plain.residual(x).mean(0).astype(np.float32))})
    before, after = plain.explain(x), model.explain(x, of(model, *[3] * 200))
    assert after.strength.mean() < 0.8 * before.strength.mean()
    np.testing.assert_array_equal(after.expected, before.expected)
