"""The showcase: figures that can be true, a page by itself, and the same again with the same seed."""

import base64
import json
import math
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.showcase.render import scatter, sheet
from training.showcase.showcase import Digits, _comparison, _one_thread, denoising, make

USES = ["dimension_reduction", "anomaly_detection", "denoising", "recognition", "generation"]
RANGES = {"PSNR, dB": (0, 60), "novelty": (0, 100)}  # the others are shares
STEPS = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("showcase") / "new"
    return make(out, steps=STEPS, seed=3), out


def test_the_figures_are_told_and_can_be_true(made: tuple[dict[str, Any], Path]) -> None:
    figures, out = made
    assert json.loads((out / "showcase.json").read_bytes()) == figures
    assert (figures["seed"], figures["steps"]) == (3, STEPS)
    assert set(figures["versions"]) >= {"torch", "sklearn"}
    assert figures["images"] == {"train": 1258, "test": 539}
    assert list(figures["uses"]) == USES
    for use in figures["uses"].values():
        assert use["seconds"] >= 0
        assert use["comparisons"]
        for c in use["comparisons"]:
            low, high = RANGES.get(c["measure"], (0, 1))
            assert low <= c["value"] <= high and low <= c["baseline_value"] <= high
            ideal = math.inf if c["best"] == "higher" else float(c["best"].removeprefix("near "))
            if c["value"] != c["baseline_value"] and ideal == math.inf:
                assert c["wins"] == (c["value"] > c["baseline_value"])
    by_digit = figures["uses"]["anomaly_detection"]["roc_auc_by_digit"]
    assert all(len(areas) == 10 for areas in by_digit.values())


def test_the_baselines_are_what_they_claim(made: tuple[dict[str, Any], Path]) -> None:
    """They do not depend on the training steps, and are known to be good at this: a broken one would flatter us."""
    uses = made[0]["uses"]
    found = {(c["measure"], c["baseline"]): c["baseline_value"] for use in uses.values() for c in use["comparisons"]}
    assert 0.55 < found["5-NN accuracy, 2-D", "PCA"] < 0.72
    assert found["5-NN accuracy, 8-D", "PCA"] > 0.93
    assert found["ROC-AUC, mean of ten", "k-NN distance"] > 0.95
    assert found["accuracy, 50 labels a digit", "raw pixels"] > 0.92
    assert found["PSNR, dB", "noisy image"] > 12
    assert max(value for (_, name), value in found.items() if name.startswith("PCA, ")) > 16
    assert 0.85 < found["told apart from real ones", "Gaussian"] < 1


def test_the_page_is_whole_and_loads_nothing(made: tuple[dict[str, Any], Path]) -> None:
    page = (made[1] / "showcase.html").read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)">', page) == USES
    bare = re.sub(r"data:image/png;base64,[\w+/=]+", "", page)
    assert "http" not in bare and "url(" not in bare and "<script" not in bare and "<link" not in bare
    assert set(re.findall(r'src="([^"]*)"', bare)) == {""}
    assert "prefers-color-scheme" in page and "viewport" in page
    assert page.count("<svg") == 2
    for use in made[0]["uses"].values():
        for c in use["comparisons"]:
            assert f">{c['value']:.3f}</td>" in page and f">{c['baseline_value']:.3f}</td>" in page


@_one_thread()
def test_the_same_seed_gives_the_same_figures() -> None:
    def figures(seed: int) -> dict[str, Any]:
        return denoising(Digits.load(seed), seed, STEPS).figures

    assert figures(1) == figures(1)
    assert figures(1) != figures(2)


def test_train_and_test_share_no_image() -> None:
    digits = Digits.load(0)
    assert not {x.tobytes() for x in digits.train} & {x.tobytes() for x in digits.test}
    assert len(np.unique(digits.test_labels)) == 10


@pytest.mark.parametrize(
    ("value", "baseline_value", "ideal", "wins"),
    [(0.9, 0.8, None, True), (0.8, 0.8, None, False), (0.9, 0.95, 0.5, True), (0.4, 0.55, 0.5, False)],
)
def test_who_wins(value: float, baseline_value: float, ideal: float | None, wins: bool) -> None:
    assert _comparison("measure", value, "baseline", baseline_value, ideal)["wins"] is wins


def test_a_sheet_is_a_png_of_the_images() -> None:
    images = np.zeros((2, 3, 64))
    images[1, 2, 0] = 16  # the first pixel of the last image
    html = sheet(images, 'a "caption" <b>')
    assert "&lt;b&gt;" in html and "<b>" not in html
    data = base64.b64decode(re.findall(r"base64,([\w+/=]+)", html)[0])
    width, height = struct.unpack(">II", data[16:24])
    assert (width, height) == (30, 20)
    size = struct.unpack(">I", data[33:37])[0]
    pixels = np.frombuffer(zlib.decompress(data[41 : 41 + size]), np.uint8).reshape(height, 1 + 2 * width)[:, 2::2]
    assert pixels[11, 21] == 255 and pixels.sum() == 255


def test_a_point_far_out_stays_within_the_picture() -> None:
    points = np.random.default_rng(0).normal(size=(400, 2))
    points[0] = 1e9
    html = scatter(points, np.arange(400) % 10, "points")
    at = np.array(re.findall(r'x="(\d+)" y="(\d+)"', html), int)
    assert at.shape == (400, 2) and at.min() >= 0 and at.max() <= 320 and at.std(0).min() > 20
