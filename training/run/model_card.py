"""A model's card and artefact, as training makes them."""

import platform
import time
from datetime import UTC, datetime

import numpy as np
import torch

import worker
from training.data.selection import Selection
from training.data.window import Window
from training.fitting.champion_scores import ChampionScores
from training.fitting.drift_reference import reference
from training.fitting.fit import Fitted
from training.gate.gate import Verdict
from worker.blocks import TopicSet
from worker.blocks.timestamps import iso
from worker.models import Artefact, Detector, ModelCard, Promise, Reference
from worker.models.wavelet import newest
from worker.registry import new_version
from worker.serving.model_swap import promise_of
from worker.settings import Settings


def make_artefact(
    settings: Settings,
    rows: Window,
    selected: Selection,
    fitted: Fitted,
    verdict: Verdict,
    parent: str | None,
    why: str,
) -> Artefact:
    """Return the artefact of a fitted detector, with its card."""
    created = datetime.fromtimestamp(time.time(), UTC)
    detector, calibration = fitted.detector, fitted.detector.calibration
    per_day = vectors_per_day(rows)
    requested = settings.detection.budget(per_day)
    promise = promise_of(calibration, requested)
    weights = b"".join(t.numpy().tobytes() for t in detector.module.state_dict().values())
    card = ModelCard(
        name=settings.model.name,
        version=new_version(created, weights),
        kind=settings.model.kind,
        architecture=detector.module.autoencoder.architecture(),
        features=rows.features,
        window=settings.model.window,
        entities=detector.entities.names if detector.entities is not None else (),
        created=created.isoformat(timespec="milliseconds"),
        parent=parent,
        rows={
            "seen": rows.seen,
            "rejected_records": len(rows.rejected),
            "cold": rows.cold,
            "sampled": len(rows),
            **selected.counts,
            "calibrated": fitted.calibrated,
        },
        trained_on={
            "why": why,
            "topic": settings.topics.sensors,
            "offsets": _offsets(settings, rows),
            "from": iso(int(rows.time[0])),
            "to": iso(int(rows.time[-1])),
            "interval": rows.interval,
            **({} if rows.holds is None else {"holds": rows.holds.tolist()}),
            "drift": None if selected.drift is None else iso(int(rows.time[selected.drift])),
            "regime": None if selected.learned is None else [iso(time_ms) for time_ms in selected.learned],
            "new_regime": selected.new,
        },
        quality={
            "loss": fitted.loss,
            "held_out_loss": fitted.held_out_loss,
            "sparsity": round(fitted.sparsity, 4),
            "fit_seconds": round(fitted.seconds, 2),
            "false_alarm_rate": _false_alarm_rate(promise, rows),
            "threshold": promise.threshold,
            "vectors_per_day": per_day,
            "gate": verdict.as_json(),
        },
        seed=settings.training.seed,
        libraries=_libraries(),
    )
    return Artefact.make(card, detector, rows.x[selected.calibrate], _reference(rows, selected, detector))


def _false_alarm_rate(promise: Promise, rows: Window) -> dict[str, float]:
    """Return what the card says of the rate: asked, expected, at most (with 90 %), and how many hours would do better.

    `promised` is the name that the rate had when a lower one than that could be promised.
    """
    hours = float(rows.time[-1] - rows.time[0]) / 3_600_000
    return {
        "asked": promise.asked,
        "promised": promise.asked,
        "expected": promise.expected,
        "at_most": promise.at_most,
        "hours_lacking": round((promise.lacking - 1) * hours, 1),
    }


def _libraries() -> dict[str, str]:
    """Return the versions that the artefact was made with."""
    return {
        "offnormal": worker.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _reference(rows: Window, selected: Selection, detector: Detector) -> Reference:
    """Return the reference of drift detection, from the rows that stand for present normal operation."""
    current = np.ones(len(rows), bool)
    current[: selected.regime or 0] = False
    normal = current & (selected.fit | selected.calibrate | selected.gate)
    x = newest(torch.from_numpy(rows.x[normal]), detector.window).numpy()
    # Of a sensor that sends with every other vector only, no newest reading is known, but its level is.
    x = np.where(np.isnan(x).all(0), rows.x[normal][:, : x.shape[1]], x)
    held = np.flatnonzero(selected.calibrate & current)
    stretches = np.split(held, np.flatnonzero(np.diff(held) > 1) + 1)
    p_values = [
        ChampionScores.of(detector, rows.x[rows_held], rows.entity[rows_held], rows.entities).p_value
        for rows_held in stretches
        if len(rows_held)
    ]
    thinned = max(rows.seen / max(len(rows), 1), 1.0)
    return reference(
        x=x,
        entity=rows.entity[normal],
        names=rows.entities,
        p_values=p_values,
        thinned=thinned,
        vectors_per_day=vectors_per_day(rows),
    )


def vectors_per_day(rows: Window) -> float:
    """Return the rate at which the window's vectors came; 0 if it spans no time."""
    span = float(rows.time[-1] - rows.time[0]) / 86_400_000
    return round(rows.seen / span, 1) if span > 0 else 0.0


def _offsets(settings: Settings, rows: Window) -> dict[str, list[int]]:
    """Return the first and the last offset of each partition, by the partition as it is shown."""
    topics = TopicSet.of(settings.topics.sensors)
    return {str(topics.shown(partition)): offsets for partition, offsets in sorted(rows.offsets.items())}
