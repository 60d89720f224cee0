"""An Apache Kafka that asks for certificates, passwords, tokens and rights; a stage whose worker logs in there."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.brokers import can_run_apache
from tests.secure import SecureKafka
from tests.stage import Stage


@pytest.fixture(scope="session")
def secure() -> Iterator[SecureKafka]:
    if not can_run_apache():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs Java 17 and mvn, for a Kafka with certificates")
    with SecureKafka() as made:
        yield made


@pytest.fixture
def secure_stage(secure: SecureKafka, tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    """Its own clients come in by the plain listener; `over` are the worker's settings for another one."""
    made: list[Stage] = []

    def make(listener: str, over: dict[str, str]) -> Stage:
        s = Stage(secure.bootstrap, tmp_path, {}).make_topics(2)
        made.append(s)
        s.environment |= {"OFFNORMAL_KAFKA__BOOTSTRAP": secure.address[listener]}
        s.environment |= {f"OFFNORMAL_KAFKA__{name}": value for name, value in over.items()}
        return s

    yield make
    for one in made:
        one.close()
