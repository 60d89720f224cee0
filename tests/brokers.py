"""A Kafka to test against, the most real one to be had.

Order: OFFNORMAL_TEST_BOOTSTRAP; Docker by testcontainers; Apache Kafka as a local process (Java 17, jars by mvn); the
embedded broker. `python -m tests.brokers apache|embedded` runs one in the foreground and prints its address.
OFFNORMAL_TEST_KAFKA_VERSION names another Apache Kafka, 2.8 or later; before 3.3 it runs with a ZooKeeper of its own.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from worker.demo.broker import embedded_broker, free_port

KAFKA_VERSION = "4.1.1"  # as in deploy/
VERSION = os.environ.get("OFFNORMAL_TEST_KAFKA_VERSION", KAFKA_VERSION)
# Before 3.3 KRaft was a preview; 2.8's has no transactions.
BY_ZOOKEEPER = tuple(map(int, VERSION.split(".")[:2])) < (3, 3)
ZOOKEEPER_SESSION = 6  # seconds, the least that it grants
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "offnormal" / f"kafka-{VERSION}"
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>offnormal</groupId><artifactId>test-broker</artifactId><version>1</version><packaging>pom</packaging>
<dependencies><dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
<version>{VERSION}</version></dependency></dependencies></project>
"""


@dataclass(frozen=True)
class Broker:
    bootstrap: str
    name: str
    apache: bool  # a real Apache Kafka: transactions, rebalances and end offsets behave as documented


@contextlib.contextmanager
def any_broker() -> Iterator[Broker]:
    """The first of the order above that works."""
    given = os.environ.get("OFFNORMAL_TEST_BOOTSTRAP")
    if given:
        yield Broker(given, f"OFFNORMAL_TEST_BOOTSTRAP={given}", apache=True)
    elif _docker_runs():
        from testcontainers.kafka import KafkaContainer

        with KafkaContainer(f"apache/kafka:{VERSION}") as container:
            yield Broker(container.get_bootstrap_server(), f"Apache Kafka {VERSION} in Docker", apache=True)
    elif can_run_apache():
        with ApacheKafka() as kafka:
            yield Broker(kafka.bootstrap, f"Apache Kafka {VERSION}, local process", apache=True)
    else:
        with embedded_broker() as bootstrap:
            yield Broker(bootstrap, "embedded broker (no Docker, no Java with mvn found)", apache=False)


def can_run_apache() -> bool:
    """Whether ApacheKafka can be started here: Java, and the jars or mvn to get them by."""
    return bool(shutil.which("java") and (shutil.which("mvn") or (CACHE / "libs").is_dir()))


def _docker_runs() -> bool:
    if not shutil.which("docker"):
        return False
    asked = subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False)
    return asked.returncode == 0


class ApacheKafka:
    """One node on loopback, its log in a temporary folder. Can be killed and started again on the same port."""

    replication = 1  # of topics
    heap = ("-Xms256m", "-Xmx1g")
    launcher: tuple[str, ...] = ()  # what java is started by

    def __init__(self, **properties: str):
        self.host, self.port, self._controller = "127.0.0.1", free_port(), free_port()
        self.bootstrap = f"{self.host}:{self.port}"
        self._extra = properties
        self._process: subprocess.Popen[bytes] | None = None
        self._was_killed = False
        self._zookeeper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "ApacheKafka":
        self._settle_in()
        if BY_ZOOKEEPER:
            main = "org.apache.zookeeper.server.ZooKeeperServerMain"
            self._zookeeper = self._java(main, str(self._controller), str(self.home / "zookeeper"))
        else:
            self._format().wait()
        self.start()
        return self

    def _settle_in(self) -> None:
        self._libs = _jars()
        self.home = Path(tempfile.mkdtemp(prefix="offnormal-kafka-"))
        self._config = self.home / "server.properties"
        properties = self._properties() | {k.replace("_", "."): v for k, v in self._extra.items()}
        self._config.write_text("".join(f"{k}={v}\n" for k, v in properties.items()))

    def _format(self) -> subprocess.Popen[bytes]:
        command = ["format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c", str(self._config), *self._format_arguments()]
        return self._java("kafka.tools.StorageTool", *command)

    def _format_arguments(self) -> list[str]:
        return []

    def __exit__(self, *_: object) -> None:
        self.kill()
        if self._zookeeper is not None:
            self._zookeeper.kill()
            self._zookeeper.wait(60)
        shutil.rmtree(self.home, ignore_errors=True)

    def start(self, timeout: float = 90) -> None:
        if BY_ZOOKEEPER and self._was_killed:  # ZooKeeper takes it for alive until then, and refuses a second one
            time.sleep(ZOOKEEPER_SESSION + 2)
        self.launch()
        self.await_open(timeout)

    def launch(self) -> None:
        self._process = self._java("kafka.Kafka", str(self._config))

    def await_open(self, timeout: float = 90) -> None:
        """Until it takes connections."""
        assert self._process is not None
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1):
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(f"Apache Kafka did not start: {(self.home / 'output').read_text()[-2000:]}")

    def kill(self, sig: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(sig)
            self._process.wait(60)
            self._process, self._was_killed = None, True

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def signal(self, sig: signal.Signals) -> None:
        """To the broker's process: SIGSTOP makes it hang, SIGCONT go on."""
        assert self._process is not None
        self._process.send_signal(sig)

    def _java(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [*self.launcher, "java", *self.heap, "-XX:TieredStopAtLevel=1", "-cp", f"{self._libs}/*", *arguments]
        with (self.home / "output").open("ab") as output:
            return subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=self.home)

    def _properties(self) -> dict[str, str]:
        return self._quorum() | {
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "log.dirs": str(self.home / "log"),
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "5",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "5",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
        }

    def _quorum(self) -> dict[str, str]:
        """Who keeps the metadata, and where this node listens."""
        listener = f"PLAINTEXT://{self.bootstrap}"
        if BY_ZOOKEEPER:
            return {
                "broker.id": "1",
                "zookeeper.connect": f"127.0.0.1:{self._controller}",
                "zookeeper.session.timeout.ms": str(ZOOKEEPER_SESSION * 1000),
                "listeners": listener,
            }
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller}",
            "listeners": f"{listener},CONTROLLER://127.0.0.1:{self._controller}",
            "controller.listener.names": "CONTROLLER",
        }


def _jars() -> Path:
    libs = CACHE / "libs"
    if not libs.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=CACHE))
        (fresh / "pom.xml").write_text(_POM)
        command = ["mvn", "-q", "-B", "-f", str(fresh), "dependency:copy-dependencies", "-DoutputDirectory=libs"]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        with contextlib.suppress(OSError):  # another test run was quicker
            (fresh / "libs").rename(libs)
        shutil.rmtree(fresh)
    return libs


def _until_told() -> None:
    told = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, told)
    signal.sigwait(told)


def main() -> None:
    if sys.argv[1:] == ["apache"]:
        with ApacheKafka() as kafka:
            print(kafka.bootstrap, flush=True)
            _until_told()
    elif sys.argv[1:] == ["embedded"]:
        with embedded_broker() as bootstrap:
            print(bootstrap, flush=True)
            _until_told()
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
