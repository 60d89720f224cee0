"""Logins by Kerberos (GSSAPI), against a key distribution centre and an Apache Kafka that trusts it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.brokers import can_run_apache
from tests.deploy import tools
from tests.kerberos import TICKET, KerberosKafka, Realm
from tests.models import make_artefact, normal_rows
from tests.stage import Stage, until

AGAIN = 4.0  # seconds after which the broker wants a new login


@pytest.fixture(scope="module")
def gssapi() -> Path:
    if not can_run_apache():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs Java 17 and mvn, for a Kafka with Kerberos")
    return tools.gssapi()


@pytest.fixture(scope="module")
def realm(gssapi: Path) -> Iterator[Realm]:
    made = Realm()
    yield made
    made.close()


@pytest.fixture(scope="module")
def kafka(realm: Realm) -> Iterator[KerberosKafka]:
    with KerberosKafka(realm, AGAIN) as made:
        yield made


@pytest.fixture
def stage(kafka: KerberosKafka, realm: Realm, gssapi: Path, tmp_path: Path) -> Iterator[Stage]:
    s = Stage(kafka.bootstrap, tmp_path, {}).make_topics(2)
    s.environment |= realm.environment | {
        "OFFNORMAL_KAFKA__BOOTSTRAP": kafka.kerberos,
        "OFFNORMAL_KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "OFFNORMAL_KAFKA__SASL_MECHANISM": "GSSAPI",
        "PYTHONPATH": str(gssapi),
    }
    yield s
    s.close()


def test_a_worker_logs_in_again_and_again(stage: Stage, realm: Realm) -> None:
    """Tickets are renewed from the keytab, and the centre is away for a while."""
    stage.publish(make_artefact(seed=0))
    worker = stage.worker()
    worker.await_log("partitions_assigned")
    places, began, is_away = [], time.monotonic(), False
    while (passed := time.monotonic() - began) < 2.5 * TICKET:
        if is_away != (0.3 * TICKET < passed < 0.6 * TICKET):
            is_away = not is_away
            (realm.stop if is_away else realm.start)()
        places += stage.send_rows(normal_rows(20, np.random.default_rng(0)))
        time.sleep(0.1)
    until(lambda: sum(stage.committed().values()) == len(places), 30)
    assert worker.stop() == 0, worker.errors
    scores = stage.scores()
    assert set(scores) == set(places)
    assert all(len(found) == 1 for found in scores.values())


@pytest.mark.parametrize(
    ("over", "told"),
    [
        ({"KRB5_CLIENT_KTNAME": "/nowhere.keytab", "KRB5CCNAME": "FILE:/nowhere"}, "nowhere"),
        ({"OFFNORMAL_KAFKA__KERBEROS_SERVICE": "other"}, "not found in Kerberos database"),
        ({"PYTHONPATH": ""}, "offnormal[gssapi]"),
    ],
)
def test_it_says_why_not(stage: Stage, over: dict[str, str], told: str) -> None:
    worker = stage.worker(OFFNORMAL_KAFKA__STARTUP_TIMEOUT="5", **over)
    assert worker.wait() in (2, 4), worker.errors
    assert told in worker.errors.splitlines()[-1], worker.errors
