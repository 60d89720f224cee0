"""Rows -> detector: scaler, autoencoder, whitening and attribution, then the calibration on the held-out rows."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from training.fitting.calibration_rows import calibrate, explained
from training.fitting.champion_scores import ChampionScores
from training.fitting.held_out_scores import Calibrating, scaled, scoring_module, usual_of
from training.rows.held_out import is_held_out
from worker.errors import NoModelError
from worker.models import KINDS, Autoencoder, Detector, EntityScaler, Scaler, ScoringModule
from worker.native.arrays import Bools, Float32s, Float64s, Int64s

Rows = Float32s

MIN_ROWS: Final = 50
STEPS: Final = 3000
BATCH: Final = 256
LEARNING_RATE: Final = 2e-3
ROUNDS: Final = 30  # evaluations of the held-out loss
LOOKED_AT: Final = 4096  # held-out rows of such an evaluation
# Recent data are mostly, but not all, normal. The worst tenth of each batch is left out of the loss. Otherwise a
# bottleneck learns a frequent fault as one more operating mode (stacked, shuttle with 7 % anomalies: ROC-AUC .66
# without, .999 with). In the denoising kind the drawn noise decides which rows are the worst, so the champion has to
# help (see `_known`).
TRIMMED: Final = 0.1


@dataclass(frozen=True)
class Round:
    """What the progress bar shows after each of the rounds; `eta` in seconds."""

    number: int
    of: int
    epoch: float
    loss: float
    held_out_loss: float
    eta: float


@dataclass(frozen=True)
class Fitted:
    """A fitted detector, and the figures of its fit.

    `calibrated` is the number of held-out rows behind the p-values, and `scores` are the scores of these rows.
    `sparsity` is the share of zeros in their codes.
    """

    detector: Detector
    loss: float
    held_out_loss: float
    sparsity: float
    calibrated: int
    seconds: float
    rounds: Sequence[Round]
    scores: Float64s


@dataclass(frozen=True)
class Fleet:
    """The entities of the rows: `rows` and `held_out` are indices into `names`."""

    names: Sequence[str]
    rows: Int64s
    held_out: Int64s


TrainingBatch = tuple[torch.Tensor, torch.Tensor]  # scaled readings [n, d], and 1 or 0 [n, d] for present or missing


def fit(
    rows: Rows,
    held_out: Rows,
    features: tuple[str, ...],
    kind: str,
    *,
    architecture: dict[str, Any] | None = None,
    window: int = 1,
    fleet: Fleet | None = None,
    opinions: tuple[ChampionScores, ChampionScores] | None = None,
    seed: int = 0,
    steps: int = STEPS,
    device: torch.device | None = None,
    progress: Callable[[Round], None] = lambda _: None,
    calibrating: Calibrating = lambda _, __: None,
) -> Fitted:
    """Fit on `rows` [n, D] and calibrate on `held_out` [m, D], both in the order of time; NaN is missing.

    D is the number of `features`, times the blocks of the `window` (worker/models/wavelet.py). With a `fleet` each
    entity gets its own scaler. The champion's `opinions` on rows and held-out rows show how many of them are not
    normal. `architecture` is passed to the kind's constructor. The fit runs on `device`, by default the CPU, where the
    same seed gives the same model with the same number of threads; the detector is returned on the CPU. Raises
    NoModelError where there are too few rows or a feature has no reading at all.
    """
    started = time.monotonic()
    _refuse(rows, held_out, features)
    entities = None
    if fleet is not None:
        entities = EntityScaler.fit(rows[:, : len(features)], fleet.rows, fleet.names)
        rows = _in_fleet_units(entities, rows, fleet.names, fleet.rows)
        held_out = _in_fleet_units(entities, held_out, fleet.names, fleet.held_out)
    if opinions is not None:
        # A cluster of faults would be learned as one more way of running, whether or not a worker has published it yet.
        rows = rows[_known(opinions[0], opinions[0].score)]
    # Early stopping must not choose the round that fits the faults best.
    looked_at = held_out if opinions is None else held_out[_known(opinions[1], opinions[1].score)]
    trained = _trained(
        rows,
        looked_at,
        kind,
        features=len(features),
        architecture=architecture or {},
        seed=seed,
        steps=steps,
        device=device or torch.device("cpu"),
        progress=progress,
    )
    module, scores, held_out = _whitened(trained, rows, held_out, opinions and opinions[1], calibrating)
    usual = usual_of(module, rows, held_out, len(features), window)
    detector = Detector(features, module, calibrate(scores), window, entities, usual)
    return Fitted(
        detector,
        trained.loss,
        trained.held_out_loss,
        _sparsity(module, held_out[:LOOKED_AT]),
        len(scores),
        seconds=time.monotonic() - started,
        rounds=trained.rounds,
        scores=scores,
    )


class _Trained(NamedTuple):
    scaler: Scaler
    autoencoder: Autoencoder  # on the CPU, no longer to be trained
    loss: float
    held_out_loss: float
    rounds: Sequence[Round]


def _trained(
    rows: Rows,
    looked_at: Rows,
    kind: str,
    *,
    features: int,
    architecture: dict[str, Any],
    seed: int,
    steps: int,
    device: torch.device,
    progress: Callable[[Round], None],
) -> _Trained:
    """Fit the scaler on `rows` [n, D], and train the autoencoder; the loss on `looked_at` [m, D] stops it early."""
    torch.manual_seed(seed)
    scaler = Scaler.fit(rows, features)
    autoencoder = KINDS[kind](rows.shape[1], **architecture).to(device)
    train, held = ([t.to(device) for t in scaled(scaler, part)] for part in (rows, looked_at))
    rounds: list[Round] = []

    def report(r: Round) -> None:
        rounds.append(r)
        progress(r)

    loss, held_out_loss = _train(
        autoencoder=autoencoder,
        train=(train[0], train[1]),
        held=(held[0], held[1]),
        generator=torch.Generator(device).manual_seed(seed),
        steps=steps,
        progress=report,
    )
    autoencoder.eval().requires_grad_(False)
    return _Trained(scaler, autoencoder.cpu(), loss, held_out_loss, rounds)


def _whitened(
    trained: _Trained, rows: Rows, held_out: Rows, opinion: ChampionScores | None, calibrating: Calibrating
) -> tuple[ScoringModule, Float64s, Rows]:
    """Return the module, and the finite scores of the held-out rows that stand for normal operation, with these rows.

    Rows that are not normal must not bend the whitening either, so it is fitted again without them. Raises NoModelError
    where too few rows can be scored.
    """
    module, scores = scoring_module(trained.scaler, trained.autoencoder, rows, held_out, calibrating)
    if opinion is not None:
        held_out = held_out[_known(opinion, scores)]
        module, scores = scoring_module(trained.scaler, trained.autoencoder, rows, held_out, calibrating)
    return module, _finite(scores), held_out


def _sparsity(module: ScoringModule, rows: Rows) -> float:
    """Return the share of zeros in the codes of rows."""
    return float((module.encode(torch.from_numpy(rows)) == 0).float().mean())


def _finite(scores: Float64s) -> Float64s:
    """Return the scores that are numbers. Raises NoModelError where they are too few to set a threshold by."""
    finite = scores[np.isfinite(scores)]
    if len(finite) < 2:
        raise NoModelError(
            f"of {len(scores)} held-out rows fewer than two can be scored, so no threshold can be set: too many"
            " readings are missing (OFFNORMAL_INPUT__FEATURES, OFFNORMAL_DETECTION__MAX_MISSING)"
        )
    return finite


def split(rows: Rows, holdout: float) -> tuple[Rows, Rows]:
    """Return the rows to fit on and the held-out rows (training/rows/held_out.py), both in time order."""
    held = is_held_out(len(rows), holdout)
    return rows[~held], rows[held]


def _refuse(rows: Rows, held_out: Rows, features: tuple[str, ...]) -> None:
    if len(rows) + len(held_out) < MIN_ROWS or not len(held_out):
        raise NoModelError(
            f"{len(rows)} rows and {len(held_out)} held out: {MIN_ROWS} are needed; look back further"
            " (OFFNORMAL_TRAINING__LOOKBACK), or give more rows"
        )
    empty = [name for name, column in zip(features, rows.T, strict=False) if np.isnan(column).all()]
    if empty:
        raise NoModelError(f"no reading at all of: {', '.join(empty)}; leave them out by OFFNORMAL_INPUT__FEATURES")


def _known(opinion: ChampionScores, scores: Float64s) -> Bools:
    """Return [n] False for rows that the champion's false-alarm rate does not explain, largest `scores` first.

    If these are most of the rows, the champion no longer knows the plant, and all rows are kept.
    """
    kept = explained(opinion.p_value, scores)
    return kept if 2 * kept.sum() > len(scores) else np.ones(len(scores), bool)


def _in_fleet_units(entities: EntityScaler, x: Rows, names: Sequence[str], codes: Int64s) -> Rows:
    row = torch.from_numpy(np.array([entities.row(name) for name in names], np.int64)[codes])
    return np.asarray(entities(torch.from_numpy(np.ascontiguousarray(x)), row).numpy())


def _train(
    autoencoder: Autoencoder,
    train: TrainingBatch,
    held: TrainingBatch,
    generator: torch.Generator,
    steps: int,
    progress: Callable[[Round], None],
) -> tuple[float, float]:
    """Train by Adam with one cycle of the learning rate, and keep the weights of the best held-out loss.

    Returns the training loss and the held-out loss of these weights.
    """
    z, present = train
    size = min(BATCH, len(z))
    looked_at = torch.linspace(0, len(held[0]) - 1, min(LOOKED_AT, len(held[0])), device=z.device).long()
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=LEARNING_RATE)
    # A twentieth of the steps warms up, but not exactly .05: of 20 steps that would be one, and the scheduler divides
    # by that number minus one.
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.051)
    kept = (math.inf, math.inf, copy.deepcopy(autoencoder.state_dict()))
    started, done = time.monotonic(), 0
    for number in range(1, ROUNDS + 1):
        autoencoder.train()
        total, until = torch.zeros((), device=z.device), steps * number // ROUNDS
        for _ in range(done, until):
            index = torch.randint(len(z), (size,), generator=generator, device=z.device)
            loss = _trimmed_mean(autoencoder.losses(z[index], present[index], generator))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            cycle.step()
            total += loss.detach()
        if until == done:
            continue
        autoencoder.eval()
        with torch.no_grad():
            # Use the same random numbers each time, since the losses of the rounds are compared with each other.
            chance = torch.Generator(z.device).manual_seed(0)
            losses = autoencoder.losses(held[0][looked_at], held[1][looked_at], chance)
            held_loss = float(_trimmed_mean(losses))
        loss_now = float(total / (until - done))
        if held_loss < kept[1]:
            kept = (loss_now, held_loss, copy.deepcopy(autoencoder.state_dict()))
        done = until
        eta = (time.monotonic() - started) / number * (ROUNDS - number)
        progress(
            Round(number=number, of=ROUNDS, epoch=done * size / len(z), loss=loss_now, held_out_loss=held_loss, eta=eta)
        )
    autoencoder.load_state_dict(kept[2])
    return kept[0], kept[1]


def _trimmed_mean(losses: torch.Tensor) -> torch.Tensor:
    keep = max(1, round(len(losses) * (1 - TRIMMED)))
    return torch.topk(losses, keep, largest=False, sorted=False).values.mean()
