"""Who an entity is, which model is its, and the scaler of each."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from tests.record_blocks import block_of
from training.data.series import windows
from worker.blocks.entity_hash import hashes
from worker.models import EntityScaler
from worker.models.entities import MIN_ROWS
from worker.serving.router import Router
from worker.settings import ModelSettings, Settings


def test_entities_are_known_again_after_a_restart() -> None:
    """Frozen: what is committed with the offsets names entities by these."""
    records = block_of([b""] * 4, [b"press-1", b"", None, b"press-1"])
    found = hashes(records, records.keys).tolist()
    assert found[0] == found[3] == 12500569032402882867
    assert len(set(found)) == 3


def rows(rng: np.random.Generator, n: int = 200) -> np.ndarray:
    return rng.normal(size=(n, 3)).astype(np.float32)


def fleet(x: np.ndarray) -> EntityScaler:
    """Three take turns: at different levels; the last has too few rows."""
    entity = np.arange(len(x)) % 2
    entity[: MIN_ROWS - 1] = 2
    moved = x + np.array([1000, -1000, 0], np.float32)[entity][:, None]
    moved[entity == 1, 2] = np.nan
    return EntityScaler.fit(moved, entity, ["hot", "cold", "rare"])


@pytest.mark.parametrize("window", [1, 4])
def test_there_and_back_and_unknown_ones_stay(window: int) -> None:
    x, settings = rows(np.random.default_rng(0)), Settings(model=ModelSettings(window=window))
    scaler = fleet(x)
    assert scaler.names == ("hot", "cold")
    assert [scaler.row(name) for name in ("hot", "cold", "rare", None)] == [1, 2, 0, 0]
    given_ = torch.from_numpy(windows(x, settings, padded=True))
    for row in (0, 1, 2):
        of = torch.full((len(x),), row)
        moved = scaler(given_, of)
        torch.testing.assert_close(scaler.inverse(moved, of), given_, rtol=1e-3, atol=0.2)
        raw = scaler(torch.from_numpy(x), of).numpy()
        np.testing.assert_allclose(moved.numpy(), windows(raw, settings, padded=True), rtol=1e-3, atol=0.2)
    torch.testing.assert_close(scaler(given_, torch.zeros(len(x), dtype=torch.long)), given_, rtol=1e-3, atol=0.2)


def test_a_known_machine_is_brought_to_the_fleets_level() -> None:
    x = rows(np.random.default_rng(0))
    scaler = fleet(x)
    hot = scaler(torch.from_numpy(x + 1000), torch.ones(len(x), dtype=torch.long))
    cold = scaler(torch.from_numpy(x - 1000), torch.full((len(x),), 2))
    torch.testing.assert_close(hot[:, :2].median(0).values, cold[:, :2].median(0).values, rtol=0, atol=400)
    assert hot[:, 0].std() > 100, "its own scale too"


ROUTES = Router({"press-*": "presses", "press-9": "never", "saw-?": "saws"}, "default")


@pytest.mark.parametrize(
    ("key", "model"),
    [(b"press-9", "presses"), (b"saw-1", "saws"), (b"saw-10", "default"), (None, "default"), (b"\xff", "default")],
)
def test_the_first_pattern_that_fits_counts(key: bytes | None, model: str) -> None:
    assert ROUTES.model(key) == model


@given(st.lists(st.sampled_from([b"press-1", b"saw-1", b"x", b"", None])), st.sampled_from(["default", None]))
def test_a_batch_is_split_once_and_nothing_lost(keys: list[bytes | None], otherwise: str | None) -> None:
    router = Router({"press-*": "presses", "saw-?": "saws"}, otherwise)
    values = [b"%d" % i for i in range(len(keys))]
    records = block_of(values, keys, {i: [("n", b"%d" % i)] for i in range(0, len(keys), 2)})
    parts = dict(router.split(records))
    for model, part in parts.items():
        assert all(router.model(key) == model for key in part.keys)
        assert part.offset.tolist() == sorted(part.offset.tolist())
        for i in range(len(part)):
            assert part.values[i] == b"%d" % part.offset[i]
            assert (i in part.headers) == (part.offset[i] % 2 == 0)
    kept = sum(map(len, parts.values()))
    assert kept == sum(router.model(key) is not None for key in keys)
