"""One training run: window -> selection -> fit -> artefact -> gate -> registry."""

from typing import Any

import structlog
import torch

from training.data import selection, window
from training.data.evidence import VectorFlags
from training.data.selection import Learned, Selection
from training.data.window import Window
from training.fitting.champion_scores import ChampionScores, scaler_rows
from training.fitting.fit import Fitted, Fleet, fit
from training.gate import gate
from training.gate.gate import Candidate, Seen, Verdict
from training.report import report
from training.report.false_alarms import false_alarms_text
from training.run.lease import Lease
from training.run.model_card import make_artefact, vectors_per_day
from training.run.progress import Shown
from worker.blocks.timestamps import milliseconds
from worker.errors import ArtefactError, NoModelError
from worker.kafka.topics import require
from worker.models import Artefact, Detector, ModelCard
from worker.observability.terminal_text import printable
from worker.registry import Registry, RegistryView, now
from worker.registry.operator import who
from worker.serving.device import pick_device
from worker.settings import Settings

log = structlog.get_logger()


def run(settings: Settings, why: str = "asked for by hand") -> dict[str, Any]:
    """Train, let the gate judge, publish, and return the figures of the new model. Raises OffnormalError.

    Only one training of a model runs at a time; another one is waited for.
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
        log.info("training_started", model=settings.model.name, why=why, champion=parent)
        rows = window.read(settings, champion.features if champion else None, shown.read)
        if not _same_rows(champion, rows, settings):
            champion = None
        opinion = None if champion is None else ChampionScores.of(champion, rows.x, rows.entity, rows.entities)
        learned = None if champion is None or parent is None else _learned(view.card(parent))
        selected = selection.select(settings, rows, None if opinion is None else opinion.p_value, learned)
        fitted = _fit(settings, rows, selected, opinion, shown)
        verdict = _judge(
            settings=settings,
            rows=rows,
            selected=selected,
            fitted_detector=fitted.detector,
            champion=champion,
            opinion=opinion,
        )
        artefact = make_artefact(
            settings=settings, rows=rows, selected=selected, fitted=fitted, verdict=verdict, parent=parent, why=why
        )
        artefact = report.attach(
            artefact=artefact, rows=rows, selected=selected, fitted=fitted, verdict=verdict, champion=opinion
        )
        lease.check()
        result = _publish(
            settings=settings, registry=registry, artefact=artefact, verdict=verdict, why=why, began=began
        )
        report.keep(settings.training.reports, artefact, result["role"] or "refused")
        return result


def reads(settings: Settings) -> list[str]:
    """Return the topics that a training reads."""
    topics = settings.topics
    births = [topics.births] if settings.input.is_sparkplug else []
    return [*births, topics.sensors, topics.anomalies, topics.models, topics.labels, topics.drift]


def _detector(view: RegistryView, version: str) -> Detector | None:
    """Load the champion's detector; return None if it must not be used. Workers do not use it then, either."""
    try:
        return Artefact.load(view.artefact(version)).detector
    except (ArtefactError, NoModelError) as error:
        log.warning("champion_ignored", model_version=version, reason=str(error), consequence="a first training")
        return None


def _learned(card: ModelCard) -> Learned | None:
    """Return the regime that a champion was trained on; None if its card is malformed or of an earlier release."""
    regime_range = card.trained_on.get("regime")
    begin, until = map(
        milliseconds, regime_range if isinstance(regime_range, list) and len(regime_range) == 2 else (None, None)
    )
    return None if begin is None or until is None else Learned(begin, until)


def _same_rows(champion: Detector | None, rows: Window, settings: Settings) -> bool:
    """Return whether the champion can score the rows."""
    return champion is not None and (champion.features, champion.window) == (rows.features, settings.model.window)


def _fit(settings: Settings, rows: Window, selected: Selection, opinion: ChampionScores | None, shown: Shown) -> Fitted:
    fit_on, held = selected.fit, selected.calibrate
    by_entity = settings.model.scaler == "entity"
    return fit(
        rows.x[fit_on],
        rows.x[held],
        rows.features,
        settings.model.kind,
        window=settings.model.window,
        fleet=Fleet(rows.entities, rows.entity[fit_on], rows.entity[held]) if by_entity else None,
        # The champion knows nothing about a new regime.
        opinions=None if opinion is None or selected.new else (opinion.take(fit_on), opinion.take(held)),
        seed=settings.training.seed,
        steps=settings.training.steps,
        device=pick_device(settings.device),
        progress=shown.fitted,
        calibrating=shown.calibrated,
    )


def _judge(
    settings: Settings,
    rows: Window,
    selected: Selection,
    fitted_detector: Detector,
    champion: Detector | None,
    opinion: ChampionScores | None,
) -> Verdict:
    requested = settings.detection.budget(vectors_per_day(rows))

    def contender(detector: Detector) -> Candidate:
        return Candidate(
            detector,
            requested,
            scaler_rows(detector, rows.entity[selected.gate], rows.entities),
            scaler_rows(detector, rows.confirmed_of, rows.entities),
        )

    return gate.judge(
        contender(fitted_detector),
        None if champion is None else contender(champion),
        rows.x[selected.gate],
        rows.confirmed,
        None if opinion is None or selected.new else _seen(rows, selected, fitted_detector, opinion),
    )


def _seen(rows: Window, selected: Selection, detector: Detector, opinion: ChampionScores) -> Seen:
    # Rows that a person has dismissed are normal, whatever the champion's p-values are.
    counted = ~rows.is_known(VectorFlags.CONFIRMED | VectorFlags.FAULTY | VectorFlags.DISMISSED)
    counted[: selected.regime or 0] = False
    own_scores = ChampionScores.of(detector, rows.x[counted], rows.entity[counted], rows.entities)
    return Seen(opinion.p_value[counted], own_scores.p_value, selected.fit[counted])


def _publish(
    settings: Settings, registry: Registry, artefact: Artefact, verdict: Verdict, why: str, began: str
) -> dict[str, Any]:
    """Publish the artefact with its verdict in any case; make it champion, or challenger, if it has passed."""
    card, model = artefact.card, settings.model
    registry.add(artefact)
    reasons = list(verdict.reasons)
    if registry.view().pinned():
        reasons.append("the champion is pinned [gate-pinned]")
    result = {"model": card.name, "version": card.version, "rows": card.rows, "quality": card.quality}
    details = {"trained_at": began, "trained_for": why, "gate": {"reasons": reasons, **_brief(verdict)}}
    role = None
    if reasons:
        registry.refused(card.version, who(), "; ".join(reasons), **details)
        log.error("challenger_refused", model=card.name, model_version=card.version, reasons=reasons)
    else:
        role = "challenger" if model.shadow_share > 0 and card.parent is not None else "champion"
        registry.promote(card.version, who(), why, role, **details)  # type: ignore[arg-type]
        if role == "champion":
            log.info("champion_promoted", model=card.name, model_version=card.version, parent=card.parent)
        else:
            log.info("challenger_published", model=card.name, model_version=card.version, parent=card.parent)
    return {**result, "promoted": role == "champion", "role": role, "reasons": reasons}


def _brief(verdict: Verdict) -> dict[str, Any]:
    """Return the part of the verdict that goes into the history; the artefact has all figures."""
    alarms, injected = verdict.figures["false_alarms"], verdict.figures["injected"]
    return {"promised": alarms["promised"], "observed": alarms["observed"], "detection": injected.get("difference")}


def told(result: dict[str, Any]) -> str:
    """Return the outcome of a training in one line for a person."""
    quality, rows = result["quality"], result["rows"]
    text = (
        f"{result['model']}/{result['version']} "
        + (f"is {result['role']}" if result["role"] else f"was refused by the gate: {'; '.join(result['reasons'])}")
        + f": fitted on {rows['fitted']:,} rows in {quality['fit_seconds']} s,"
        f" held-out loss {quality['held_out_loss']:.4f}; threshold {quality['threshold']:.3f}, calibrated on"
        f" {rows['calibrated']:,} rows; false alarms: {false_alarms_text(quality['false_alarm_rate'])}"
        + ("" if result["role"] else f"; `python -m training models promote {result['version']}` overrules it")
    )
    return printable(text)
