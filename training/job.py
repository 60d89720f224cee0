"""One training run: window -> selection -> fit -> artefact -> gate -> registry."""

import platform
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
import structlog
import torch

import worker
from training import gate, report, selection, window
from training.evidence import Known, milliseconds
from training.fit import Fitted, Fleet, fit
from training.gate import Contender, Seen, Verdict
from training.lease import Lease
from training.opinion import Opinion, scaler_rows
from training.progress import Shown
from training.reference import reference
from training.selection import Learned, Selection
from training.window import Window
from worker.engine import pick_device, rate_to_keep
from worker.errors import ArtefactError, NoModelError
from worker.events import iso
from worker.kafka.topics import require
from worker.models import Artefact, Detector, ModelCard
from worker.models.wavelet import newest
from worker.registry import Registry, RegistryView, new_version, now
from worker.settings import Settings
from worker.who import who

log = structlog.get_logger()


def run(settings: Settings, why: str = "asked for by hand") -> dict[str, Any]:
    """Trains, lets the gate judge, and publishes; the figures of what it made. Raises OffnormalError.

    Only one training of a model goes on at a time: another is waited for.
    """
    began = now()
    require(settings, reads=reads(settings), writes=[settings.topics.models])
    torch.set_num_threads(settings.threads)
    report.prepare(settings.training.reports)
    with Lease(settings) as lease, Shown() as shown:
        registry = Registry(settings)
        view = registry.view()
        parent = view.champion()
        champion = None if parent is None else _detector(view, parent)
        log.info("training_begins", model=settings.model.name, why=why, champion=parent)
        rows = window.read(settings, champion.features if champion else None, shown.read)
        if not _same_rows(champion, rows, settings):
            champion = None
        opinion = None if champion is None else Opinion.of(champion, rows.x, rows.entity, rows.entities)
        learned = None if champion is None or parent is None else _learned(view.card(parent))
        selected = selection.select(settings, rows, None if opinion is None else opinion.p_value, learned)
        fitted = _fit(settings, rows, selected, opinion, shown)
        verdict = _judge(settings, rows, selected, fitted.detector, champion, opinion)
        artefact = _artefact(settings, rows, selected, fitted, verdict, parent, why)
        artefact = report.attach(artefact, rows, selected, fitted, verdict, opinion)
        lease.check()
        made = _publish(settings, registry, artefact, verdict, why, began)
        report.keep(settings.training.reports, artefact, made["role"] or "refused")
        return made


def reads(settings: Settings) -> list[str]:
    """The topics that a training reads."""
    topics = settings.topics
    return [topics.sensors, topics.anomalies, topics.models, topics.labels, topics.drift]


def _detector(view: RegistryView, version: str) -> Detector | None:
    """None where it must not be used, as workers do not: what is trained now takes its place."""
    try:
        return Artefact.load(view.artefact(version)).detector
    except (ArtefactError, NoModelError) as error:
        log.warning("champion_not_used", model_version=version, reason=str(error), consequence="a first training")
        return None


def _learned(card: ModelCard) -> Learned | None:
    """The regime that a champion was made of; a card of an earlier release tells of none."""
    begin, until = (milliseconds(at) for at in card.trained_on.get("regime") or (None, None))
    return None if begin is None or until is None else Learned(begin, until)


def _same_rows(champion: Detector | None, rows: Window, settings: Settings) -> bool:
    """Whether the champion can score the rows."""
    return champion is not None and (champion.features, champion.window) == (rows.features, settings.model.window)


def _fit(settings: Settings, rows: Window, selected: Selection, opinion: Opinion | None, shown: Shown) -> Fitted:
    fit_on, held = selected.fit, selected.calibrate
    by_entity = settings.model.scaler == "entity"
    return fit(
        rows.x[fit_on],
        rows.x[held],
        rows.features,
        settings.model.kind,
        window=settings.model.window,
        fleet=Fleet(rows.entities, rows.entity[fit_on], rows.entity[held]) if by_entity else None,
        # Of a new regime the champion knows nothing.
        opinions=None if opinion is None or selected.new else (opinion.take(fit_on), opinion.take(held)),
        seed=settings.training.seed,
        steps=settings.training.steps,
        device=pick_device(settings.device),
        progress=shown.fitted,
    )


def _judge(
    settings: Settings,
    rows: Window,
    selected: Selection,
    made: Detector,
    champion: Detector | None,
    opinion: Opinion | None,
) -> Verdict:
    asked = settings.detection.budget(_vectors_per_day(rows))

    def contender(detector: Detector) -> Contender:
        return Contender(
            detector,
            detector.calibration.promised(asked),
            scaler_rows(detector, rows.entity[selected.gate], rows.entities),
            scaler_rows(detector, rows.confirmed_of, rows.entities),
            asked,
        )

    return gate.judge(
        contender(made),
        None if champion is None else contender(champion),
        rows.x[selected.gate],
        rows.confirmed,
        None if opinion is None or selected.new else _seen(rows, selected, made, opinion),
    )


def _seen(rows: Window, selected: Selection, made: Detector, opinion: Opinion) -> Seen:
    # What a person has dismissed is normal, whatever the champion thinks of it.
    counted = ~rows.is_known(Known.CONFIRMED | Known.FAULTY | Known.DISMISSED)
    counted[: selected.regime or 0] = False
    ours = Opinion.of(made, rows.x[counted], rows.entity[counted], rows.entities)
    return Seen(opinion.p_value[counted], ours.p_value, selected.fit[counted])


def _publish(
    settings: Settings, registry: Registry, artefact: Artefact, verdict: Verdict, why: str, began: str
) -> dict[str, Any]:
    """The artefact in any case, with its verdict; champion, or challenger, if it has passed."""
    card, model = artefact.card, settings.model
    registry.add(artefact)
    reasons = list(verdict.reasons)
    if registry.view().pinned():
        reasons.append("the champion is pinned")
    made = {"model": card.name, "version": card.version, "rows": card.rows, "quality": card.quality}
    told = {"trained_at": began, "trained_for": why, "gate": {"reasons": reasons, **_brief(verdict)}}
    role = None
    if reasons:
        registry.refused(card.version, who(), "; ".join(reasons), **told)
        log.error("model_refused_by_gate", model=card.name, model_version=card.version, reasons=reasons)
    else:
        role = "challenger" if model.shadow_share > 0 and card.parent is not None else "champion"
        registry.promote(card.version, who(), why, role, **told)  # type: ignore[arg-type]
        log.info(f"model_is_{role}", model=card.name, model_version=card.version, parent=card.parent)
    return {**made, "promoted": role == "champion", "role": role, "reasons": reasons}


def _brief(verdict: Verdict) -> dict[str, Any]:
    """What the history says of it; all figures are in the artefact."""
    alarms, injected = verdict.figures["false_alarms"], verdict.figures["injected"]
    return {"promised": alarms["promised"], "observed": alarms["observed"], "detection": injected.get("difference")}


def _artefact(
    settings: Settings,
    rows: Window,
    selected: Selection,
    fitted: Fitted,
    verdict: Verdict,
    parent: str | None,
    why: str,
) -> Artefact:
    made = datetime.fromtimestamp(time.time(), UTC)
    detector, calibration = fitted.detector, fitted.detector.calibration
    per_day = _vectors_per_day(rows)
    asked = settings.detection.budget(per_day)
    promised = rate_to_keep(calibration, asked)
    weights = b"".join(t.numpy().tobytes() for t in detector.module.state_dict().values())
    card = ModelCard(
        name=settings.model.name,
        version=new_version(made, weights),
        kind=settings.model.kind,
        architecture=detector.module.autoencoder.architecture(),
        features=rows.features,
        window=settings.model.window,
        entities=detector.entities.names if detector.entities is not None else (),
        created=made.isoformat(timespec="milliseconds"),
        parent=parent,
        rows={
            "seen": rows.seen,
            "rejected_records": rows.rejected,
            "cold": rows.cold,
            "sampled": len(rows),
            **selected.counts,
            "calibrated": fitted.calibrated,
        },
        trained_on={
            "why": why,
            "topic": settings.topics.sensors,
            "offsets": {str(partition): offsets for partition, offsets in sorted(rows.offsets.items())},
            "from": iso(int(rows.time[0])),
            "to": iso(int(rows.time[-1])),
            "drift": None if selected.drift is None else iso(int(rows.time[selected.drift])),
            "regime": None if selected.learned is None else [iso(at) for at in selected.learned],
            "new_regime": selected.new,
        },
        quality={
            "loss": fitted.loss,
            "held_out_loss": fitted.held_out_loss,
            "sparsity": round(fitted.sparsity, 4),
            "fit_seconds": round(fitted.seconds, 2),
            "false_alarm_rate": {"asked": asked, "promisable": calibration.promisable, "promised": promised},
            "threshold": calibration.threshold(promised),
            "vectors_per_day": per_day,
            "gate": verdict.as_json(),
        },
        seed=settings.training.seed,
        libraries={
            "offnormal": worker.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    )
    return Artefact.make(card, detector, rows.x[selected.calibrate], _reference(rows, selected, detector))


def _reference(rows: Window, selected: Selection, detector: Detector) -> Any:
    """Of the rows that stand for normal operation now."""
    current = np.ones(len(rows), bool)
    current[: selected.regime or 0] = False
    normal = current & (selected.fit | selected.calibrate | selected.gate)
    x = newest(torch.from_numpy(rows.x[normal]), detector.window).numpy()
    held = np.flatnonzero(selected.calibrate & current)
    stretches = np.split(held, np.flatnonzero(np.diff(held) > 1) + 1)
    p_values = [Opinion.of(detector, rows.x[at], rows.entity[at], rows.entities).p_value for at in stretches if len(at)]
    thinned = max(rows.seen / max(len(rows), 1), 1.0)
    return reference(x, rows.entity[normal], rows.entities, p_values, thinned, _vectors_per_day(rows))


def _vectors_per_day(rows: Window) -> float:
    """As the window saw them; 0 where it spans no time."""
    span = float(rows.time[-1] - rows.time[0]) / 86_400_000
    return round(rows.seen / span, 1) if span > 0 else 0.0
