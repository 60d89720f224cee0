"""TLS, passwords and ACLs, against an Apache Kafka that asks for them."""

import ssl
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr

from tests.acls import acls, admin, grant
from tests.models import make_artefact, normal_rows
from tests.registry import SmallRegistry
from tests.secure import STORE_PASSWORD, USERS, SecureKafka
from tests.stage import Process, Stage, until
from worker.errors import SchemaRegistryError
from worker.models import Artefact
from worker.schema_registry import SchemaRegistry
from worker.settings import SchemaRegistrySettings

Open = Callable[..., Stage]
SCRAM = {"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "SCRAM-SHA-512", "USERNAME": "worker"}


def ways(secure: SecureKafka) -> dict[str, tuple[str, dict[str, str]]]:
    ca = {"CA_FILE": str(secure.certificates.ca)}
    cert, key = secure.certificates.client()
    password = {"PASSWORD": USERS["worker"]}
    return {
        "TLS": ("TLS", {"SECURITY_PROTOCOL": "SSL"} | ca),
        "TLS, public client": ("TLS", {"SECURITY_PROTOCOL": "SSL", "CLIENT": "public"} | ca),
        "mutual TLS": ("MUTUAL", {"SECURITY_PROTOCOL": "SSL", "CERT_FILE": str(cert), "KEY_FILE": str(key)} | ca),
        "PLAIN": ("SASL", SCRAM | {"SASL_MECHANISM": "PLAIN"} | password | ca),
        "SCRAM-SHA-256": ("SASL", SCRAM | {"SASL_MECHANISM": "SCRAM-SHA-256"} | password | ca),
        "SCRAM-SHA-512": ("SASL", SCRAM | password | ca),
    }


@pytest.mark.parametrize("way", ["TLS", "TLS, public client", "mutual TLS", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_worker_behind_tls_and_passwords(
    secure: SecureKafka, secure_stage: Open, artefact: Artefact, way: str
) -> None:
    s = secure_stage(*ways(secure)[way])
    grant(secure, s)
    s.publish(artefact)
    x = normal_rows(3000, np.random.default_rng(0))
    x[::50] += 30
    places = s.send_rows(x)
    worker = s.worker("--until-end")
    assert worker.wait() == 0, worker.errors
    assert set(s.scores()) == set(places)
    assert len(s.events()) >= 60


@pytest.mark.parametrize(
    ("listener", "over", "told"),
    [
        ("SASL", {"PASSWORD": "planted-password-9"}, "invalid credentials"),
        ("SASL", {"PASSWORD": "planted-password-9", "SASL_MECHANISM": "PLAIN"}, "Invalid username or password"),
        ("TLS", {"CA_FILE": "other"}, "self-signed certificate in certificate chain"),
        ("EXPIRED", {}, "certificate has expired"),
        ("STRANGER", {}, "certificate is not valid for '127.0.0.1'"),
        ("MUTUAL", {}, "bad certificate"),
    ],
)
def test_what_is_refused_is_said_in_one_line(
    secure: SecureKafka, secure_stage: Open, listener: str, over: dict[str, str], told: str
) -> None:
    ca = secure.certificates.other_ca if over.get("CA_FILE") == "other" else secure.certificates.ca
    base = SCRAM if listener == "SASL" else {"SECURITY_PROTOCOL": "SSL"}
    s = secure_stage(listener, base | over | {"CA_FILE": str(ca), "STARTUP_TIMEOUT": "300"})
    worker = s.worker()
    assert worker.wait(100) == 4, "it does not try for as long as for a broker that is away"
    lines = [line for line in worker.errors.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, worker.errors
    assert told in lines[0]
    assert len(worker.errors.splitlines()) <= 4
    assert "planted" not in worker.errors + worker.output


def test_a_schema_registry_behind_tls_may_not_redirect_out_of_it(secure: SecureKafka) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*secure.certificates.client("broker"))
    with closing(SmallRegistry(tls=context)) as registry, closing(SmallRegistry()) as plain:
        login = {"username": "reader", "password": SecretStr(USERS["worker"])}
        settings = SchemaRegistrySettings(url=registry.url, ca_file=str(secure.certificates.ca), **login)
        assert SchemaRegistry(settings).schema(registry.add("string")) == ("string", {})
        registry.elsewhere = plain.url
        with pytest.raises(SchemaRegistryError, match=f"redirects to {plain.url}.*not allowed"):
            SchemaRegistry(settings).schema(plain.add("string"))
        assert not plain.asked
        stranger = SchemaRegistrySettings(url=registry.url, ca_file=str(secure.certificates.other_ca), **login)
        with pytest.raises(SchemaRegistryError, match="certificate"):
            SchemaRegistry(stranger).schema(1)


def test_the_acls_of_the_documentation_suffice_and_each_is_needed(secure: SecureKafka, secure_stage: Open) -> None:
    """With all of them a training, a worker, a replay and the commands work; without any one of the worker's, it says
    what is missing and exits with 4.
    """
    s = secure_stage(*ways(secure)["SCRAM-SHA-512"])
    s.publish(make_artefact(seed=0))
    places = s.send_rows(normal_rows(2000, np.random.default_rng(0)))
    s.send([b"rubbish"])
    rights = acls(s)
    grant(secure, s)
    try:
        for command in ([], ["--until-end"]):
            process = s.worker(*command) if command else s.training(OFFNORMAL_TRAINING__STEPS="100")
            assert process.wait(120) == 0, process.errors
        assert set(s.scores()) >= set(places)
        label = f"{s.topics.sensors}/{places[0][0]}/{places[0][1]}/0"
        for command in (
            ["label", label, "dismissed"],
            ["topics", "--verify"],
            ["check"],
            ["replay"],
            ["alerts", "--until-end"],
        ):
            process = s.worker(*command)
            assert process.wait() == 0, process.output + process.errors
        assert s.worker("--until-end").wait() == 0
        assert len(s.dead_letters()) == 2, "put back once, and still no vector"

        for missing in (right for right, who in rights if who.startswith("worker") and "may" not in who):
            with admin(secure) as client:
                client.delete_acls([missing])
            process = s.worker("--until-end", OFFNORMAL_KAFKA__STARTUP_TIMEOUT="5")
            assert process.wait(60) == 4, f"{missing}: {process.errors[-2000:]}"
            last = process.errors.splitlines()[-1]
            assert "uthorization" in last and "ACLs" in last, last
            with admin(secure) as client:
                client.create_acls([missing])
    finally:
        with admin(secure) as client:
            client.delete_acls([right for right, _ in rights])


def test_certificates_are_read_anew(
    secure: SecureKafka, secure_stage: Open, artefact: Artefact, tmp_path: Path
) -> None:
    """Rotated while the worker runs: it connects with what lies there now, unless that cannot be read."""
    mine = tmp_path / "cert", tmp_path / "key"

    def rotate(*contents: bytes) -> None:
        for file, content in zip(mine, contents, strict=True):
            file.write_bytes(content)
        secure.kill()
        secure.start()

    good, refused = ([file.read_bytes() for file in secure.certificates.client(name)] for name in ("client", "other"))
    rotate(*good)
    over = {"SECURITY_PROTOCOL": "SSL", "CA_FILE": str(secure.certificates.ca)}
    s = secure_stage("MUTUAL", over | {"CERT_FILE": str(mine[0]), "KEY_FILE": str(mine[1])})
    s.publish(artefact)
    worker = s.worker()
    worker.await_log("partitions_assigned")
    rotate(b"half a certif", b"")
    places = s.send_rows(normal_rows(200, np.random.default_rng(0)))
    until(lambda: set(s.scores()) == set(places), 120)
    assert worker.log("certificates_read_failed")
    rotate(*refused)
    more = s.send_rows(normal_rows(200, np.random.default_rng(0)))
    time.sleep(5)
    assert set(s.scores()) == set(places), "it has connected by what it had read before"
    rotate(*good)
    until(lambda: set(s.scores()) == {*places, *more}, 120)
    assert worker.stop() == 0


def test_no_secret_is_shown(secure: SecureKafka, secure_stage: Open, artefact: Artefact, tmp_path: Path) -> None:
    """Planted ones, in logs at their most talkative, in errors, help, checks and what is published."""
    secrets = [USERS["worker"], "planted-signing-key-0001", STORE_PASSWORD]
    for name, secret in (("password", secrets[0]), ("signing", secrets[1])):
        (tmp_path / name).write_text(secret + "\n")
    login = {"CA_FILE": str(secure.certificates.ca), "PASSWORD_FILE": str(tmp_path / "password")}
    s = secure_stage("SASL", SCRAM | login)
    grant(secure, s)
    s.environment |= {
        "OFFNORMAL_MODEL__SIGNING_KEY_FILE": str(tmp_path / "signing"),
        "OFFNORMAL_LOG__LEVEL": "debug",
    }
    s.send_rows(normal_rows(1500, np.random.default_rng(0)))
    s.send([b"rubbish"])
    said = []
    commands: list[tuple[Callable[..., Process], list[str]]] = [
        (s.training, []),
        (s.worker, ["--until-end", "--profile"]),
        (s.worker, ["check", "--json"]),
        (s.worker, ["--help"]),
        (s.worker, ["--help-settings"]),
        (s.worker, ["replay", "--json"]),
        (s.worker, ["topics", "--verify", "--json"]),
        (s.training, ["models", "list", "--json"]),
    ]
    for start, arguments in commands:
        process = start(*arguments, OFFNORMAL_TRAINING__STEPS="100", OFFNORMAL_TRAINING__MIN_ROWS="100")
        assert process.wait(120) == 0, process.errors[-2000:]
        said.append(process.output + process.errors)
    for form in ("json", "console"):
        talks = s.worker("--until-end", OFFNORMAL_LOG__FORMAT=form)
        assert talks.wait(120) == 0, talks.errors[-2000:]
        wrong = s.worker("check", OFFNORMAL_LOG__FORMAT=form, OFFNORMAL_KAFKA__PASSWORD="planted-password-7")
        assert wrong.wait() == 2
        said += [talks.output + talks.errors, wrong.output + wrong.errors]
    for topic in (s.topics.models, s.topics.scores, s.topics.anomalies, s.topics.dead_letters):
        said += [repr((r.key, r.value, r.headers)) for r in s.read(topic)]
    assert len(said) > 1500
    for secret in [*secrets, "planted"]:
        assert not any(secret in each for each in said), secret
