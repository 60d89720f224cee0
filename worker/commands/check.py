"""`python -m worker check`: checks what a worker needs, one line each, with a remedy for what is wrong."""

import json
from argparse import Namespace
from collections.abc import Callable

from rich.console import Console

from worker.errors import KafkaUnavailable, OffnormalError
from worker.observability.terminal_text import in_markup
from worker.settings import Settings


def run(settings: Settings, arguments: Namespace) -> int:
    """Check one thing after another; return the exit code of the first that is wrong, else 0."""
    console = Console(highlight=False, soft_wrap=True)
    code, results = 0, {}
    checks: list[tuple[str, Callable[[Settings], str]]] = [
        ("settings", _settings),
        ("device", _device),
        ("broker", _broker),
        ("topics", _topics),
        ("access", _access),
        ("champion", _champion),
        ("records", _records),
    ]
    if settings.schema_registry.url is not None:
        checks.insert(2, ("schemas", _schemas))
    for name, check in checks:
        try:
            findings, good = check(settings), True
        except OffnormalError as error:
            findings, good = str(error), False
            code = code or error.exit_code
        results[name] = {"ok": good, "detail": findings}
        mark = "[green]ok   [/green]" if good else "[red]wrong[/red]"
        console.print(f"{mark} {name:<9} {in_markup(findings)}")
        if not good and name == "broker":
            break  # all further checks would fail for the same reason
    if arguments.json:
        print(json.dumps({"ok": code == 0, "checks": results}))
    return code


def _settings(settings: Settings) -> str:
    return f"group {settings.kafka.group}, model {settings.model.name}, {settings.delivery}, {settings.input.format}"


def _device(settings: Settings) -> str:
    from worker.serving.device import pick_device

    return str(pick_device(settings.device))


def _schemas(settings: Settings) -> str:
    from worker.schema_registry import SchemaRegistry

    subjects = SchemaRegistry(settings.schema_registry).subjects()
    return f"{settings.schema_registry.url} answers, and has {len(subjects)} subjects"


def _broker(settings: Settings) -> str:
    from worker.kafka.connection import admin

    client = admin(settings.kafka)
    client.close()
    return f"{settings.kafka.bootstrap} answers ({settings.kafka.security_protocol})"


def _topics(settings: Settings) -> str:
    from worker.kafka.topics import create

    states = create(settings, 1, 1, verify_only=True)
    missing = [state.spec.name for state in states if not state.partitions]
    if missing:
        raise KafkaUnavailable(f"no such topic: {', '.join(missing)}; `python -m worker topics` makes them")
    differences = [
        f"{s.spec.name}: {k} is {v}, better {s.spec.config[k]}" for s in states for k, v in s.differs.items()
    ]
    return "; ".join(differences) or ", ".join(f"{s.spec.name} ({s.partitions})" for s in states)


def _access(settings: Settings) -> str:
    """Join a group of its own name (reading), and open what the delivery mode needs (writing)."""
    from worker.blocks import TopicSet
    from worker.kafka import connection, waits
    from worker.kafka.errors import readable_errors

    probe = f"{settings.kafka.group}-check"
    with readable_errors("access", settings.kafka.bootstrap):
        if settings.delivery == "exactly_once":
            client = connection.producer(settings.kafka, transactional_id=probe, max_block_ms=15_000)
            try:
                client.init_transactions()
            finally:
                client.close(timeout=1)
        reader = connection.consumer(settings.kafka, group_id=settings.kafka.group)
        try:
            places = waits.places_of(reader, TopicSet.of(settings.topics.sensors))
            committed = waits.committed_offsets(reader, places, 15)
        finally:
            reader.close(autocommit=False, timeout_ms=waits.CLOSE * 1000)
    return f"group {settings.kafka.group} can be read" + (", and has offsets" if committed else "")


def _champion(settings: Settings) -> str:
    """Check the champion of each model. A model needs none of its own where another one scores its records."""
    from worker.registry import Registry
    from worker.serving.model_swap import ResidentModels

    findings, default = [], settings.model.name
    models = ResidentModels(settings)
    without = {}
    for name in settings.model.names:
        own = settings.model_copy(update={"model": settings.model.model_copy(update={"name": name})})
        view = Registry(own).view()
        version = view.champion()
        if version is None:
            without[name] = view
            continue
        resident = models.load(view.artefact(version))
        models.swap(resident)
        findings.append(
            f"{name}/{version} ({resident.card.kind}, {len(resident.features)} features, window {resident.card.window})"
            " loads, and scores its probe correctly"
        )
    if lacking := models.lacking():
        raise without[lacking[0]].no_champion()
    for name in without:
        scored_by = f"{default}'s scores its records" if name != default else "all keys have to have a route"
        findings.append(f"no champion of {name} yet: {scored_by}")
    return "; ".join(findings)


def _records(settings: Settings) -> str:
    """Look at the last records of the topic, as the settings and the champion would read them."""
    from worker.inference.look import look

    return look(settings).summary()
