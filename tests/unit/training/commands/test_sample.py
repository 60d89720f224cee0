"""Normal vectors from a variational model, and the files they are written to."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.models import FEATURES, normal_rows
from training.commands.sample import write
from training.fitting.fit import fit
from worker.errors import SettingsError
from worker.models import Artefact


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".csv"])
def test_what_is_written_can_be_read(tmp_path: Path, suffix: str) -> None:
    rows = np.array([[1.5, -2e-7], [1e30, 0.1]], np.float32)
    write(tmp_path / f"f{suffix}", rows, ("heat", 'a "b", c'))
    if suffix == ".npz":
        with np.load(tmp_path / "f.npz") as file:
            found, names = file["X"], file["feature_names"].tolist()
        assert names == ["heat", 'a "b", c']
    elif suffix == ".npy":
        found = np.load(tmp_path / "f.npy")
    else:
        assert (tmp_path / "f.csv").read_text().splitlines()[0] == '"heat","a ""b"", c"'
        found = np.loadtxt(tmp_path / "f.csv", delimiter=",", skiprows=1, dtype=np.float32)
    np.testing.assert_array_equal(found, rows)


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        write(tmp_path / "gone" / "f.npy", np.zeros((1, 1), np.float32), ("a",))


def test_sampled_vectors_are_like_normal_ones() -> None:
    rows = normal_rows(2000, np.random.default_rng(0))
    module = fit(rows[:1600], rows[1600:], FEATURES, "variational", steps=900).detector.module
    drawn = module.sample(4000, torch.Generator().manual_seed(1)).numpy()
    np.testing.assert_allclose(drawn.mean(0), rows.mean(0), atol=0.3 * rows.std(0).max())
    np.testing.assert_allclose(drawn.std(0), rows.std(0), rtol=0.3)
    np.testing.assert_allclose(np.corrcoef(drawn.T), np.corrcoef(rows.T), atol=0.25)
    np.testing.assert_array_equal(drawn, module.sample(4000, torch.Generator().manual_seed(1)).numpy())


def test_another_kind_cannot_sample(artefact: Artefact) -> None:
    with pytest.raises(TypeError, match="stacked kind cannot sample"):
        artefact.detector.module.sample(1, torch.Generator())
