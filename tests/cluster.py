"""Three brokers of Apache Kafka, each its own controller too: replication factor 3, min ISR 2, for the offsets and the
transactions as well. Each in a room of its own where there are any (tests/rooms.py), or all on loopback.
"""

import contextlib
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import confluent_kafka as librdkafka
from confluent_kafka.admin import AdminClient
from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import UnknownTopicOrPartitionError

from tests.brokers import ApacheKafka
from tests.rooms import NoRooms, Room, rooms

SIZE = 3
SESSION = 9.0  # seconds without a heartbeat after which a broker counts as dead: broker.session.timeout.ms
OFFSETS, TRANSACTIONS = "__consumer_offsets", "__transaction_state"


class Node(ApacheKafka):
    """One of the brokers. `number` is its id."""

    heap = ("-Xms128m", "-Xmx512m")

    def __init__(self, number: int, room: Room | None):
        super().__init__()
        self.number, self.room = number, room
        if room is not None:
            self.host, self.port, self._controller = room.address, 9092, 9093
            self.bootstrap = f"{self.host}:{self.port}"
            self.launcher = room.launcher
        self.voter = f"{number}@{self.host}:{self._controller}"
        self.voters = ""

    @property
    def log(self) -> Path:
        return self.home / "log"

    def settle_in(self) -> None:
        self._settle_in()
        self.log.mkdir()
        if self.room is not None:
            self.room.mount_disk(self.log)
        assert self._format().wait() == 0, (self.home / "output").read_text()

    def _quorum(self) -> dict[str, str]:
        return super()._quorum() | {
            "node.id": str(self.number),
            "controller.quorum.voters": self.voters,
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{self.host}:{self._controller}",
        }

    def _properties(self) -> dict[str, str]:
        return super()._properties() | {
            "default.replication.factor": str(SIZE),
            "min.insync.replicas": "2",
            "offsets.topic.replication.factor": str(SIZE),
            "transaction.state.log.replication.factor": str(SIZE),
            "transaction.state.log.min.isr": "2",
            # As docs/brokers.md advises. Else a transaction whose markers are on their way to a broker that is cut off
            # ends 30 s later.
            "request.timeout.ms": "5000",
        }


class Cluster:
    """`bootstrap` names all three. `no_rooms` says why its brokers cannot be cut off, and their disks not be filled."""

    replication = SIZE

    def __enter__(self) -> "Cluster":
        self._stack = contextlib.ExitStack()
        self.no_rooms: str | None = None
        places: Sequence[Room | None] = [None] * SIZE
        try:
            places = self._stack.enter_context(rooms(SIZE))
        except NoRooms as reason:
            self.no_rooms = str(reason)
        self.nodes = [Node(k, room) for k, room in enumerate(places, 1)]
        self.bootstrap = ",".join(node.bootstrap for node in self.nodes)
        for node in self.nodes:
            node.voters = ",".join(each.voter for each in self.nodes)
            node.settle_in()
            self._stack.push(node.__exit__)
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    # -- as one broker

    def running(self) -> bool:
        return all(node.running() for node in self.nodes)

    def start(self) -> None:
        """What does not run, until all have everything."""
        for node in self.nodes:
            if not node.running():
                node.launch()
        for node in self.nodes:
            node.await_open()
        self.await_whole()

    def heal(self) -> None:
        """As it was at first, whatever was done to it. All topics go but Kafka's own."""
        for node in self.nodes:
            if node.room is not None:
                node.room.reconnect()
                node.room.enlarge_disk(node.log)
            if node.running():
                node.signal(signal.SIGCONT)
        self.start()
        with self.admin() as admin:
            for topic in self.metadata().topics:
                if not topic.startswith("__"):
                    with contextlib.suppress(UnknownTopicOrPartitionError):  # a broker that was away still lists it
                        admin.delete_topics([topic])

    # -- each broker

    def node(self, number: int) -> Node:
        return self.nodes[number - 1]

    def restart(self, number: int, sig: signal.Signals, pause: float = 0.0) -> None:
        """And waits until it has caught up. SIGTERM: it hands its leaderships over first."""
        node = self.node(number)
        node.kill(sig)
        time.sleep(pause)
        node.launch()
        node.await_open()
        self.await_whole()

    def await_whole(self, timeout: float = 90) -> None:
        """Until each partition has a leader, and all of its replicas are in sync, by what each broker knows."""
        deadline = time.monotonic() + timeout
        while not all(self._whole(node) for node in self.nodes):
            if time.monotonic() > deadline:
                told = [(node.bootstrap, node.running()) for node in self.nodes]
                raise AssertionError(f"the cluster is not whole within {timeout} s: {told}")
            time.sleep(0.2)

    def _whole(self, node: Node) -> bool:
        client = AdminClient({"bootstrap.servers": node.bootstrap, "log_level": 0})
        try:
            found = client.list_topics(timeout=5)
        except librdkafka.KafkaException:
            return False
        return len(found.brokers) == SIZE and all(
            partition.leader >= 0 and len(partition.isrs) == len(partition.replicas)
            for topic in found.topics.values()
            for partition in topic.partitions.values()
        )

    # -- topics

    def metadata(self) -> Any:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0}).list_topics(timeout=30)

    def leaders(self, topic: str) -> dict[int, int]:
        """Partition -> number of the broker that leads it, -1 for none."""
        return {p: each.leader for p, each in self.metadata().topics[topic].partitions.items()}

    def coordinator(self, topic: str, name: str) -> int:
        """The broker of the group (OFFSETS) or transactional id (TRANSACTIONS) of this name."""
        leaders = self.leaders(topic)
        return leaders[_java_hash(name) % len(leaders)]

    def controller(self) -> int:
        """The broker that is the active controller."""
        with self.admin() as admin:
            found = admin.describe_metadata_quorum()
        leader: int = found["topics"][0]["partitions"][0]["leader_id"]
        return leader

    def assign(self, replicas: Mapping[TopicPartition, Sequence[int]]) -> None:
        """Moves partitions to these brokers, the first of which is to lead. Done once the cluster is whole."""
        with self.admin() as admin:
            refused = [e for e in admin.alter_partition_reassignments(dict(replicas)).values() if e is not None]
            assert not refused, refused
            while admin.list_partition_reassignments():
                time.sleep(0.2)
        self.await_whole()

    def elect_preferred(self) -> None:
        """Each partition is led by the first of its replicas."""
        with self.admin() as admin:
            admin.elect_leaders(0)

    @contextlib.contextmanager
    def admin(self) -> Any:
        client = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            yield client
        finally:
            client.close()


def _java_hash(name: str) -> int:
    """As Kafka spreads names over partitions: String.hashCode, without its sign."""
    found = 0
    for letter in name:
        found = (31 * found + ord(letter)) & 0xFFFFFFFF
    return found & 0x7FFFFFFF
