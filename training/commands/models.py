"""`python -m training models list|show|compare|promote|rollback|pin|history`: the versions in the registry."""

import json
from argparse import Namespace
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from training.report.false_alarms import false_alarms_text
from worker.blocks.timestamps import iso
from worker.errors import ArtefactError, NoModelError, SettingsError
from worker.kafka.topics import require
from worker.models import ModelCard
from worker.observability.terminal_text import in_markup, printable
from worker.registry import Registry, RegistryView
from worker.registry.operator import who
from worker.settings import Settings


def run(settings: Settings, arguments: Namespace) -> None:
    """List, show, compare, promote, roll back or pin versions of a model."""
    changes = arguments.action in ("promote", "rollback", "pin")
    models = [settings.topics.models]
    require(settings, reads=models, writes=models if changes else [])
    registry = Registry(settings)
    if arguments.action == "list":
        _list(registry.view(), arguments.json)
    elif arguments.action == "show":
        _show(registry.view(), arguments.version)
    elif arguments.action == "promote":
        _changed(registry.promote(arguments.version, who(), arguments.why), arguments.json)
    elif arguments.action == "rollback":
        _changed(registry.rollback(who(), arguments.why), arguments.json)
    elif arguments.action == "pin":
        version = None if arguments.off else arguments.version or registry.view().require_champion()
        _changed(registry.pin(version, who(), arguments.why), arguments.json)
    elif arguments.action == "compare":
        _compare(registry.view(), arguments.versions, arguments.json)
    else:
        _history(registry.view(), arguments.json)


def _list(view: RegistryView, as_json: bool) -> None:
    champion = view.champion()
    table = Table(
        "version", "", "kind", "features", "rows fitted", "held-out loss", "false alarms", "threshold", "parent"
    )
    models: list[dict[str, object]] = []
    for version in view.versions():
        try:
            card = view.card(version)
            row = _row(view, card, version)
        except (ArtefactError, *_NONSENSE) as error:
            row = [version, "", f"damaged: {error}"]
            models.append({"version": version, "error": str(error)})
        else:
            models.append(
                {
                    "version": version,
                    "champion": version == champion,
                    "kind": card.kind,
                    "rows": card.rows,
                    "quality": card.quality,
                    "parent": card.parent,
                    "created": card.created,
                }
            )
        table.add_row(*map(in_markup, row))
    if as_json:
        print(json.dumps({"model": view.name, "champion": champion, "versions": models}))
    else:
        Console(soft_wrap=True).print(
            table if view.versions() else f"no model {view.name}: `python -m training` makes one"
        )


# The errors that a malformed card may raise, since its training figures can be any JSON.
_NONSENSE: Final = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)


def _row(view: RegistryView, card: ModelCard, version: str) -> list[str]:
    """Return the cells of the table. Raises one of _NONSENSE where the card is malformed."""
    role = " ".join(alias for alias, record in view.aliases.items() if record.version == version and alias != "pin")
    role += " (pinned)" if version == view.champion() and view.pinned() else ""
    loss, threshold = card.quality.get("held_out_loss", 0.0), card.quality.get("threshold", 0.0)
    return [
        version,
        role,
        card.kind,
        str(len(card.features)),
        f"{card.rows.get('fitted', 0):,}",
        f"{loss:.4f}",
        _promise(card),
        f"{threshold:.3f}",
        card.parent or "",
    ]


def _promise(card: ModelCard) -> str:
    rate = card.quality.get("false_alarm_rate")
    if not isinstance(rate, dict):
        return ""
    return false_alarms_text(rate)


def _show(view: RegistryView, version: str | None) -> None:
    card = view.card(version or view.require_champion())
    print(json.dumps({**json.loads(card.model_dump_json()), "trims": _trims(view, card)}, indent=2))


def _trims(view: RegistryView, card: ModelCard) -> list[dict[str, Any]]:
    """Return what scoring by this version allows for since its training, by partition (worker/models/trim.py)."""
    return [
        {
            "partition": place,
            "records": len(placed.written),
            "written": iso(placed.written[-1]),
            "entities": len(placed.trims),
            "largest_shift": round(max((float(abs(t.shift).max()) for t in placed.trims.values()), default=0.0), 3),
            "loosest": round(max((float(t.looseness.max()) for t in placed.trims.values()), default=0.0), 3),
            "ignored": {
                placed.names.get(entity) or f"{entity:016x}": [
                    card.features[j] for j in t.ignored.nonzero()[0].tolist()
                ]
                for entity, t in placed.trims.items()
                if t.ignored.any()
            },
        }
        for place, placed in view.placed_trims(card).items()
    ]


def _compare(view: RegistryView, versions: list[str], as_json: bool) -> None:
    if len(versions) > 2:
        raise SettingsError("compare: two versions at most; `python -m training models list` shows them")
    if len(versions) < 2:
        before = versions[0] if versions else view.predecessor()
        if before is None:
            raise NoModelError(f"the champion of {view.name} has no predecessor to compare it with; name two versions")
        versions = [before, view.require_champion()]
    cards = [_figures_of(view, version) for version in versions]
    if as_json:
        print(json.dumps(dict(zip(versions, cards, strict=True))))
        return
    table = Table("", *map(in_markup, versions))
    for name in dict.fromkeys(name for card in cards for name in card):
        table.add_row(in_markup(name), *(in_markup(_shown(card.get(name))) for card in cards))
    Console(soft_wrap=True).print(table)


def _figures_of(view: RegistryView, version: str) -> dict[str, Any]:
    """Return a version's figures. Raises NoModelError, ArtefactError."""
    try:
        return _figures(view.card(version))
    except _NONSENSE as error:
        raise ArtefactError(f"the card of {version} makes no sense: {error!r}") from None


def _figures(card: ModelCard) -> dict[str, Any]:
    """Return the figures by which two versions are compared."""
    quality, gate = card.quality, card.quality.get("gate") or {}
    figures: dict[str, Any] = {
        "made": card.created,
        "why": card.trained_on.get("why"),
        "kind": card.kind,
        "trained from": card.trained_on.get("from"),
        "trained to": card.trained_on.get("to"),
        "regime since": (card.trained_on.get("regime") or [None])[0],
        "drift since": card.trained_on.get("drift"),
        **{f"rows {use}": count for use, count in card.rows.items()},
        "held-out loss": quality.get("held_out_loss"),
        "threshold": quality.get("threshold"),
        "false alarms promised": (quality.get("false_alarm_rate") or {}).get("promised"),
        "false alarms expected": (quality.get("false_alarm_rate") or {}).get("expected"),
        "false alarms at most": (quality.get("false_alarm_rate") or {}).get("at_most"),
        "false alarms observed": gate.get("false_alarms", {}).get("observed"),
    }
    for fault in gate.get("injected", {}).get("faults", []):
        size = f" {fault['size']:g} sd" if fault["size"] else ""
        figures[f"finds {fault['kind']}{size}"] = fault["recall"]
    figures["finds confirmed"] = gate.get("confirmed", {}).get("recall")
    figures["gate"] = "; ".join(gate.get("reasons", [])) or "passed" if gate else None
    return {name: value for name, value in figures.items() if value is not None}


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


def _history(view: RegistryView, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"model": view.name, "history": view.history()}))
        return
    console = Console(soft_wrap=True, highlight=False)
    for entry in view.history():
        console.print(printable(_line(entry)), markup=False)


def _line(entry: dict[str, Any]) -> str:
    decision, version, before = entry.get("what") or "promoted", entry.get("version"), entry.get("from")
    instead = f" in place of {before}" if before and before != version else ""
    return f"{entry.get('when')}  {decision:<18} {version}{instead}, by {entry.get('who')}: {entry.get('why')}"


def _changed(view: RegistryView, as_json: bool) -> None:
    last = view.history()[-1]
    text = f"champion of {view.name}: {last.get('from')} -> {view.champion()}"
    print(json.dumps(last) if as_json else printable(text))
