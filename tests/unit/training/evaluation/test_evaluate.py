"""`python -m training evaluate`, and the baselines it compares with."""

import json
import logging
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from tests.models import normal_rows
from training.__main__ import main
from training.evaluation.baselines import BASELINES, score
from training.evaluation.evaluate import BY_ENTITY, FLEET, OFFNORMAL, _ranks


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A series with two labelled segments whose guilty sensor is known, and a set without labels."""
    folder, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    x, y = normal_rows(900, rng), np.zeros(900, np.uint8)
    for begin in (200, 600):
        y[begin : begin + 20] = 1
        x[begin : begin + 20, 2] += 8
    np.savez(
        folder / "series.npz",
        X_train=normal_rows(1500, rng),
        X_test=x,
        y_test=y,
        interpretation=["200-220:3", "600-620:3"],
    )
    np.savez(folder / "unlabelled.npz", X_train=normal_rows(300, rng), X_test=x[:50])
    return [str(folder / "series.npz"), str(folder / "unlabelled.npz")]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OFFNORMAL_TRAINING__STEPS", "300")
    monkeypatch.setenv("OFFNORMAL_DEVICE", "cpu")
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()  # `main` sets up the process's logs; the other tests have theirs
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def test_figures_arrays_and_table(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *files, "--against", "pca,knn", "--out", str(tmp_path / "out"), "--json"]) == 0
    shown = capsys.readouterr().out
    told = json.loads(shown.splitlines()[-1])
    series, unlabelled = told["files"]["series"], told["files"]["unlabelled"]
    assert series["roc_auc"] > 0.99 and series["average_precision"] > 0.9 and series["vus_pr"] > 0.6
    assert series["hit_rate_100"] == 1 and series["event_recall"] == 1
    assert series["observed_rate"] < 0.01 and series["expected_rate"] <= series["asked_rate"] == 1e-4
    assert set(unlabelled) == {"fit_seconds", "score_seconds", "asked_rate", "expected_rate"}
    assert told["mean"]["roc_auc"] == series["roc_auc"], "a mean over those that have it"
    assert set(told["against"]) == {"pca", "knn"}
    assert told["against"]["knn"]["files"]["series"]["roc_auc"] > 0.9
    assert told["ranks"][OFFNORMAL]["roc_auc"] >= 1
    assert "series" in shown and "mean" in shown
    with np.load(tmp_path / "out" / "series.npz") as arrays:
        assert arrays["score"].shape == arrays["p_value"].shape == (900,)
        assert arrays["contributions"].shape == (900, 4)
        np.testing.assert_allclose(arrays["contributions"].sum(1), 1, atol=1e-5)
        assert (arrays["contributions"] >= 0).all()


def test_a_file_that_is_too_small_is_named_and_left_out(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = str(tmp_path / "small.npz")
    x = normal_rows(30, np.random.default_rng(0))
    np.savez(small, X_train=x, X_test=x)
    assert main(["evaluate", small, files[1], "--json"]) == 0
    told = capsys.readouterr()
    assert set(json.loads(told.out.splitlines()[-1])["files"]) == {"unlabelled"}
    assert "file_skipped" in told.err and "small" in told.err
    assert main(["evaluate", small, "--json"]) == 5
    assert "none of the 1 files has enough rows" in capsys.readouterr().err


def test_the_same_command_gives_the_same_figures(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    runs = []
    for _ in range(2):
        assert main(["evaluate", files[0], "--kind", "sparse", "--json"]) == 0
        figures = json.loads(capsys.readouterr().out.splitlines()[-1])["files"]["series"]
        runs.append({name: value for name, value in figures.items() if "seconds" not in name})
    assert runs[0] == runs[1]


def test_dropped_readings_are_scored_from_the_others(files: list[str], tmp_path: Path) -> None:
    scores = []
    for share in ("0", "0.3"):
        out = tmp_path / share
        assert main(["evaluate", files[0], "--missing", share, "--out", str(out)]) == 0
        with np.load(out / "series.npz") as arrays:
            scores.append(arrays["score"])
            unblamed = (arrays["contributions"] == 0).mean()
    assert unblamed == pytest.approx(0.3, abs=0.05), "a missing reading is not guilty"
    assert (scores[0] != scores[1]).mean() > 0.5 and np.isfinite(scores[1]).mean() > 0.9


def test_windows_tell_what_no_single_vector_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(3)
    y = np.zeros(900, np.uint8)
    y[500:600] = 1
    names = ["X_train", "X_test", "y_test", "interpretation"]
    creeping = rng.normal(size=(900, 3))
    creeping[500:600, 2] += 1  # each vector is usual, their mean over a while is not
    arrays: list[Any] = [rng.normal(size=(3000, 3)), creeping, y, ["500-600:3"]]
    np.savez(tmp_path / "creeping.npz", **dict(zip(names, arrays, strict=True)))
    found = {}
    for window in ("1", "16"):
        monkeypatch.setenv("OFFNORMAL_MODEL__WINDOW", window)
        out = tmp_path / window
        assert main(["evaluate", str(tmp_path / "creeping.npz"), "--json", "--out", str(out)]) == 0
        found[window] = json.loads(capsys.readouterr().out.splitlines()[-1])["mean"]
        with np.load(out / "creeping.npz") as told:
            assert told["contributions"].shape == (900, 3), "summed over the window"
            np.testing.assert_allclose(told["contributions"].sum(1), 1, atol=1e-5)
            assert np.isfinite(told["score"]).all(), "the first ones too: their windows are filled up"
    assert found["16"]["roc_auc"] > 0.9 > 0.8 > found["1"]["roc_auc"]
    assert found["16"]["hit_rate_100"] == 1


def test_a_fleet_is_told_apart_by_its_scalers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(4)
    for name, level in (("hot", 500), ("cold", -500)):
        x, y = normal_rows(600, rng), np.zeros(600, np.uint8)
        y[100:130] = 1
        x[100:130, 2] += 10
        np.savez(tmp_path / f"{name}.npz", X_train=normal_rows(900, rng) + level, X_test=x + level, y_test=y)
    files = [str(tmp_path / f"{name}.npz") for name in ("hot", "cold")]
    assert main(["evaluate", *files, "--fleet", "--json"]) == 0
    shown = capsys.readouterr().out
    told = json.loads(shown.splitlines()[-1])
    each, one = told["mean"], {name: told["against"][name]["mean"] for name in (FLEET, BY_ENTITY)}
    assert each["roc_auc"] > 0.99 and one[BY_ENTITY]["roc_auc"] > 0.99
    assert one[FLEET]["average_precision"] < one[BY_ENTITY]["average_precision"]
    assert FLEET in shown and BY_ENTITY in shown


def test_a_fleet_has_the_same_features(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "other.npz", X_train=np.random.default_rng(0).normal(size=(300, 2)), X_test=np.ones((5, 2)))
    assert main(["evaluate", files[1], str(tmp_path / "other.npz"), "--fleet"]) == 2
    assert "--fleet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--missing", "1"], "--missing"), (["--against", "oracle"], "oracle"), (["--kind", "quantum"], "quantum")],
)
def test_unknown_names_are_refused_before_anything_is_fitted(
    files: list[str], arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["evaluate", files[0], *arguments])
    except SystemExit as stop:  # argparse's own
        code = int(str(stop.code))
    assert code == 2
    assert told in capsys.readouterr().err


def test_a_library_that_is_not_there_is_told_with_the_extra_that_brings_it(
    files: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.decomposition", None)
    assert main(["evaluate", files[0], "--against", "pca"]) == 2
    assert "offnormal[evaluate]" in capsys.readouterr().err


def test_too_few_rows_are_refused_with_exit_5(tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", X_train=np.ones((20, 2)), X_test=np.ones((5, 2)))
    assert main(["evaluate", str(tmp_path / "few.npz")]) == 5


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_finds_what_is_far_out(name: str) -> None:
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(400, 5)).astype(np.float32), rng.normal(size=(60, 5)).astype(np.float32)
    train[:, 4], test[:, 4] = 7, 7  # constant
    test[:10, :4] += 20
    train[3, 1] = test[40, 2] = np.nan
    scores = score(name, train, test, seed=0)
    assert scores.shape == (60,) and np.isfinite(scores).all()
    assert scores[:10].min() > np.median(scores[10:])
    np.testing.assert_allclose(score(name, train, test, seed=0), scores, rtol=1e-5)


def test_ranks_are_shared_by_equals_and_skip_what_is_undefined() -> None:
    results = {
        "a": {"x": {"roc_auc": 0.9}, "y": {"roc_auc": 0.5}, "z": {"roc_auc": math.nan}},
        "b": {"x": {"roc_auc": 0.8}, "y": {"roc_auc": 0.5}, "z": {"roc_auc": 0.7}},
    }
    assert _ranks(results) == {"a": {"roc_auc": 1.25}, "b": {"roc_auc": 1.75}}
