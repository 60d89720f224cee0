"""TLS, passwords and ACLs, against an Apache Kafka that asks for them."""

import os
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourcePattern, ResourceType
from pydantic import SecretStr

from tests.brokers import can_run_apache
from tests.iam_door import REGION
from tests.identity_provider import IdentityProvider
from tests.models import make_artefact, normal_rows
from tests.registry import SmallRegistry
from tests.secure import IAM, REAUTHENTICATION, STORE_PASSWORD, USERS, SecureKafka
from tests.stage import Process, Stage, until
from worker.errors import SchemaRegistryError
from worker.models import Artefact
from worker.schema_registry import SchemaRegistry
from worker.settings import SchemaRegistrySettings, TopicSettings

Open = Callable[..., Stage]
SCRAM = {"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "SCRAM-SHA-512", "USERNAME": "worker"}


@pytest.fixture(scope="module")
def kafka() -> Iterator[SecureKafka]:
    if not can_run_apache():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs Java 17 and mvn, for a Kafka with certificates")
    with SecureKafka() as made:
        yield made


@pytest.fixture
def stage(kafka: SecureKafka, tmp_path: Path) -> Iterator[Open]:
    """Its own clients come in by the plain listener; `over` are the worker's settings for another one."""
    made: list[Stage] = []

    def make(listener: str, over: dict[str, str]) -> Stage:
        s = Stage(kafka.bootstrap, tmp_path, {}).make_topics(2)
        made.append(s)
        s.environment |= {"OFFNORMAL_KAFKA__BOOTSTRAP": kafka.address[listener]}
        s.environment |= {f"OFFNORMAL_KAFKA__{name}": value for name, value in over.items()}
        return s

    yield make
    for one in made:
        one.close()


def ways(kafka: SecureKafka) -> dict[str, tuple[str, dict[str, str]]]:
    ca = {"CA_FILE": str(kafka.certificates.ca)}
    cert, key = kafka.certificates.client()
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
def test_a_worker_behind_tls_and_passwords(kafka: SecureKafka, stage: Open, artefact: Artefact, way: str) -> None:
    s = stage(*ways(kafka)[way])
    grant(kafka, s)
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
    kafka: SecureKafka, stage: Open, listener: str, over: dict[str, str], told: str
) -> None:
    ca = kafka.certificates.other_ca if over.get("CA_FILE") == "other" else kafka.certificates.ca
    base = SCRAM if listener == "SASL" else {"SECURITY_PROTOCOL": "SSL"}
    s = stage(listener, base | over | {"CA_FILE": str(ca)})
    began = time.monotonic()
    worker = s.worker()
    assert worker.wait() == 4
    assert time.monotonic() - began < 15, "it does not try for as long as for a broker that is away"
    lines = [line for line in worker.errors.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, worker.errors
    assert told in lines[0]
    assert len(worker.errors.splitlines()) <= 4
    assert "planted" not in worker.errors + worker.output


@pytest.fixture
def provider(kafka: SecureKafka) -> Iterator[IdentityProvider]:
    made = IdentityProvider(kafka.keys, USERS["worker"], life=5.0)
    yield made
    made.close()


def oauth(kafka: SecureKafka, **more: str) -> tuple[str, dict[str, str]]:
    ca = str(kafka.certificates.ca)
    return "OAUTH", {"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "OAUTHBEARER", "CA_FILE": ca} | more


@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_tokens_are_renewed_while_the_worker_works(
    kafka: SecureKafka, stage: Open, artefact: Artefact, provider: IdentityProvider, mode: str
) -> None:
    """The broker wants a new token every four seconds; the provider is away for a while."""
    login = {"OAUTH_TOKEN_URL": provider.url, "USERNAME": "worker", "PASSWORD": USERS["worker"], "OAUTH_SCOPE": "kafka"}
    s = stage(*oauth(kafka, **login))
    s.environment["OFFNORMAL_DELIVERY"] = mode
    grant(kafka, s)
    s.publish(artefact)
    worker = s.worker()
    worker.await_log("partitions_assigned")
    places, began = [], time.monotonic()
    while time.monotonic() - began < 5 * REAUTHENTICATION:
        provider.away = 1.2 < (time.monotonic() - began) / REAUTHENTICATION < 1.6
        places += s.send_rows(normal_rows(50, np.random.default_rng(0)))
        time.sleep(0.1)
    until(lambda: sum(s.committed().values()) == len(places), 20)
    assert worker.stop() == 0
    scores = s.scores()
    assert set(scores) == set(places)
    assert mode == "at_least_once" or all(len(found) == 1 for found in scores.values())
    assert provider.given >= 4 and provider.forms[0] == {"grant_type": "client_credentials", "scope": "kafka"}
    assert not worker.log("connections_rebuilt")
    assert USERS["worker"] not in worker.errors + worker.output


def test_a_token_in_a_file_is_read_anew(kafka: SecureKafka, stage: Open, artefact: Artefact, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(kafka.keys.token("worker", 60) + "\n")
    s = stage(*oauth(kafka, OAUTH_TOKEN_FILE=str(file)))
    grant(kafka, s)
    s.publish(artefact)
    places = s.send_rows(normal_rows(100, np.random.default_rng(0)))
    worker = s.worker("--until-end")
    assert worker.wait() == 0, worker.errors
    assert set(s.scores()) == set(places)
    head, claims, signature = kafka.keys.token("worker", 60).split(".")
    for token, told in (
        (kafka.keys.token("worker", -60), "expired 6"),
        (f"{head}.{claims}.{'A' * len(signature)}", "refuses the token"),
        ("no-token", "refuses the token"),
    ):
        file.write_text(token)
        worker = s.worker(OFFNORMAL_KAFKA__STARTUP_TIMEOUT="5")
        assert worker.wait() == 4
        assert told in worker.errors.splitlines()[-1], worker.errors
        assert token not in worker.errors


def test_a_token_that_comes_late_is_waited_for(
    kafka: SecureKafka, stage: Open, artefact: Artefact, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(kafka.keys.token("worker", 8))
    s = stage(*oauth(kafka, OAUTH_TOKEN_FILE=str(file)))
    grant(kafka, s)
    s.publish(artefact)
    worker = s.worker()
    worker.await_log("partitions_assigned")
    until(lambda: "expired" in worker.errors, 20)
    places = s.send_rows(normal_rows(100, np.random.default_rng(0)))
    time.sleep(3)
    file.write_text(kafka.keys.token("worker", 60))
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
    kafka: SecureKafka, stage: Open, provider: IdentityProvider, login: dict[str, str], told: str
) -> None:
    given = {"OAUTH_TOKEN_URL": provider.url, "USERNAME": "worker", "PASSWORD": USERS["worker"]} | login
    s = stage(*oauth(kafka, **given))
    worker = s.worker("check", OFFNORMAL_KAFKA__STARTUP_TIMEOUT="5")
    assert worker.wait() == 4
    assert told in worker.errors + worker.output, worker.errors + worker.output
    assert "planted" not in worker.errors + worker.output


def iam(kafka: SecureKafka, s: Stage, secret: str) -> None:
    s.environment |= {
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": IAM.access_key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_SESSION_TOKEN": IAM.token,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def by_iam(kafka: SecureKafka) -> tuple[str, dict[str, str]]:
    ca = str(kafka.certificates.ca)
    return "IAM", {"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "AWS_MSK_IAM", "CA_FILE": ca}


def test_a_worker_logs_in_by_iam_again_and_again(kafka: SecureKafka, stage: Open, artefact: Artefact) -> None:
    """The door wants a new login every four seconds, and checks its signature by botocore."""
    s = stage(*by_iam(kafka))
    iam(kafka, s, IAM.secret_key)
    s.publish(artefact)
    worker = s.worker()
    worker.await_log("partitions_assigned")
    connected, places, began = kafka.door.logins, [], time.monotonic()
    while time.monotonic() - began < 4 * REAUTHENTICATION:
        places += s.send_rows(normal_rows(50, np.random.default_rng(0)))
        time.sleep(0.1)
    until(lambda: sum(s.committed().values()) == len(places), 20)
    assert worker.stop() == 0
    scores = s.scores()
    assert set(scores) == set(places)
    assert all(len(found) == 1 for found in scores.values())
    assert kafka.door.logins >= connected + 6 and not kafka.door.refused
    assert not worker.log("connections_rebuilt")
    assert "planted" not in worker.errors + worker.output


@pytest.mark.parametrize(("secret", "told"), [("planted-secret-9", "Access denied"), ("", "no credentials of AWS")])
def test_without_rights_in_iam_it_says_why(kafka: SecureKafka, stage: Open, secret: str, told: str) -> None:
    s = stage(*by_iam(kafka))
    if secret:
        iam(kafka, s, secret)
    s.environment |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": REGION}
    worker = s.worker(OFFNORMAL_KAFKA__STARTUP_TIMEOUT="5")
    assert worker.wait() == 4
    assert told in worker.errors.splitlines()[-1], worker.errors
    assert "planted" not in worker.errors + worker.output
    kafka.door.refused = 0


def test_a_schema_registry_behind_tls_may_not_redirect_out_of_it(kafka: SecureKafka) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*kafka.certificates.client("broker"))
    with closing(SmallRegistry(tls=context)) as secure, closing(SmallRegistry()) as plain:
        login = {"username": "reader", "password": SecretStr(USERS["worker"])}
        settings = SchemaRegistrySettings(url=secure.url, ca_file=str(kafka.certificates.ca), **login)
        assert SchemaRegistry(settings).schema(secure.add("string")) == ("string", {})
        secure.elsewhere = plain.url
        with pytest.raises(SchemaRegistryError, match=f"redirects to {plain.url}.*not allowed"):
            SchemaRegistry(settings).schema(plain.add("string"))
        assert not plain.asked
        stranger = SchemaRegistrySettings(url=secure.url, ca_file=str(kafka.certificates.other_ca), **login)
        with pytest.raises(SchemaRegistryError, match="certificate"):
            SchemaRegistry(stranger).schema(1)


def test_the_acls_of_the_documentation_suffice_and_each_is_needed(kafka: SecureKafka, stage: Open) -> None:
    """With all of them a training, a worker, a replay and the commands work; without any one of the worker's, it says
    what is missing and exits with 4.
    """
    s = stage(*ways(kafka)["SCRAM-SHA-512"])
    s.publish(make_artefact(seed=0))
    places = s.send_rows(normal_rows(2000, np.random.default_rng(0)))
    s.send([b"rubbish"])
    rights = acls(s)
    grant(kafka, s)
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
            with admin(kafka) as client:
                client.delete_acls([missing])
            process = s.worker("--until-end", OFFNORMAL_KAFKA__STARTUP_TIMEOUT="5")
            assert process.wait(60) == 4, f"{missing}: {process.errors[-2000:]}"
            last = process.errors.splitlines()[-1]
            assert "uthorization" in last and "ACLs" in last, last
            with admin(kafka) as client:
                client.create_acls([missing])
    finally:
        with admin(kafka) as client:
            client.delete_acls([right for right, _ in rights])


def test_certificates_are_read_anew(kafka: SecureKafka, stage: Open, artefact: Artefact, tmp_path: Path) -> None:
    """Rotated while the worker runs: it connects with what lies there now, unless that cannot be read."""
    mine = tmp_path / "cert", tmp_path / "key"

    def rotate(*contents: bytes) -> None:
        for file, content in zip(mine, contents, strict=True):
            file.write_bytes(content)
        kafka.kill()
        kafka.start()

    good, refused = ([file.read_bytes() for file in kafka.certificates.client(name)] for name in ("client", "other"))
    rotate(*good)
    over = {"SECURITY_PROTOCOL": "SSL", "CA_FILE": str(kafka.certificates.ca)}
    s = stage("MUTUAL", over | {"CERT_FILE": str(mine[0]), "KEY_FILE": str(mine[1])})
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


def test_no_secret_is_shown(kafka: SecureKafka, stage: Open, artefact: Artefact, tmp_path: Path) -> None:
    """Planted ones, in logs at their most talkative, in errors, help, checks and what is published."""
    secrets = [USERS["worker"], "planted-signing-key-0001", STORE_PASSWORD]
    for name, secret in (("password", secrets[0]), ("signing", secrets[1])):
        (tmp_path / name).write_text(secret + "\n")
    s = stage("SASL", SCRAM | {"CA_FILE": str(kafka.certificates.ca), "PASSWORD_FILE": str(tmp_path / "password")})
    grant(kafka, s)
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


# -- ACLs


def admin(kafka: SecureKafka) -> "closing[KafkaAdminClient]":
    return closing(KafkaAdminClient(bootstrap_servers=kafka.bootstrap))


def acls(s: Stage) -> list[tuple[ACL, str]]:
    """Those of docs/security.md, with the stage's names for the defaults; and for whom each is."""
    group = s.settings.kafka.group
    defaults = {str(field.default): name for name, field in TopicSettings.model_fields.items()}
    found = []
    for line in (Path(__file__).parents[2] / "docs/security.md").read_text().splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if cells[0] not in ("Topic", "Group", "TransactionalId"):
            continue
        kind, told = cells[0], cells[1]
        name = told.rstrip("*")
        if kind == "Topic":
            name = getattr(s.topics, defaults[told])
        elif name.startswith("offnormal.models"):
            name = name.replace("offnormal.models", s.topics.models)
        else:
            name = name.replace("offnormal", group)
        resource = ResourcePattern(
            ResourceType["TRANSACTIONAL_ID" if kind == "TransactionalId" else kind.upper()],
            name,
            ACLResourcePatternType.PREFIXED if told.endswith("*") else ACLResourcePatternType.LITERAL,
        )
        operation = ACLOperation["DESCRIBE_CONFIGS" if cells[2] == "DescribeConfigs" else cells[2].upper()]
        found.append((ACL("User:worker", "*", operation, ACLPermissionType.ALLOW, resource), cells[3]))
    assert len(found) > 10
    return found


def grant(kafka: SecureKafka, s: Stage) -> None:
    with admin(kafka) as client:
        client.create_acls([right for right, _ in acls(s)])
