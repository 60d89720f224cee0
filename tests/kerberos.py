"""A Kerberos realm with a key distribution centre (MIT's), and an Apache Kafka that it knows. On loopback."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.brokers import ApacheKafka
from worker.demo.broker import free_port

REALM = "PLANT.EXAMPLE"
TICKET = 12  # seconds that a ticket lives: short, so that it has to be renewed


class Realm:
    """`environment` lets a process in as `worker`; `config` is what Java reads. `stop` and `start` are the centre's."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="offnormal-kerberos-")
        self._port = free_port()
        folder = Path(self._folder.name)
        self.config, self.broker_keys, self.worker_keys = (
            folder / name for name in ("krb5.conf", "kafka.keytab", "worker.keytab")
        )
        self.config.write_text(
            f"[libdefaults]\n default_realm = {REALM}\n dns_lookup_kdc = false\n dns_canonicalize_hostname = false\n"
            f" rdns = false\n udp_preference_limit = 1\n ticket_lifetime = {TICKET}s\n"
            f"[realms]\n {REALM} = {{\n  kdc = 127.0.0.1:{self._port}\n }}\n"
        )
        (folder / "kdc.conf").write_text(
            f"[kdcdefaults]\n kdc_listen = 127.0.0.1:{self._port}\n kdc_tcp_listen = 127.0.0.1:{self._port}\n"
            f"[realms]\n {REALM} = {{\n  database_name = {folder}/principal\n  key_stash_file = {folder}/stash\n"
            f"  max_life = {TICKET}s\n }}\n"
        )
        self._own = os.environ | {
            "KRB5_CONFIG": str(self.config),
            "KRB5_KDC_PROFILE": str(folder / "kdc.conf"),
            "PATH": f"{os.environ['PATH']}:/usr/sbin",
        }
        self._run("kdb5_util", "create", "-s", "-r", REALM, "-P", "planted-password-1")
        for principal, keys in (("kafka/localhost", self.broker_keys), ("worker", self.worker_keys)):
            self._run("kadmin.local", "-q", f"addprinc -randkey {principal}")
            self._run("kadmin.local", "-q", f"ktadd -k {keys} {principal}")
        self.environment = {
            "KRB5_CONFIG": str(self.config),
            "KRB5_CLIENT_KTNAME": str(self.worker_keys),
            "KRB5CCNAME": f"FILE:{folder}/tickets",
        }
        self.start()

    def start(self) -> None:
        """Raises AssertionError if it does not begin to answer."""
        log = Path(self._folder.name) / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(["krb5kdc", "-n"], env=self._own, stdout=output, stderr=output)
        deadline = time.monotonic() + 20
        while subprocess.run(["kinit", "-k", "-t", self.worker_keys, "worker"], env=self._asking).returncode:
            assert self._process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    @property
    def _asking(self) -> dict[str, str]:
        return self._own | {"KRB5CCNAME": f"FILE:{self._folder.name}/asking"}

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(20)

    def close(self) -> None:
        self.stop()
        self._folder.cleanup()

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, env=self._own, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout} {done.stderr}"


class KerberosKafka(ApacheKafka):
    """Its listener `kerberos` takes GSSAPI alone, and wants a new login every `again` seconds."""

    def __init__(self, realm: Realm, again: float):
        super().__init__()
        self._realm, self._again = realm, again
        self.heap = (*self.heap, f"-Djava.security.krb5.conf={realm.config}")
        self.kerberos = f"localhost:{free_port()}"

    def _properties(self) -> dict[str, str]:
        plain = super()._properties()
        own, controller = plain["listeners"].split(",")
        login = (
            "com.sun.security.auth.module.Krb5LoginModule required useKeyTab=true storeKey=true"
            f' keyTab="{self._realm.broker_keys}" principal="kafka/localhost@{REALM}";'
        )
        return plain | {
            "listeners": f"{own},KERBEROS://{self.kerberos},{controller}",
            "advertised.listeners": f"{own},KERBEROS://{self.kerberos}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,KERBEROS:SASL_PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.name.kerberos.sasl.enabled.mechanisms": "GSSAPI",
            "listener.name.kerberos.sasl.kerberos.service.name": "kafka",
            "listener.name.kerberos.gssapi.sasl.jaas.config": login,
            "listener.name.kerberos.gssapi.connections.max.reauth.ms": str(int(self._again * 1000)),
        }


def is_there() -> bool:
    """Return whether the programs of a realm are installed."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    return all(shutil.which(name, path=path) for name in ("krb5kdc", "kdb5_util", "kadmin.local", "kinit"))
