"""Logins by tokens and by IAM, renewed while the worker works."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.acls import grant
from tests.iam_door import REGION
from tests.identity_provider import IdentityProvider
from tests.models import normal_rows
from tests.secure import IAM, REAUTHENTICATION, USERS, SecureKafka
from tests.stage import Process, Stage, until
from worker.models import Artefact

Open = Callable[..., Stage]


@pytest.fixture
def provider(secure: SecureKafka) -> Iterator[IdentityProvider]:
    made = IdentityProvider(secure.keys, USERS["worker"], life=5.0)
    yield made
    made.close()


def oauth(secure: SecureKafka, **more: str) -> tuple[str, dict[str, str]]:
    ca = str(secure.certificates.ca)
    return "OAUTH", {"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "OAUTHBEARER", "CA_FILE": ca} | more


def works_over(s: Stage, logins: int, away: Callable[[float], None] = lambda _: None) -> Process:
    """Send rows to a worker while its login is renewed so often; each is scored, and nothing is connected anew.

    `away` is told how many logins have passed. Returns the worker, which was stopped.
    """
    worker = s.worker()
    worker.await_log("partitions_assigned")
    places, began = [], time.monotonic()
    while (passed := (time.monotonic() - began) / REAUTHENTICATION) < logins:
        away(passed)
        places += s.send_rows(normal_rows(50, np.random.default_rng(0)))
        time.sleep(0.1)
    until(lambda: sum(s.committed().values()) == len(places), 20)
    assert worker.stop() == 0
    scores = s.scores()
    assert set(scores) == set(places)
    assert s.environment.get("OFFNORMAL_DELIVERY") == "at_least_once" or all(
        len(found) == 1 for found in scores.values()
    )
    assert not worker.log("connections_rebuilt")
    return worker


@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_tokens_are_renewed_while_the_worker_works(
    secure: SecureKafka, secure_stage: Open, artefact: Artefact, provider: IdentityProvider, mode: str
) -> None:
    """The broker wants a new token every four seconds; the provider is away for a while."""
    login = {"OAUTH_TOKEN_URL": provider.url, "USERNAME": "worker", "PASSWORD": USERS["worker"], "OAUTH_SCOPE": "kafka"}
    s = secure_stage(*oauth(secure, **login))
    s.environment["OFFNORMAL_DELIVERY"] = mode
    grant(secure, s)
    s.publish(artefact)
    worker = works_over(s, 5, away=lambda logins: setattr(provider, "away", 1.2 < logins < 1.6))
    assert provider.given >= 4 and provider.forms[0] == {"grant_type": "client_credentials", "scope": "kafka"}
    assert USERS["worker"] not in worker.errors + worker.output


def test_a_token_in_a_file_is_read_anew(
    secure: SecureKafka, secure_stage: Open, artefact: Artefact, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(secure.keys.token("worker", 60) + "\n")
    s = secure_stage(*oauth(secure, OAUTH_TOKEN_FILE=str(file)))
    grant(secure, s)
    s.publish(artefact)
    places = s.send_rows(normal_rows(100, np.random.default_rng(0)))
    worker = s.worker("--until-end")
    assert worker.wait() == 0, worker.errors
    assert set(s.scores()) == set(places)
    head, claims, signature = secure.keys.token("worker", 60).split(".")
    for token, told in (
        (secure.keys.token("worker", -60), "expired 6"),
        (f"{head}.{claims}.{'A' * len(signature)}", "refuses the token"),
        ("no-token", "refuses the token"),
    ):
        file.write_text(token)
        worker = s.worker(OFFNORMAL_KAFKA__STARTUP_TIMEOUT="5")
        assert worker.wait() == 4
        assert told in worker.errors.splitlines()[-1], worker.errors
        assert token not in worker.errors


def test_a_token_that_comes_late_is_waited_for(
    secure: SecureKafka, secure_stage: Open, artefact: Artefact, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    s = secure_stage(*oauth(secure, OAUTH_TOKEN_FILE=str(file)))
    grant(secure, s)
    s.publish(artefact)
    file.write_text(secure.keys.token("worker", 20))  # a slow machine starts a worker in ten
    worker = s.worker()
    worker.await_log("partitions_assigned")
    until(lambda: "expired" in worker.errors, 40)
    places = s.send_rows(normal_rows(100, np.random.default_rng(0)))
    time.sleep(3)
    file.write_text(secure.keys.token("worker", 60))
    until(lambda: sum(s.committed().values()) == len(places), 30)
    assert worker.stop() == 0
    assert all(len(found) == 1 for found in s.scores().values())


@pytest.mark.parametrize(
    ("login", "told"),
    [
        ({"PASSWORD": "planted-password-9"}, "refuses a token: 401 invalid_client"),
        ({"OAUTH_TOKEN_URL": "http://127.0.0.1:9/token"}, "does not answer"),
    ],
)
def test_without_a_token_it_says_why(
    secure: SecureKafka, secure_stage: Open, provider: IdentityProvider, login: dict[str, str], told: str
) -> None:
    given = {"OAUTH_TOKEN_URL": provider.url, "USERNAME": "worker", "PASSWORD": USERS["worker"]} | login
    s = secure_stage(*oauth(secure, **given))
    worker = s.worker("check", OFFNORMAL_KAFKA__STARTUP_TIMEOUT="5")
    assert worker.wait() == 4
    assert told in worker.errors + worker.output, worker.errors + worker.output
    assert "planted" not in worker.errors + worker.output


def iam(secure: SecureKafka, s: Stage, secret: str) -> None:
    s.environment |= {
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": IAM.access_key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_SESSION_TOKEN": IAM.token,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def by_iam(secure: SecureKafka) -> tuple[str, dict[str, str]]:
    ca = str(secure.certificates.ca)
    return "IAM", {"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "AWS_MSK_IAM", "CA_FILE": ca}


def test_a_worker_logs_in_by_iam_again_and_again(secure: SecureKafka, secure_stage: Open, artefact: Artefact) -> None:
    """The door wants a new login every four seconds, and checks its signature by botocore."""
    s = secure_stage(*by_iam(secure))
    iam(secure, s, IAM.secret_key)
    s.publish(artefact)
    connected = secure.door.logins
    worker = works_over(s, 4)
    assert secure.door.logins >= connected + 6 and not secure.door.refused
    assert "planted" not in worker.errors + worker.output


@pytest.mark.parametrize(("secret", "told"), [("planted-secret-9", "Access denied"), ("", "no credentials of AWS")])
def test_without_rights_in_iam_it_says_why(secure: SecureKafka, secure_stage: Open, secret: str, told: str) -> None:
    s = secure_stage(*by_iam(secure))
    if secret:
        iam(secure, s, secret)
    s.environment |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": REGION}
    worker = s.worker(OFFNORMAL_KAFKA__STARTUP_TIMEOUT="5")
    assert worker.wait() == 4
    assert told in worker.errors.splitlines()[-1], worker.errors
    assert "planted" not in worker.errors + worker.output
    secure.door.refused = 0
