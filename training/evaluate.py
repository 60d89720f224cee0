"""`python -m training evaluate FILES...`: how well the model detects on labelled files, beside other detectors.

Fits on X_train by the code and defaults of `python -m training`, scores X_test by the code of the worker. Labels are
only ever used for figures.
"""

import json
import math
import time
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog
import torch
from rich.console import Console
from rich.table import Table

from training import baselines, metrics
from training.datasets import Dataset, read
from training.fit import Fitted, fit, split
from worker.engine import Engine, Resident, pick_device
from worker.errors import SettingsError
from worker.models import Artefact, ModelCard
from worker.settings import Settings

log = structlog.get_logger()

Figures = dict[str, float]
COMPARED = ("roc_auc", "average_precision", "vus_pr", "vus_roc")  # what a baseline has too
OFFNORMAL = "offnormal"


@dataclass(frozen=True)
class Scored:
    """`score` and `p_value` [n], `contributions` [n, d], one row for each row of X_test."""

    score: npt.NDArray[np.float32]
    p_value: npt.NDArray[np.float64]
    contributions: npt.NDArray[np.float32]


def run(settings: Settings, arguments: Namespace) -> None:
    kind = arguments.kind or settings.model.kind
    against = [name for name in (arguments.against or "").split(",") if name]
    baselines.check(against)
    if not 0 <= arguments.missing < 1:
        raise SettingsError(f"--missing {arguments.missing}: a share from 0 to less than 1")
    # All are read before an hour is spent on the first ones.
    datasets = [_dropped(read(Path(file)), arguments.missing) for file in arguments.files]
    out = Path(arguments.out) if arguments.out else None
    if out:
        out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(settings.threads)
    results: dict[str, dict[str, dict[str, float]]] = {name: {} for name in (OFFNORMAL, *against)}
    for number, data in enumerate(datasets, 1):
        log.info("evaluates", file=data.name, number=number, of=len(datasets), rows=len(data.x_train), kind=kind)
        figures, scored = evaluate(data, settings, kind)
        results[OFFNORMAL][data.name] = figures
        if out:
            np.savez(
                out / f"{data.name}.npz",
                score=scored.score,
                p_value=scored.p_value,
                contributions=scored.contributions,
            )
        for name in against:
            results[name][data.name] = against_baseline(data, name, settings.training.seed)
    _show(results)
    if arguments.json:
        told = {name: {"files": files, "mean": _mean(files.values())} for name, files in results.items()}
        print(json.dumps(_finite({**told.pop(OFFNORMAL), "ranks": _ranks(results), "against": told})))


def evaluate(data: Dataset, settings: Settings, kind: str) -> tuple[Figures, Scored]:
    """The figures of one file, and what they were made from. Raises NoModelError where there is too little to fit."""
    fit_rows, held_out = split(data.x_train, settings.training.holdout)
    fitted = fit(
        fit_rows,
        held_out,
        data.features,
        kind,
        seed=settings.training.seed,
        steps=settings.training.steps,
        device=pick_device(settings.device),
    )
    resident = _resident(data, settings, fitted, kind, held_out)
    begun = time.process_time()
    score = resident.score(data.x_test)
    seconds = time.process_time() - begun
    _, contributions = resident.explain(data.x_test)
    p_value = resident.calibration.p_value(score)
    figures = {"fit_seconds": fitted.seconds, "score_seconds": seconds, "promised_rate": resident.budget}
    if data.y_test is not None:
        flagged = score >= resident.threshold
        figures |= detection(data.y_test, score)
        figures["event_recall"] = metrics.event_recall(data.y_test, flagged)
        figures["observed_rate"] = metrics.false_alarm_rate(data.y_test, flagged)
    if data.interpretation:
        for percent in (100, 150):
            figures[f"hit_rate_{percent}"] = metrics.hit_rate(contributions, data.interpretation, percent)
    return figures, Scored(score, p_value, contributions)


def _dropped(data: Dataset, share: float) -> Dataset:
    """With `share` of the readings of X_test missing."""
    if not share:
        return data
    gone = np.random.default_rng(0).random(data.x_test.shape) < share
    return replace(data, x_test=np.where(gone, np.float32(np.nan), data.x_test))


def against_baseline(data: Dataset, name: str, seed: int) -> Figures:
    begun = time.process_time()
    score = baselines.score(name, data.x_train, data.x_test, seed)
    figures = {"seconds": time.process_time() - begun}
    return figures | (detection(data.y_test, score) if data.y_test is not None else {})


def detection(y: metrics.Labels, score: metrics.Floats) -> Figures:
    """What any detector's ranking is judged by."""
    vus_pr, vus_roc = metrics.vus(y, score)
    return {
        "roc_auc": metrics.roc_auc(y, score),
        "average_precision": metrics.average_precision(y, score),
        "best_f1": metrics.best_f1(y, score),
        "vus_pr": vus_pr,
        "vus_roc": vus_roc,
    }


def _resident(data: Dataset, settings: Settings, fitted: Fitted, kind: str, rows: npt.NDArray[np.float32]) -> Resident:
    """By way of an artefact, as the worker gets it."""
    made = datetime.now(UTC)
    card = ModelCard(
        name=settings.model.name,
        version=f"evaluate-{made:%Y%m%dT%H%M%S}",
        kind=kind,
        architecture=fitted.detector.module.autoencoder.architecture(),
        features=data.features,
        created=made.isoformat(),
        rows={"fitted": len(data.x_train)},
        trained_on={"file": data.name},
        quality={},
        seed=settings.training.seed,
    )
    return Engine(settings).load(Artefact.make(card, fitted.detector, rows).dump())


def _mean(files: Iterable[Figures]) -> Figures:
    found = list(files)
    keys = list(dict.fromkeys(key for figures in found for key in figures))
    values = {key: [f[key] for f in found if key in f and not math.isnan(f[key])] for key in keys}
    return {key: float(np.mean(v)) if v else math.nan for key, v in values.items()}


def _ranks(results: dict[str, dict[str, Figures]]) -> dict[str, Figures]:
    """Mean rank of each detector by each measure, 1 the best; equals share theirs."""
    from scipy.stats import rankdata

    ranks: dict[str, Figures] = {name: {} for name in results}
    for measure in COMPARED:
        table = np.array([[f.get(measure, math.nan) for f in files.values()] for files in results.values()])
        usable = table[:, np.isfinite(table).all(0)]
        if usable.size:
            for name, rank in zip(results, rankdata(-usable, axis=0).mean(1), strict=True):
                ranks[name][measure] = float(rank)
    return ranks


def _finite(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _show(results: dict[str, dict[str, Figures]]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=240)  # a file or a pipe has no width to keep to
    ours = results[OFFNORMAL]
    columns = list(dict.fromkeys(key for figures in ours.values() for key in figures))
    table = Table("file", *columns, title="offnormal", title_justify="left")
    for name, figures in (*ours.items(), ("mean", _mean(ours.values()))):
        table.add_row(name, *(_told(figures.get(column, math.nan)) for column in columns))
    console.print(table)
    if len(results) > 1:
        ranks = _ranks(results)
        table = Table("detector", *(f"{m} (rank)" for m in COMPARED), "seconds", title="means", title_justify="left")
        for name, files in results.items():
            mean = _mean(files.values())
            told = (f"{_told(mean.get(m, math.nan))} ({ranks[name].get(m, math.nan):.2f})" for m in COMPARED)
            seconds = mean.get("seconds", mean.get("fit_seconds", 0.0) + mean.get("score_seconds", 0.0))
            table.add_row(name, *told, _told(seconds))
        console.print(table)


def _told(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"
