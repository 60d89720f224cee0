"""An Apache Kafka behind TLS and SASL, with an authorizer: certificates by keytool and openssl, made for the run.

Listeners, all on loopback:

    PLAINTEXT  anonymous, and a super user: for the tests to set the scene
    TLS        TLS, no client certificate
    MUTUAL     TLS, client certificate required
    SASL       TLS and a password: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512
    OAUTH      TLS and a token, checked by the brokers' own validator; it wants a new one every few seconds
    IAM        TLS and a signature, checked by a door before it (tests/iam_door.py), as on Amazon MSK
    EXPIRED    TLS, its certificate ran out
    STRANGER   TLS, its certificate is another host's
"""

import subprocess
import tempfile
from pathlib import Path

from botocore.credentials import Credentials

from tests.brokers import ApacheKafka
from tests.iam_door import IamDoor
from tests.identity_provider import AUDIENCE, Keys
from worker.demo.broker import free_port

STORE_PASSWORD = "changeit-please"
REAUTHENTICATION = 4.0  # seconds after which the listeners OAUTH and IAM want a new login
USERS = {"worker": "planted-password-1", "stranger": "planted-password-2"}
IAM = Credentials("AKIDWORKER", "planted-secret-1", "planted/token+1")


class Certificates:
    """A certificate authority, and what it has signed, as PEM files and PKCS12 stores in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._authority("authority")
        self._authority("other")
        self.ca, self.other_ca = self._pem("authority"), self._pem("other")
        here = "SAN=IP:127.0.0.1,DNS:localhost"
        self._signed("broker", here)
        self._signed("expired", here, "-startdate", "-20d", "-validity", "10")
        self._signed("elsewhere", "SAN=DNS:elsewhere.example")
        self._signed("client", "SAN=DNS:client")
        self._run("keytool", "-importcert", "-noprompt", "-alias", "authority", "-file", self.ca, *self._store("trust"))

    def client(self, name: str = "client") -> tuple[Path, Path]:
        """PEM files of a certificate and its key."""
        store, cert, key = (self.folder / f"{name}.{kind}" for kind in ("p12", "pem", "key"))
        password = f"pass:{STORE_PASSWORD}"
        openssl = ["openssl", "pkcs12", "-in", store, "-passin", password]
        self._run(*openssl, "-nokeys", "-clcerts", "-out", cert)
        self._run(*openssl, "-nocerts", "-nodes", "-out", key)
        return cert, key

    def _store(self, name: str) -> list[str]:
        return ["-keystore", str(self.folder / f"{name}.p12"), "-storetype", "PKCS12", "-storepass", STORE_PASSWORD]

    def _authority(self, name: str) -> None:
        self._pair(name, "-ext", "bc:c", "-validity", "30")

    def _pair(self, name: str, *more: str) -> None:
        self._run(
            "keytool", "-genkeypair", "-alias", name, "-dname", f"CN={name}", "-keyalg", "EC", *more, *self._store(name)
        )

    def _pem(self, name: str) -> Path:
        file = self.folder / f"{name}-ca.pem"
        self._run("keytool", "-exportcert", "-rfc", "-alias", name, "-file", file, *self._store(name))
        return file

    def _signed(self, name: str, names: str, *validity: str) -> None:
        self._pair(name)
        request, cert = self.folder / f"{name}.csr", self.folder / f"{name}.crt"
        self._run("keytool", "-certreq", "-alias", name, "-file", request, *self._store(name))
        self._run(
            "keytool", "-gencert", "-alias", "authority", "-infile", request, "-outfile", cert, "-rfc", "-ext", names,
            *(validity or ("-validity", "10")), *self._store("authority"),
        )  # fmt: skip
        for alias, file in (("authority", self.ca), (name, cert)):
            self._run("keytool", "-importcert", "-noprompt", "-alias", alias, "-file", file, *self._store(name))

    @staticmethod
    def _run(*command: object) -> None:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout} {done.stderr}"


class SecureKafka(ApacheKafka):
    """`address` of each listener by its name."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="offnormal-secure-")
        self.certificates, self.keys = Certificates(Path(self._folder.name)), Keys(Path(self._folder.name))
        # Kafka reads keys only from where it is told that it may.
        self.heap = (*self.heap, f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={self.keys.jwks.as_uri()}")
        self._ports = {name: free_port() for name in ("TLS", "MUTUAL", "SASL", "OAUTH", "EXPIRED", "STRANGER", "IAM")}
        self._behind = free_port()
        self.door = IamDoor(self._ports["IAM"], self._behind, self.certificates.client("broker"), IAM, REAUTHENTICATION)
        self.address = {name: f"127.0.0.1:{port}" for name, port in self._ports.items()} | {"PLAINTEXT": self.bootstrap}

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.door.close()
        self._folder.cleanup()

    def _format_arguments(self) -> list[str]:
        """Users lie in the cluster's metadata from its first moment on."""
        return [
            part
            for user, password in USERS.items()
            for kind in ("SCRAM-SHA-256", "SCRAM-SHA-512")
            for part in ("--add-scram", f"{kind}=[name={user},password={password}]")
        ]

    def _properties(self) -> dict[str, str]:
        plain = super()._properties()
        listeners = ",".join(f"{name}://{self.address[name]}" for name in self.address)
        stores = {
            "TLS": "broker",
            "MUTUAL": "broker",
            "SASL": "broker",
            "OAUTH": "broker",
            "EXPIRED": "expired",
            "STRANGER": "elsewhere",
        }
        found = plain | {
            "listeners": f"{listeners},{plain['listeners'].split(',')[1]}".replace(
                self.address["IAM"], f"127.0.0.1:{self._behind}"
            ),
            "advertised.listeners": listeners,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL,MUTUAL:SSL,"
            "SASL:SASL_SSL,OAUTH:SASL_SSL,EXPIRED:SSL,STRANGER:SSL,IAM:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS;User:CN=client",
        }
        for listener, store in stores.items():
            prefix = f"listener.name.{listener.lower()}."
            found |= {
                f"{prefix}ssl.keystore.type": "PKCS12",
                f"{prefix}ssl.keystore.location": str(self.certificates.folder / f"{store}.p12"),
                f"{prefix}ssl.keystore.password": STORE_PASSWORD,
                f"{prefix}ssl.key.password": STORE_PASSWORD,
                f"{prefix}ssl.truststore.type": "PKCS12",
                f"{prefix}ssl.truststore.location": str(self.certificates.folder / "trust.p12"),
                f"{prefix}ssl.truststore.password": STORE_PASSWORD,
                f"{prefix}ssl.client.auth": "required" if listener == "MUTUAL" else "none",
            }
        users = " ".join(f'user_{user}="{password}"' for user, password in USERS.items())
        oauth, package = "listener.name.oauth.oauthbearer.", "org.apache.kafka.common.security.oauthbearer"
        found |= {
            "listener.name.oauth.sasl.enabled.mechanisms": "OAUTHBEARER",
            f"{oauth}sasl.jaas.config": f"{package}.OAuthBearerLoginModule required;",
            f"{oauth}sasl.server.callback.handler.class": f"{package}.OAuthBearerValidatorCallbackHandler",
            f"{oauth}connections.max.reauth.ms": str(int(REAUTHENTICATION * 1000)),
            # Its default only looks at the form of a token, not at its signature.
            "sasl.oauthbearer.jwt.validator.class": f"{package}.BrokerJwtValidator",
            "sasl.oauthbearer.jwks.endpoint.url": self.keys.jwks.as_uri(),
            "sasl.oauthbearer.expected.audience": AUDIENCE,
        }
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        found |= {
            "listener.name.sasl.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule"
            f" required {users};",
            "listener.name.sasl.scram-sha-256.sasl.jaas.config": scram,
            "listener.name.sasl.scram-sha-512.sasl.jaas.config": scram,
        }
        return found
