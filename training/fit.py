"""Rows -> detector: scaler, autoencoder with early stopping, then whitening and calibration on the held-out rows."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from training.calibrate import explained
from worker.errors import NoModelError
from worker.models import KINDS, Autoencoder, Calibration, Detector, Scaler, ScoringModule, Whitening

Rows = npt.NDArray[np.float32]

BATCH: Final = 512
# An epoch over a large set is cut into rounds of at most this many steps, so that early stopping looks often enough.
ROUND_STEPS: Final = 400
LEARNING_RATE: Final = 2e-3
PATIENCE: Final = 12  # rounds without an improvement of the held-out loss
WORTHWHILE: Final = 0.995  # the factor that counts as one
# Recent data are mostly normal, not all. The worst tenth of each batch does not teach, or the autoencoder learns a
# frequent fault as one more way of running (shuttle, 7 % anomalies in the rows: ROC-AUC .66 without, .999 with).
TRIMMED: Final = 0.1


@dataclass(frozen=True)
class Round:
    """What the progress bar shows after each round, an epoch or a part of one; `eta` in seconds."""

    number: int
    of: int
    epoch: float
    loss: float
    held_out_loss: float
    eta: float


@dataclass(frozen=True)
class Fitted:
    """`calibrated` is the number of held-out rows behind the p-values."""

    detector: Detector
    loss: float
    held_out_loss: float
    rounds: int
    calibrated: int
    seconds: float


Batch = tuple[torch.Tensor, torch.Tensor]  # scaled readings [n, d], and 1 or 0 [n, d] for present or missing


def fit(
    rows: Rows,
    held_out: Rows,
    features: tuple[str, ...],
    kind: str,
    *,
    champion: Detector | None = None,
    seed: int = 0,
    max_epochs: int = 200,
    progress: Callable[[Round], None] = lambda _: None,
) -> Fitted:
    """Fits on `rows` [n, d] and calibrates on `held_out` [m, d]; NaN is missing. What the `champion` thinks of the
    held-out rows tells how many of them are no normal ones.

    The same seed gives the same model on the CPU with the same number of threads. Raises NoModelError where a feature
    has no reading at all.
    """
    started = time.monotonic()
    _refuse_empty(rows, features)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    scaler = Scaler.fit(rows)
    autoencoder = KINDS[kind](rows.shape[1])
    with torch.no_grad():
        train, held = _scaled(scaler, rows), _scaled(scaler, held_out)
    loss, held_loss, rounds = _train(autoencoder, train, held, generator, max_epochs, progress)
    autoencoder.eval().requires_grad_(False)
    module = ScoringModule(scaler, autoencoder, _whiten(autoencoder, *held)).eval().requires_grad_(False)
    scores = module(torch.from_numpy(held_out)).numpy().astype(np.float64)
    usable = np.isfinite(scores)
    if champion is not None:
        usable &= explained(champion.p_value(torch.from_numpy(held_out)), scores)
    if usable.sum() < 2:
        raise NoModelError(f"of {len(held_out)} held-out rows none can be scored: nothing to set a threshold by")
    detector = Detector(features, module, Calibration.fit(scores[usable]))
    return Fitted(detector, loss, held_loss, rounds, int(usable.sum()), time.monotonic() - started)


def _refuse_empty(rows: Rows, features: tuple[str, ...]) -> None:
    empty = [name for name, column in zip(features, rows.T, strict=True) if np.isnan(column).all()]
    if empty:
        raise NoModelError(f"no reading at all of: {', '.join(empty)}; leave them out by OFFNORMAL_INPUT__FEATURES")


def _scaled(scaler: Scaler, rows: Rows) -> Batch:
    z, present = scaler(torch.from_numpy(np.ascontiguousarray(rows)))
    return z, torch.ones_like(z) if present is None else present


def _train(
    autoencoder: Autoencoder,
    train: Batch,
    held: Batch,
    generator: torch.Generator,
    max_epochs: int,
    progress: Callable[[Round], None],
) -> tuple[float, float, int]:
    """Adam with a cosine down from LEARNING_RATE. Keeps the weights of the best held-out loss.

    -> training loss, held-out loss, rounds
    """
    z, present = train
    epoch = math.ceil(len(z) / BATCH)
    steps = min(ROUND_STEPS, epoch)
    rounds = max_epochs
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, rounds, eta_min=LEARNING_RATE / 20)
    kept = (math.inf, math.inf, copy.deepcopy(autoencoder.state_dict()))
    best, since, number, started = math.inf, 0, 0, time.monotonic()
    while number < rounds and since < PATIENCE:
        number += 1
        autoencoder.train()
        total = torch.zeros(())
        for _ in range(steps):
            index = torch.randint(len(z), (min(BATCH, len(z)),), generator=generator)
            loss = _trimmed_mean(autoencoder.losses(z[index], present[index], generator))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.detach()
        schedule.step()
        autoencoder.eval()
        with torch.no_grad():
            held_loss = float(_trimmed_mean(autoencoder.losses(*held, generator)))
        loss_now = float(total / steps)
        since = 0 if held_loss < best * WORTHWHILE else since + 1
        best = min(best, held_loss) if since == 0 else best
        if held_loss < kept[1]:
            kept = (loss_now, held_loss, copy.deepcopy(autoencoder.state_dict()))
        eta = (time.monotonic() - started) / number * (rounds - number)
        progress(Round(number, rounds, number * steps / epoch, loss_now, held_loss, eta))
    autoencoder.load_state_dict(kept[2])
    return kept[0], kept[1], number


def _trimmed_mean(losses: torch.Tensor) -> torch.Tensor:
    keep = max(1, round(len(losses) * (1 - TRIMMED)))
    return torch.topk(losses, keep, largest=False, sorted=False).values.mean()


def _whiten(autoencoder: Autoencoder, z: torch.Tensor, present: torch.Tensor) -> Whitening:
    """Fits the whitening; then twice again without the rows that it finds farthest out."""
    residual = (z - autoencoder(z)) * present
    whitening = Whitening.fit(residual, present)
    for _ in range(2):
        distance = whitening(residual, present).square().sum(1) / present.sum(1).clamp(min=1)
        near = distance <= distance.kthvalue(max(1, round(len(distance) * (1 - TRIMMED)))).values
        whitening = Whitening.fit(residual[near], present[near])
    return whitening
