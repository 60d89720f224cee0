"""`python -m training models list|show|promote|rollback`: what is in the registry, and which of it is champion."""

import json
from argparse import Namespace

from rich.console import Console
from rich.table import Table

from training.job import who
from worker.errors import ArtefactError, NoModelError
from worker.kafka.topics import require
from worker.models import ModelCard
from worker.registry import Registry, RegistryView
from worker.settings import Settings


def run(settings: Settings, arguments: Namespace) -> None:
    require(settings, reads=[settings.topics.models])
    registry = Registry(settings)
    if arguments.action == "list":
        _list(registry.view(), arguments.json)
    elif arguments.action == "show":
        _show(registry.view(), arguments.version)
    elif arguments.action == "promote":
        _changed(registry.promote(arguments.version, who(), arguments.why), arguments.json)
    else:
        _changed(registry.rollback(who(), arguments.why), arguments.json)


def _list(view: RegistryView, as_json: bool) -> None:
    champion = view.champion()
    table = Table(
        "version", "", "kind", "features", "rows fitted", "held-out loss", "false alarms", "threshold", "parent"
    )
    models: list[dict[str, object]] = []
    for version in view.versions():
        try:
            card = view.card(version)
        except ArtefactError as error:
            table.add_row(version, "", f"damaged: {error}")
            models.append({"version": version, "error": str(error)})
            continue
        role = "champion" if version == champion else ""
        loss, threshold = card.quality.get("held_out_loss", 0.0), card.quality.get("threshold", 0.0)
        rows = card.rows.get("fitted", 0)
        table.add_row(
            version,
            role,
            card.kind,
            str(len(card.features)),
            f"{rows:,}",
            f"{loss:.4f}",
            _promise(card),
            f"{threshold:.3f}",
            card.parent,
        )
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
    if as_json:
        print(json.dumps({"model": view.name, "champion": champion, "versions": models}))
    else:
        Console(soft_wrap=True).print(
            table if view.versions() else f"no model {view.name}: `python -m training` makes one"
        )


def _promise(card: ModelCard) -> str:
    rate = card.quality.get("false_alarm_rate")
    if not isinstance(rate, dict):
        return ""
    asked, promised = rate.get("asked", 0.0), rate.get("promised", 0.0)
    return f"{promised:.2g}" if promised <= asked else f"{promised:.2g} (asked {asked:.2g})"


def _show(view: RegistryView, version: str | None) -> None:
    chosen = version or view.champion()
    if chosen is None:
        raise NoModelError(f"no champion of {view.name}; `python -m training` makes and promotes one")
    print(json.dumps(json.loads(view.card(chosen).model_dump_json()), indent=2))


def _changed(view: RegistryView, as_json: bool) -> None:
    last = view.history()[-1]
    print(json.dumps(last) if as_json else f"champion of {view.name}: {last.get('from')} -> {last['version']}")
