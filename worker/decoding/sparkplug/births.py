"""What birth certificates have told: the names and the data types that aliases stand for.

An edge node tells its metrics once, when it connects, and later names them by their aliases alone. A birth certificate
may thus be much older than the messages that need it, and its record may be gone. So a worker writes what it has told
to a compacted topic, in the transaction with the offset after it. Whoever reads the sensors later reads that topic
first.

A table is valid for the records that come after its birth certificate in the same partition. Kafka keeps no order
across partitions: a table of another one might be that of before or after.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from typing import Final, NamedTuple

import orjson

from worker.blocks import TopicSet
from worker.blocks.topic_set import MOST_PARTITIONS

_KEPT: Final = 4  # births of each device, since a partition may be read again from before the last one
MOST_ALIASES: Final = 2_000_000  # in some 400 MB; beyond them, the births that were taken first are dropped


class Source(NamedTuple):
    """An edge node, or one of its devices ('' for the node itself). `partition` is a number as blocks have it."""

    partition: int
    node: str
    device: str

    @property
    def entity(self) -> str:
        """Return the name of the machine."""
        return f"{self.node}/{self.device}" if self.device else self.node


class Meaning(NamedTuple):
    """The metric that an alias stands for. `datatype` is Sparkplug's number."""

    name: str
    datatype: int


class Birth(NamedTuple):
    """A birth certificate: who told at which offset what its aliases mean."""

    source: Source
    offset: int
    aliases: dict[int, Meaning]

    def record(self, topics: TopicSet) -> tuple[bytes, bytes]:
        """Return key and value of the record that tells it to other readers."""
        topic, partition = topics.place(self.source.partition)
        _, node, device = self.source
        document = {
            "topic": topic,
            "partition": partition,
            "offset": self.offset,
            "node": node,
            "device": device,
            "metrics": [[alias, *meaning] for alias, meaning in self.aliases.items()],
        }
        return f"{topic}/{partition}/{self.source.entity}".encode(), orjson.dumps(document)

    @classmethod
    def read(cls, value: bytes | None, topics: TopicSet) -> "Birth | None":
        """Return what a record tells; None if it is malformed, or of none of the topics."""
        try:
            data = orjson.loads(value or b"")
            topic, partition, offset = data["topic"], data["partition"], data["offset"]
            aliases = {alias: Meaning(str(name), datatype) for alias, name, datatype in data["metrics"]}
            numbers = (partition, offset, *aliases, *(meaning.datatype for meaning in aliases.values()))
            if topic not in topics or not all(type(number) is int and number >= 0 for number in numbers):
                return None
            if partition >= MOST_PARTITIONS:
                return None
            source = Source(topics.number(topic, partition), str(data["node"]), str(data["device"]))
            return cls(source, offset, aliases)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return None


class Births:
    """The last birth certificates of all edge nodes and devices. Bounded."""

    def __init__(self) -> None:
        self._offsets: dict[Source, list[int]] = defaultdict(list)
        self._aliases: dict[tuple[Source, int], dict[int, Meaning]] = {}  # in the order in which they were taken
        self._partitions: dict[tuple[str, str], set[int]] = defaultdict(set)  # of a node's device
        self._count = 0  # of aliases

    def take(self, birth: Birth) -> None:
        """Take note of a birth certificate, in any order; one that is known already changes nothing."""
        source, offset, aliases = birth
        if (source, offset) in self._aliases:
            return
        insort(self._offsets[source], offset)
        self._aliases[source, offset] = aliases
        self._partitions[source[1:]].add(source.partition)
        self._count += len(aliases) + 1
        if len(self._offsets[source]) > _KEPT:
            self._drop(source, self._offsets[source][0])
        while self._count > MOST_ALIASES:
            self._drop(*next(iter(self._aliases)))

    def _drop(self, source: Source, offset: int) -> None:
        self._count -= len(self._aliases.pop((source, offset))) + 1
        self._offsets[source].remove(offset)
        if not self._offsets[source]:
            del self._offsets[source]
            self._partitions[source[1:]].discard(source.partition)
            if not self._partitions[source[1:]]:
                del self._partitions[source[1:]]

    def aliases(self, source: Source, offset: int) -> dict[int, Meaning] | None:
        """Return what the aliases of a message at this offset stand for; None if it is not known.

        After the birth of the edge node, a device needs a new one of its own.
        """
        own = self._before(source, offset)
        of_node = self._before(source._replace(device=""), offset)
        if own is None or (of_node is not None and of_node > own):
            return None
        return self._aliases[source, own]

    def elsewhere(self, source: Source) -> bool:
        """Return whether a birth certificate of this node or device lies in another partition."""
        return bool(self._partitions.get(source[1:], set()) - {source.partition})

    def _before(self, source: Source, offset: int) -> int | None:
        offsets = self._offsets.get(source, [])
        at = bisect_left(offsets, offset)
        return offsets[at - 1] if at else None
