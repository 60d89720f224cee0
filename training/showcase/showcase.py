"""`python -m training showcase`: the five uses of the autoencoders, on digits, each beside what a sceptic would choose.

scikit-learn's 1,797 scanned digits of 8 x 8 pixels are within its wheel, so nothing is downloaded. Every figure is of
test images, which neither the autoencoder nor the baseline has seen. The autoencoders' sizes, though, were chosen by
the test figures of seed 1, whose test images are partly those of any other seed: small leads mean nothing.
"""

import math
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import sklearn
import structlog
import torch
from scipy.ndimage import median_filter
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import trustworthiness
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from training.evaluation.scores import roc_auc
from training.fitting.fit import STEPS, Rows, fit
from training.showcase.render import GREATEST, SIDE, ShowcaseSection, page, scatter, sheet
from worker.models import ScoringModule
from worker.models.variational import Variational
from worker.native.arrays import Int64s
from worker.settings import Settings

Labels = Int64s

TEST: Final = 0.3
HELD_OUT: Final = 0.15  # of the training images: they choose the weights
LEAST_STEPS: Final = 30
NEIGHBOURS: Final = 5
SIGMA: Final = 4.0  # of the noise, in grey levels
COMPONENTS: Final = (4, 8, 12, 16, 20, 24, 32, 48)  # of the PCA for denoising; the best of these counts
LABELS: Final = (5, 10, 50)  # a class
DRAWS: Final = 5
PIXELS: Final = tuple(f"pixel_{row}_{column}" for row in range(SIDE) for column in range(SIDE))
SIZES_REDUCTION: Final = ([128, 64, 2], [64, 8])
SIZES_RECOGNITION: Final = [256, 64]
SIZES_GENERATION: Final = [256, 128, 8]

log = structlog.get_logger()


@dataclass(frozen=True)
class Digits:
    """Images [n, 64] of 0 to 16 grey levels, and what they are of, 0 to 9 [n]; in random order."""

    train: Rows
    train_labels: Labels
    test: Rows
    test_labels: Labels

    @classmethod
    def load(cls, seed: int) -> "Digits":
        """Return the digits, split into training and test by the seed."""
        images, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(seed).permutation(len(images))
        test, train = np.split(order, [round(len(images) * TEST)])
        images = images.astype(np.float32)
        return cls(images[train], labels[train], images[test], labels[test])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run on one thread, so that the figures do not depend on the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def run(settings: Settings, arguments: Namespace) -> None:
    """Make the page, and print how often the autoencoders win."""
    out = Path(arguments.out)
    result = make(out, steps=settings.training.steps, seed=settings.training.seed)
    for use, figures in result["uses"].items():
        won = sum(comparison["wins"] for comparison in figures["comparisons"])
        print(f"{use}: ahead of the baseline in {won} of {len(figures['comparisons'])} comparisons")
    print(f"{out / 'showcase.html'}, {out / 'showcase.json'}")


def make(out: Path, *, steps: int = STEPS, seed: int = 0) -> dict[str, Any]:
    """Write showcase.json and showcase.html into `out`; return what is in showcase.json."""
    started = time.monotonic()
    digits = Digits.load(seed)
    sections = []
    for use in (dimension_reduction, anomaly_detection, denoising, recognition, generation):
        began = time.monotonic()
        section = use(digits, seed, steps)
        section.figures["seconds"] = round(time.monotonic() - began, 1)
        comparisons = section.figures["comparisons"]
        won = sum(c["wins"] for c in comparisons)
        log.info(
            "showcase_section_finished",
            use=section.key,
            won=won,
            of=len(comparisons),
            seconds=section.figures["seconds"],
        )
        sections.append(section)
    result = {
        "seed": seed,
        "steps": steps,
        "seconds": round(time.monotonic() - started, 1),
        "versions": {"torch": str(torch.__version__), "sklearn": sklearn.__version__, "numpy": np.__version__},
        "images": {"train": len(digits.train), "test": len(digits.test)},
        "uses": {section.key: section.figures for section in sections},
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "showcase.json").write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))
    (out / "showcase.html").write_text(page(sections, result), encoding="utf-8")
    return result


def dimension_reduction(digits: Digits, seed: int, steps: int) -> ShowcaseSection:
    """Compare codes of 2 and of 8 numbers with as many principal components."""
    comparisons, pictures = [], []
    for sizes in SIZES_REDUCTION:
        module = _fitted(digits.train, "stacked", seed, steps, {"sizes": sizes})
        pca = PCA(sizes[-1], random_state=seed).fit(digits.train)
        own_codes = _encoded(module, digits.train), _encoded(module, digits.test)
        pca_codes = pca.transform(digits.train), pca.transform(digits.test)
        accuracies = [_neighbourhood(digits, *codes) for codes in (own_codes, pca_codes)]
        for measure, value, baseline_value in zip(("5-NN accuracy", "trustworthiness"), *accuracies, strict=True):
            comparisons.append(_comparison(f"{measure}, {sizes[-1]}-D", value, "PCA", baseline_value))
        if sizes[-1] == 2:
            captions = "Test images by the stacked kind's 2-D code", "The same by two principal components"
            codes = zip((own_codes[1], pca_codes[1]), captions, strict=True)
            pictures = [scatter(code, digits.test_labels, caption) for code, caption in codes]
    text = (
        "64 pixels become 2 or 8 numbers. Accuracy is how often the 5 nearest training codes tell the digit;"
        " trustworthiness, up to 1, is how rarely codes are neighbours whose images are not."
    )
    return _section(
        key="dimension_reduction",
        title="Dimension reduction",
        text=text,
        kind="stacked",
        comparisons=comparisons,
        pictures=pictures,
    )


def anomaly_detection(digits: Digits, seed: int, steps: int) -> ShowcaseSection:
    """Take each digit in turn as the anomaly that the training images lack; a third of the steps for each fit."""
    areas: dict[str, list[float]] = {"denoising": [], "PCA residual": [], "k-NN distance": []}
    shown = []
    for digit in range(10):
        normal = digits.train[digits.train_labels != digit]
        module = _fitted(normal, "denoising", seed, steps // 3)
        pca = PCA(0.9, svd_solver="full").fit(normal)
        residual = digits.test - pca.inverse_transform(pca.transform(digits.test))
        near, _ = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(normal).kneighbors(digits.test)
        scores = module(torch.from_numpy(digits.test)).numpy()
        for name, score in zip(areas, (scores, np.square(residual).sum(1), near[:, -1]), strict=True):
            areas[name].append(roc_auc(digits.test_labels == digit, score))
        shown.append(digits.test[np.argsort(-scores, kind="stable")[:10]])
    own_area, *baseline_areas = ((name, float(np.mean(area))) for name, area in areas.items())
    comparisons = [_comparison("ROC-AUC, mean of ten", own_area[1], name, value) for name, value in baseline_areas]
    text = (
        "Nine digits are normal, the tenth was never seen and is to be found among all test images; each digit is the"
        " tenth once. ROC-AUC is how often an unseen digit scores higher than a normal one. PCA keeps 90 % of the"
        " variance; the distance is that to the fifth neighbour, which needs all training images at hand."
    )
    caption = "The ten test images with the highest scores, a row for each unseen digit, 0 to 9 from the top"
    pictures = [sheet(np.stack(shown), caption)]
    by_digit = {name: [round(a, 4) for a in area] for name, area in areas.items()}
    return _section(
        key="anomaly_detection",
        title="Anomaly detection",
        text=text,
        kind="denoising",
        comparisons=comparisons,
        pictures=pictures,
        roc_auc_by_digit=by_digit,
    )


def denoising(digits: Digits, seed: int, steps: int) -> ShowcaseSection:
    """Remove Gaussian noise. All results are clipped to the values of a pixel, the noisy image too."""
    module = _fitted(digits.train, "denoising", seed, steps)
    rng = np.random.default_rng(seed)
    noisy_train, noisy = (
        (part + rng.normal(0, SIGMA, part.shape)).astype(np.float32) for part in (digits.train, digits.test)
    )
    projections = [PCA(n, random_state=seed).fit(digits.train) for n in COMPONENTS]
    pca = max(projections, key=lambda p: _psnr(p.inverse_transform(p.transform(noisy_train)), digits.train))
    results = {
        "noisy image": noisy,
        "3x3 median": median_filter(noisy.reshape(-1, SIDE, SIDE), size=(1, 3, 3)).reshape(noisy.shape),
        f"PCA, {pca.n_components_} components": pca.inverse_transform(pca.transform(noisy)),
    }
    cleaned = module.reconstruct(torch.from_numpy(noisy)).numpy()
    own_psnr = _psnr(cleaned, digits.test)
    comparisons = [_comparison("PSNR, dB", own_psnr, name, _psnr(x, digits.test)) for name, x in results.items()]
    text = (
        f"Noise with a standard deviation of {SIGMA:g} of {GREATEST:g} grey levels is put on test images and taken away"
        " again. PSNR, in decibels, is how near the result is to the image before; 3 dB are half of the squared error."
        " The number of principal components is the best one on training images."
    )
    picked = slice(0, 16)
    rows = [noisy[picked], cleaned[picked], list(results.values())[-1][picked], digits.test[picked]]
    pictures = [
        sheet(np.stack(rows), "From the top: noisy, cleaned by the autoencoder, by PCA, and as they were", row=True)
    ]
    return _section(
        key="denoising",
        title="Image denoising",
        text=text,
        kind="denoising",
        comparisons=comparisons,
        pictures=pictures,
    )


def recognition(digits: Digits, seed: int, steps: int) -> ShowcaseSection:
    """Show how well few labels do with codes that were learned without any, against pixels."""
    module = _fitted(digits.train, "stacked", seed, steps, {"sizes": SIZES_RECOGNITION})
    own_accuracy = _alike(_encoded(module, digits.train), _encoded(module, digits.test))
    raw_accuracy = _alike(digits.train, digits.test)
    comparisons, spread = [], {}
    for labels in LABELS:
        rng = np.random.default_rng((seed, labels))
        draws = [_few(digits.train_labels, labels, rng) for _ in range(DRAWS)]
        codes, pixels = (
            np.array([_regression(x[0], digits, draw).score(x[1], digits.test_labels) for draw in draws])
            for x in (own_accuracy, raw_accuracy)
        )
        measure = f"accuracy, {labels} labels a digit"
        comparisons.append(_comparison(measure, codes.mean(), "raw pixels", pixels.mean()))
        spread[str(labels)] = round(float((codes - pixels).std(ddof=1)), 4)
    text = (
        f"The autoencoder learned from all training images, but without labels; a logistic regression on its"
        f" {SIZES_RECOGNITION[-1]} code numbers gets a few labels, mean over {DRAWS} draws of them. The baseline is"
        f" the same regression on the pixels."
    )
    missed = _regression(own_accuracy[0], digits, draws[-1]).predict(own_accuracy[1]) != digits.test_labels
    caption = f"Test images taken for another digit, with {LABELS[-1]} labels a digit"
    pictures = [sheet(digits.test[missed][None, :16], caption, row=True)] if missed.any() else []
    return _section(
        key="recognition",
        title="Image recognition",
        text=text,
        kind="stacked",
        comparisons=comparisons,
        pictures=pictures,
        difference_std_by_labels=spread,
    )


def generation(digits: Digits, seed: int, steps: int) -> ShowcaseSection:
    """Show images drawn from the variational kind's prior, against draws from a Gaussian with the same covariance."""
    n, rng = len(digits.test), np.random.default_rng(seed)
    module = _fitted(digits.train, "variational", seed, steps, {"sizes": SIZES_GENERATION})
    assert isinstance(module.autoencoder, Variational)
    scaled = module.autoencoder.sample(n, torch.Generator().manual_seed(seed))
    gaussian = rng.multivariate_normal(digits.train.mean(0), np.cov(digits.train.T), n, method="eigh")
    # Round to whole grey levels, as in the real images; otherwise the fractions would give the drawn images away.
    drawn, baseline_drawn = (np.rint(x.clip(0, GREATEST)) for x in (module.scaler.inverse(scaled).numpy(), gaussian))
    neighbours = NearestNeighbors(n_neighbors=1).fit(digits.train)
    distance = [float(np.median(neighbours.kneighbors(x)[0])) for x in (drawn, baseline_drawn, digits.test)]
    distinguishable = [_distinguishability(digits.test, x, seed) for x in (drawn, baseline_drawn)]
    comparisons = [
        _comparison("told apart from real ones", distinguishable[0], "Gaussian", distinguishable[1], ideal=0.5),
        _comparison("novelty", distance[0] / distance[2], "Gaussian", distance[1] / distance[2], ideal=1.0),
    ]
    text = (
        "New digits are drawn, without being told which. Told apart: how often a random forest tells a drawn image from"
        " a real test image; 0.5 is guessing, 1 is always. Novelty: the distance to the nearest training image, over"
        " that of real test images (medians); near 0 they are copies, far above 1 they are like no digit."
    )
    pictures = [
        sheet(x[:64].reshape(8, 8, -1), caption)
        for x, caption in ((drawn, "Drawn by the variational kind"), (baseline_drawn, "Drawn from the Gaussian"))
    ]
    return _section(
        key="generation",
        title="Image generation",
        text=text,
        kind="variational",
        comparisons=comparisons,
        pictures=pictures,
    )


def _fitted(
    images: Rows, kind: str, seed: int, steps: int, architecture: dict[str, Any] | None = None
) -> ScoringModule:
    held_out, rows = np.split(images, [round(len(images) * HELD_OUT)])
    # A black and a white image make the scaler use one range for all pixels, including those at the edges.
    ends = np.repeat(np.array([[0.0], [GREATEST]], np.float32), rows.shape[1], axis=1)
    rows, steps = np.concatenate((rows, ends)), max(LEAST_STEPS, steps)
    return fit(rows, held_out, PIXELS, kind, architecture=architecture, seed=seed, steps=steps).detector.module


def _encoded(module: ScoringModule, images: Rows) -> Rows:
    return module.encode(torch.from_numpy(images)).numpy()


def _comparison(
    measure: str, value: float, baseline: str, baseline_value: float, ideal: float | None = None
) -> dict[str, Any]:
    """Compare two values: the better one is nearer the `ideal`, or, if there is none, higher."""
    value, baseline_value = float(value), float(baseline_value)
    wins = value > baseline_value if ideal is None else abs(value - ideal) < abs(baseline_value - ideal)
    best = "higher" if ideal is None else f"near {ideal:g}"
    result = {"value": round(value, 4), "baseline": baseline, "baseline_value": round(baseline_value, 4)}
    return {"measure": measure, "best": best, **result, "wins": wins}


def _section(
    key: str,
    title: str,
    text: str,
    kind: str,
    comparisons: list[dict[str, Any]],
    pictures: list[str],
    **more: Any,
) -> ShowcaseSection:
    return ShowcaseSection(key, title, text, {"autoencoder": kind, "comparisons": comparisons, **more}, tuple(pictures))


def _neighbourhood(digits: Digits, train: Rows, test: Rows) -> tuple[float, float]:
    """Return 5-NN accuracy and trustworthiness of codes [n, c]."""
    classifier = KNeighborsClassifier(NEIGHBOURS).fit(train, digits.train_labels)
    trusted = trustworthiness(digits.test, test, n_neighbors=NEIGHBOURS)
    return float(classifier.score(test, digits.test_labels)), float(trusted)


def _psnr(images: npt.NDArray[Any], clean: Rows) -> float:
    error = float(np.mean(np.square(images.clip(0, GREATEST) - clean, dtype=np.float64)))
    return 10 * math.log10(GREATEST**2 / error)


def _few(labels: Labels, n: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Return the rows of n images of each class."""
    return np.concatenate([rng.choice(np.flatnonzero(labels == digit), n, replace=False) for digit in range(10)])


def _alike(train: Rows, test: Rows) -> tuple[Rows, Rows]:
    """Scale inputs to one centre and one spread, since the regression's penalty weighs all of them alike."""
    centre, spread = train.mean(0), train.std()
    return (train - centre) / spread, (test - centre) / spread


def _regression(inputs: Rows, digits: Digits, rows: npt.NDArray[np.intp]) -> LogisticRegression:
    """Fit a regression with the labels of these training rows only."""
    return LogisticRegression(max_iter=5000).fit(inputs[rows], digits.train_labels[rows])


def _distinguishability(real: Rows, drawn: npt.NDArray[Any], seed: int) -> float:
    forest = RandomForestClassifier(n_estimators=100, random_state=seed)
    is_drawn = np.repeat((0, 1), (len(real), len(drawn)))
    return float(cross_val_score(forest, np.concatenate((real, drawn)), is_drawn, cv=5).mean())
