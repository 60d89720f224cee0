"""`python -m training evaluate FILES...`: evaluates the model on labelled files, compared with other detectors.

Fits on X_train with the code and defaults of `python -m training`, and scores X_test with the worker's code. Labels are
used only for the figures.
"""

import json
import math
import time
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from rich.console import Console
from rich.table import Table

from training.data.series import windows
from training.evaluation import baselines, scores
from training.evaluation.datasets import Dataset, read
from training.evaluation.series_scores import followed
from training.fitting.fit import Fitted, Fleet, Rows, fit, split
from worker.errors import NoModelError, SettingsError
from worker.models import Artefact, ModelCard
from worker.native.arrays import Float32s, Float64s, Floats
from worker.serving.device import pick_device
from worker.serving.loaded_model import LoadedModel
from worker.serving.model_swap import ResidentModels
from worker.settings import Settings

log = structlog.get_logger()

Figures = dict[str, float]
COMPARED = ("roc_auc", "average_precision", "vus_pr", "vus_roc")  # figures that baselines have as well
OFFNORMAL = "offnormal"
# One model for all files, with `--fleet`.
FLEET, BY_ENTITY = "one model", "one model, a scaler each"


@dataclass(frozen=True)
class Scored:
    """`score` and `p_value` [n], `contributions` [n, d], one row for each row of X_test."""

    score: Float32s
    p_value: Float64s
    contributions: Float32s


def run(settings: Settings, arguments: Namespace) -> None:
    """Evaluate labelled files, and print the figures."""
    kind = arguments.kind or settings.model.kind
    if arguments.no_follow:
        detection = settings.detection.model_copy(update={"follow": False})
        settings = settings.model_copy(update={"detection": detection})
    against = [name for name in (arguments.against or "").split(",") if name]
    baselines.check(against)
    if not 0 <= arguments.missing < 1:
        raise SettingsError(f"--missing {arguments.missing}: a share from 0 to less than 1")
    # All files are read first, so that a malformed one does not show only after an hour.
    datasets = [_dropped(read(Path(file)), arguments.missing) for file in arguments.files]
    out = Path(arguments.out) if arguments.out else None
    if out:
        out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(settings.threads)
    results: dict[str, dict[str, Figures]] = {name: {} for name in (OFFNORMAL, *against)}
    for number, data in enumerate(datasets, 1):
        log.info(
            "evaluation_started", file=data.name, number=number, of=len(datasets), rows=len(data.x_train), kind=kind
        )
        try:
            figures, scored = evaluate(data, settings, kind)
        except NoModelError as error:
            log.warning("file_skipped", file=data.name, reason=str(error))
            continue
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
    if not results[OFFNORMAL]:
        raise NoModelError(f"none of the {len(datasets)} files has enough rows; the log says what each lacks")
    if arguments.fleet:
        datasets = [data for data in datasets if data.name in results[OFFNORMAL]]
        for name, scalers in ((FLEET, False), (BY_ENTITY, True)):
            log.info("evaluation_started", model=name, files=len(datasets), kind=kind)
            results[name] = fleet(datasets, settings, kind, scalers)
    _show(results)
    if arguments.json:
        report = {name: {"files": files, "mean": _mean(files.values())} for name, files in results.items()}
        print(json.dumps(_finite({**report.pop(OFFNORMAL), "ranks": _ranks(results), "against": report})))


def evaluate(data: Dataset, settings: Settings, kind: str) -> tuple[Figures, Scored]:
    """Return the figures of one file, and what they were made from.

    Raises NoModelError where there is too little to fit.
    """
    fit_rows, held_out = split(windows(data.x_train, settings, padded=False), settings.training.holdout)
    fitted = _fit(rows=fit_rows, held_out=held_out, features=data.features, settings=settings, kind=kind, fleet_of=None)
    return _judged(
        data,
        _resident(
            name=data.name, features=data.features, settings=settings, fitted=fitted, kind=kind, held_out=held_out
        ),
        settings,
        fitted,
    )


def fleet(datasets: Sequence[Dataset], settings: Settings, kind: str, scalers: bool) -> dict[str, Figures]:
    """Return the figures of each file by one model fitted to all files; `scalers` gives each file its own scaler.

    Raises SettingsError where the files do not have the same features.
    """
    features = datasets[0].features
    if any(data.features != features for data in datasets):
        raise SettingsError("--fleet: the files must have the same features")
    parts = [split(windows(data.x_train, settings, padded=False), settings.training.holdout) for data in datasets]
    rows, held_out = (np.concatenate(x) for x in zip(*parts, strict=True))
    names = [data.name for data in datasets]
    machines = [np.repeat(np.arange(len(parts)), [len(part[k]) for part in parts]) for k in (0, 1)]
    fitted = _fit(
        rows=rows,
        held_out=held_out,
        features=features,
        settings=settings,
        kind=kind,
        fleet_of=Fleet(names, *machines) if scalers else None,
    )
    resident = _resident(
        name="fleet", features=features, settings=settings, fitted=fitted, kind=kind, held_out=held_out
    )
    return {data.name: _judged(data, resident, settings, fitted)[0] for data in datasets}


def _fit(
    rows: Rows, held_out: Rows, features: tuple[str, ...], settings: Settings, kind: str, fleet_of: Fleet | None
) -> Fitted:
    return fit(
        rows,
        held_out,
        features,
        kind,
        window=settings.model.window,
        fleet=fleet_of,
        seed=settings.training.seed,
        steps=settings.training.steps,
        device=pick_device(settings.device),
    )


def _judged(data: Dataset, resident: LoadedModel, settings: Settings, fitted: Fitted) -> tuple[Figures, Scored]:
    x = windows(data.x_test, settings, padded=True)
    entity = resident.entity_rows([data.name] * len(x), None)
    begun = time.process_time()
    score = resident.score(x, entity)
    seconds = time.process_time() - begun
    if settings.detection.follow and data.is_later:
        score, explained = followed(resident, x, entity)
    else:
        explained = resident.explain(x, entity)
    p_value = resident.calibration.p_value(score)
    figures = {
        "fit_seconds": fitted.seconds,
        "score_seconds": seconds,
        "asked_rate": resident.budget,
        "expected_rate": resident.expected_rate,
    }
    if data.y_test is not None:
        flagged = score >= resident.threshold
        figures |= detection(data.y_test, score)
        figures["event_recall"] = scores.event_recall(data.y_test, flagged)
        figures["observed_rate"] = scores.false_alarm_rate(data.y_test, flagged)
    if data.interpretation:
        evidence = explained.contributions * explained.strength[:, None]  # as an incident adds it up
        for percent in (100, 150):
            figures[f"hit_rate_{percent}"] = scores.hit_rate(evidence, data.interpretation, percent)
    return figures, Scored(score, p_value, explained.contributions)


def _dropped(data: Dataset, share: float) -> Dataset:
    """Return the data with `share` of the readings of X_test missing."""
    if not share:
        return data
    is_dropped = np.random.default_rng(0).random(data.x_test.shape) < share
    return replace(data, x_test=np.where(is_dropped, np.float32(np.nan), data.x_test))


def against_baseline(data: Dataset, name: str, seed: int) -> Figures:
    """Return a baseline's figures on a set of data."""
    begun = time.process_time()
    score = baselines.score(name, data.x_train, data.x_test, seed)
    figures = {"seconds": time.process_time() - begun}
    return figures | (detection(data.y_test, score) if data.y_test is not None else {})


def detection(y: scores.Labels, score: Floats) -> Figures:
    """Return the figures by which any detector's ranking is judged."""
    vus_pr, vus_roc = scores.vus(y, score)
    return {
        "roc_auc": scores.roc_auc(y, score),
        "average_precision": scores.average_precision(y, score),
        "best_f1": scores.best_f1(y, score),
        "vus_pr": vus_pr,
        "vus_roc": vus_roc,
    }


def _resident(
    name: str, features: tuple[str, ...], settings: Settings, fitted: Fitted, kind: str, held_out: Rows
) -> LoadedModel:
    """Load the model by way of an artefact, as the worker gets it."""
    created, detector = datetime.now(UTC), fitted.detector
    card = ModelCard(
        name=settings.model.name,
        version=f"evaluate-{created:%Y%m%dT%H%M%S}",
        kind=kind,
        architecture=detector.module.autoencoder.architecture(),
        features=features,
        window=detector.window,
        entities=detector.entities.names if detector.entities is not None else (),
        created=created.isoformat(),
        rows={"calibrated": fitted.calibrated},
        trained_on={"file": name},
        quality={},
        seed=settings.training.seed,
    )
    return ResidentModels(settings).load(Artefact.make(card, detector, held_out).dump())


def _mean(files: Iterable[Figures]) -> Figures:
    per_file = list(files)
    keys = list(dict.fromkeys(key for figures in per_file for key in figures))
    values = {key: [f[key] for f in per_file if key in f and not math.isnan(f[key])] for key in keys}
    return {key: float(np.mean(v)) if v else math.nan for key, v in values.items()}


def _ranks(results: dict[str, dict[str, Figures]]) -> dict[str, Figures]:
    """Return each detector's mean rank by each measure; 1 is the best, and ties share a rank."""
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
    """Replace NaN by None, since JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _show(results: dict[str, dict[str, Figures]]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=240)  # a file or a pipe has no width to keep to
    own_results = results[OFFNORMAL]
    columns = list(dict.fromkeys(key for figures in own_results.values() for key in figures))
    table = Table("file", *columns, title="offnormal", title_justify="left")
    for name, figures in (*own_results.items(), ("mean", _mean(own_results.values()))):
        table.add_row(name, *(_cell(figures.get(column, math.nan)) for column in columns))
    console.print(table)
    if len(results) > 1:
        ranks = _ranks(results)
        table = Table("detector", *(f"{m} (rank)" for m in COMPARED), "seconds", title="means", title_justify="left")
        for name, files in results.items():
            mean = _mean(files.values())
            cells = (f"{_cell(mean.get(m, math.nan))} ({ranks[name].get(m, math.nan):.2f})" for m in COMPARED)
            seconds = mean.get("seconds", mean.get("fit_seconds", 0.0) + mean.get("score_seconds", 0.0))
            table.add_row(name, *cells, _cell(seconds))
        console.print(table)


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"
