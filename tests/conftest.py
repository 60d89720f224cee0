"""Fixtures: one broker for the whole session, a stage of its own for each test, and a small model that is quick."""

import contextlib
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.brokers import ApacheKafka, Broker, any_broker, can_run_apache
from tests.models import make_artefact
from tests.stage import Stage
from worker.models import Artefact

_running: list[Broker] = []


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    shared = getattr(request.config, "workerinput", {}).get("broker")  # tests/integration/conftest.py
    with contextlib.nullcontext(Broker(**shared)) if shared else any_broker() as found:
        _running.append(found)
        if os.environ.get("CI") and not found.apache:
            pytest.fail(f"CI must test against Apache Kafka, and found only: {found.name}")
        yield found


@pytest.fixture
def apache(broker: Broker) -> Broker:
    """For what only a real Apache Kafka does as documented: transactions, rebalances, end offsets."""
    if not broker.apache:
        pytest.skip(f"needs Apache Kafka, this is the {broker.name}")
    return broker


@pytest.fixture
def own_kafka(apache: Broker) -> Iterator[ApacheKafka]:
    """An Apache Kafka of the test's own, to kill or to stop."""
    if not can_run_apache():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs Java 17 and mvn, for a Kafka that may be killed")
    with ApacheKafka() as kafka:
        yield kafka


@pytest.fixture
def stage(broker: Broker, tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    """Makes stages: topics, settings and processes of a test's own, ended with it.

    They do not look for drift unless asked (tests.plant.SETTINGS): to import river is a third of a worker's start.
    """
    made: list[Stage] = []

    def make(**settings: str) -> Stage:
        made.append(Stage(broker.bootstrap, tmp_path, {"OFFNORMAL_DRIFT__ENABLED": "false", **settings}))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def artefact() -> Artefact:
    """A trained model of 4 features."""
    return make_artefact(seed=0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: "pytest.CallInfo[None]"
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the processes of a failed test have logged: a timeout alone tells nothing."""
    report = yield
    if report.failed and call.when == "call":
        report.sections += [("process", p.told()) for stage in Stage.living for p in stage.processes]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for found in _running:
        terminalreporter.write_line(f"Kafka tests ran against: {found.name}")
