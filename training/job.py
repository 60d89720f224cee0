"""One training run: window -> fit -> artefact -> registry."""

import getpass
import platform
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog
import torch

import worker
from training import window
from training.fit import Fitted, Fleet, fit, is_held_out
from training.progress import Shown
from training.window import Window
from worker.engine import pick_device, rate_to_keep
from worker.errors import ArtefactError, NoModelError
from worker.events import iso
from worker.kafka.topics import require
from worker.models import Artefact, Detector, ModelCard
from worker.registry import Registry, RegistryView, new_version
from worker.settings import Settings

log = structlog.get_logger()

Bools = npt.NDArray[np.bool_]


def run(settings: Settings) -> dict[str, Any]:
    """Trains, publishes, promotes; the figures of what it made. Raises OffnormalError."""
    topics = settings.topics
    require(settings, reads=[topics.sensors, topics.anomalies, topics.models], writes=[topics.models])
    registry = Registry(settings)
    view = registry.view()
    parent = view.champion()
    champion = None if parent is None else _detector(view, parent)
    torch.set_num_threads(settings.threads)
    with Shown() as shown:
        rows = window.read(settings, champion.features if champion else None, shown.read)
        fitted_on, held = _split(settings, rows)
        held_out = rows.x[held]
        fitted = fit(
            rows.x[fitted_on],
            held_out,
            rows.features,
            settings.model.kind,
            window=settings.model.window,
            fleet=Fleet(rows.entities, rows.entity[fitted_on], rows.entity[held]) if rows.entities else None,
            champion=champion if _same_rows(champion, rows, settings) else None,
            seed=settings.training.seed,
            steps=settings.training.steps,
            device=pick_device(settings.device),
            progress=shown.fitted,
        )
    counts = {
        "seen": rows.seen,
        "rejected_records": rows.rejected,
        "cold": rows.cold,
        "sampled": len(rows),
        "named_anomalies": int(rows.named.sum()),
        "fitted": int(fitted_on.sum()),
        "held_out": len(held_out),
        "calibrated": fitted.calibrated,
    }
    card = _card(settings, rows, fitted, counts, parent)
    registry.publish(Artefact.make(card, fitted.detector, held_out), who=who(), why="trained")
    log.info("model_promoted", model=card.name, model_version=card.version, parent=parent, **card.quality)
    return {"model": card.name, "version": card.version, "promoted": True, "rows": counts, "quality": card.quality}


def _detector(view: RegistryView, version: str) -> Detector | None:
    """None where it must not be used, as workers do not: what is trained now takes its place."""
    try:
        return Artefact.load(view.artefact(version)).detector
    except (ArtefactError, NoModelError) as error:
        log.warning("champion_not_used", model_version=version, reason=str(error), consequence="a first training")
        return None


def _same_rows(champion: Detector | None, rows: Window, settings: Settings) -> bool:
    """Whether the champion can score the rows."""
    return champion is not None and (champion.features, champion.window) == (rows.features, settings.model.window)


def _split(settings: Settings, rows: Window) -> tuple[Bools, Bools]:
    """[n], [n] Which rows to fit on, and which are held out. Rows that were published as anomalies do not teach, but
    stay among the held-out ones: see training/calibrate.py.
    """
    training = settings.training
    if len(rows) < training.min_rows:
        raise NoModelError(
            f"{len(rows)} rows in the last {training.lookback:g} s of {settings.topics.sensors}"
            f" ({rows.rejected} records did not parse, {rows.cold} rows had no full window), {training.min_rows} are"
            " needed (OFFNORMAL_TRAINING__MIN_ROWS, OFFNORMAL_TRAINING__LOOKBACK)"
        )
    held = is_held_out(len(rows), training.holdout)
    usable = ~held & ~rows.named
    if usable.sum() < training.min_rows // 4:
        raise NoModelError(
            f"{usable.sum()} rows are left to fit on: the other {int((~held & rows.named).sum())} were published as"
            " anomalies. If they are a new normal, look back less far (OFFNORMAL_TRAINING__LOOKBACK)"
        )
    return usable, held


def _card(settings: Settings, rows: Window, fitted: Fitted, counts: dict[str, int], parent: str | None) -> ModelCard:
    made = datetime.fromtimestamp(time.time(), UTC)
    detector, calibration = fitted.detector, fitted.detector.calibration
    per_day = _vectors_per_day(rows)
    asked = settings.detection.budget(per_day)
    promised = rate_to_keep(calibration, asked)
    weights = b"".join(t.numpy().tobytes() for t in detector.module.state_dict().values())
    return ModelCard(
        name=settings.model.name,
        version=new_version(made, weights),
        kind=settings.model.kind,
        architecture=detector.module.autoencoder.architecture(),
        features=rows.features,
        window=settings.model.window,
        entities=detector.entities.names if detector.entities is not None else (),
        created=made.isoformat(timespec="milliseconds"),
        parent=parent,
        rows=counts,
        trained_on={
            "topic": settings.topics.sensors,
            "offsets": {str(partition): offsets for partition, offsets in sorted(rows.offsets.items())},
            "from": iso(int(rows.time[0])),
            "to": iso(int(rows.time[-1])),
        },
        quality={
            "loss": fitted.loss,
            "held_out_loss": fitted.held_out_loss,
            "sparsity": round(fitted.sparsity, 4),
            "fit_seconds": round(fitted.seconds, 2),
            "false_alarm_rate": {"asked": asked, "promisable": calibration.promisable, "promised": promised},
            "threshold": calibration.threshold(promised),
            "vectors_per_day": per_day,
        },
        seed=settings.training.seed,
        libraries={
            "offnormal": worker.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    )


def _vectors_per_day(rows: Window) -> float:
    """As the window saw them; 0 where it spans no time."""
    span = float(rows.time[-1] - rows.time[0]) / 86_400_000
    return round(rows.seen / span, 1) if span > 0 else 0.0


def who() -> str:
    try:
        return f"{getpass.getuser()}@{platform.node()}"
    except (KeyError, OSError):  # a container's user often has no name
        return platform.node()
