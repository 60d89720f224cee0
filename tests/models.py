"""Small models and their data, for tests."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from training.data.series import windows
from training.fitting.fit import Fleet, fit
from worker.models import Artefact, ModelCard
from worker.registry import new_version
from worker.settings import ModelSettings, Settings

FEATURES = ("pressure", "flow", "speed", "heat")


def normal_rows(n: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """[n, 4]: two hidden causes, and noise."""
    causes = rng.normal(size=(n, 2))
    mix = np.array([[1.0, 0.5, -0.5, 2.0], [0.2, -1.0, 1.0, 0.3]])
    return (causes @ mix + rng.normal(scale=0.1, size=(n, 4)) + [10, 0, -5, 100]).astype(np.float32)


def make_artefact(
    seed: int,
    features: tuple[str, ...] = FEATURES,
    name: str = "default",
    window: int = 1,
    entities: tuple[str, ...] = (),
) -> Artefact:
    """With `entities`, these take turns, and each has a scaler of its own."""
    rows = normal_rows(1500, np.random.default_rng(100))
    if len(features) != rows.shape[1]:
        rows = np.resize(rows.T, (len(features), len(rows))).T.copy()
    rows = windows(rows, Settings(model=ModelSettings(window=window)), padded=True)
    turns = np.arange(len(rows)) % max(len(entities), 1)
    fleet = Fleet(entities, turns[:1000], turns[1000:]) if entities else None
    fitted = fit(rows[:1000], rows[1000:], features, "stacked", window=window, fleet=fleet, seed=seed, steps=150)
    # So few rows make a cautious threshold: the tests may ask for any rate all the same.
    detector = replace(fitted.detector, calibration=replace(fitted.detector.calibration, upper=None))
    made = datetime.now(UTC)
    card = ModelCard(
        name=name,
        version=new_version(made, f"{seed}{features}{made.isoformat()}".encode()),
        kind="stacked",
        architecture=fitted.detector.module.autoencoder.architecture(),
        features=features,
        window=window,
        entities=entities,
        created=made.isoformat(),
        rows={"fitted": 1000, "calibrated": fitted.calibrated},
        trained_on={},
        quality={"held_out_loss": fitted.held_out_loss, "threshold": fitted.detector.calibration.threshold(1e-3)},
        seed=seed,
    )
    return Artefact.make(card, detector, rows[1000:])
