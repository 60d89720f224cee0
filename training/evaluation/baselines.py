"""Baseline detectors, each with its library's defaults, on standardised readings.

Missing readings are replaced by the mean, since these detectors do not support them. A higher score is more anomalous.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from worker.errors import SettingsError
from worker.native.arrays import Float32s, Float64s

Rows = Float64s
Scores = Float64s


def check(names: Sequence[str]) -> None:
    """Raise SettingsError for a name that is no baseline."""
    for name in names:
        if name not in BASELINES:
            raise SettingsError(f"--against {name}: there is no such baseline; {', '.join(BASELINES)}")


def score(name: str, x_train: Float32s, x_test: Float32s, seed: int) -> Scores:
    """Return the scores [m] of the rows of `x_test` [m, d]."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x_train.astype(np.float64))
    train, test = (np.nan_to_num(scaler.transform(x.astype(np.float64))) for x in (x_train, x_test))
    return np.asarray(BASELINES[name](train, test, seed), np.float64)


def _pca(train: Rows, test: Rows, seed: int) -> Scores:
    """Return the squared residual outside the components that explain nine tenths of the variance."""
    from sklearn.decomposition import PCA

    fitted = PCA(0.9, svd_solver="full").fit(train)
    residual: Rows = test - fitted.inverse_transform(fitted.transform(test))
    return np.asarray(np.square(residual).sum(1), np.float64)


def _iforest(train: Rows, test: Rows, seed: int) -> Scores:
    from sklearn.ensemble import IsolationForest

    return -np.asarray(IsolationForest(random_state=seed).fit(train).score_samples(test))


def _knn(train: Rows, test: Rows, seed: int) -> Scores:
    """Return the distance to the fifth nearest training row."""
    from sklearn.neighbors import NearestNeighbors

    k = min(5, len(train))
    return np.asarray(NearestNeighbors(n_neighbors=k).fit(train).kneighbors(test)[0][:, -1])


def _half_space_trees(train: Rows, test: Rows, seed: int) -> Scores:
    """Score by river's half-space trees, on readings scaled to [0, 1], which learn from the training rows only."""
    from river.anomaly import HalfSpaceTrees

    low = train.min(0)
    span = np.where(np.ptp(train, axis=0) > 0, np.ptp(train, axis=0), 1.0)
    trees = HalfSpaceTrees(seed=seed, window_size=min(250, len(train)))
    for row in (train - low) / span:
        trees.learn_one(dict(enumerate(row.tolist())))
    return np.array([trees.score_one(dict(enumerate(row.tolist()))) for row in np.clip((test - low) / span, 0, 1)])


def _pyod(module: str, name: str, **arguments: Any) -> Callable[[Rows, Rows, int], Scores]:
    def scored(train: Rows, test: Rows, seed: int) -> Scores:
        from importlib import import_module

        options = {**arguments, "random_state": seed} if "verbose" in arguments else arguments
        detector = getattr(import_module(f"pyod.models.{module}"), name)(**options)
        scores: Scores = np.nan_to_num(np.asarray(detector.fit(train).decision_function(test)), posinf=1e30)
        return scores

    return scored


BASELINES: Final[dict[str, Callable[[Rows, Rows, int], Scores]]] = {
    "pca": _pca,
    "iforest": _iforest,
    "knn": _knn,
    "ecod": _pyod("ecod", "ECOD"),
    "pyod_autoencoder": _pyod("auto_encoder", "AutoEncoder", verbose=0),
    "half_space_trees": _half_space_trees,
}
