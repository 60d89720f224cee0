"""What birth certificates have told: the names and the data types that aliases stand for.

An edge node tells its metrics once, when it connects, and later names them by their aliases alone, without their data
types. A birth certificate may thus be much older than the messages that need it, and its record may be gone. So a
worker writes what it has told to a compacted topic, in the transaction with the offset after it. Whoever reads the
sensors later reads that topic first.

A table is valid for the records that come after its birth certificate in the same partition. Kafka keeps no order
across partitions: a table of another one might be that of before or after.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, NamedTuple

import orjson

from worker.blocks import TopicSet
from worker.blocks.topic_set import MOST_PARTITIONS

_KEPT: Final = 4  # births of each device, since a partition may be read again from before the last one
MOST_BYTES: Final = 7 << 20  # of the record of one birth certificate, whose topic takes 8 MiB
MOST_IN_ALL: Final = 1 << 28  # of all together: then those of machines that are not known yet are refused
_OF_METRIC: Final = 200  # bytes of memory that a metric takes beside its name, about
_AS_JSON: Final = 6, 50  # bytes of a character of a name (a control character), and of a metric beside its name


class Source(NamedTuple):
    """An edge node, or one of its devices ('' for the node itself). `partition` is a number as blocks have it."""

    partition: int
    node: str
    device: str

    @property
    def entity(self) -> str:
        """Return the name of the machine."""
        return f"{self.node}/{self.device}" if self.device else self.node


@dataclass(frozen=True)
class Table:
    """What the metrics of a machine are: the name of each alias, and Sparkplug's number of the data type of each name.

    A type of 0 is not known.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    types: Mapping[str, int] = field(default_factory=dict)

    def with_more(self, more: "Table") -> "Table":
        """Return both, of which `more` counts; but it does not make a type unknown that is known."""
        types = {**self.types, **{name: kind or self.types.get(name, 0) for name, kind in more.types.items()}}
        return Table({**self.names, **more.names}, types)

    @property
    def bytes(self) -> int:
        """Return how many bytes the names take."""
        return sum(len(name.encode()) for name in self.types)

    @property
    def most_json(self) -> int:
        """Return how many bytes its record takes, at most."""
        of_name, of_metric = _AS_JSON
        return of_name * self.bytes + of_metric * (len(self.names) + len(self.types))


class Birth(NamedTuple):
    """A birth certificate, and the offset at which it was told.

    `topic_id` tells the topic from another of its name; None where it is not known.
    """

    source: Source
    offset: int
    table: Table
    topic_id: str | None = None

    def is_of(self, topic_id: str | None) -> bool:
        """Return whether it was told in the topic of this id, and not in a former one of its name."""
        return None in (self.topic_id, topic_id) or self.topic_id == topic_id

    def topic(self, topics: TopicSet) -> str:
        """Return the name of the topic in which it was told."""
        return topics.place(self.source.partition)[0]

    def record(self, topics: TopicSet) -> tuple[bytes, bytes]:
        """Return key and value of the record that tells it to other readers."""
        topic, partition = topics.place(self.source.partition)
        _, node, device = self.source
        names, types = self.table.names, self.table.types
        by_name_alone = types.keys() - set(names.values())
        document = {
            "topic": topic,
            "topic_id": self.topic_id,
            "partition": partition,
            "offset": self.offset,
            "node": node,
            "device": device,
            "metrics": [
                *([alias, name, types.get(name, 0)] for alias, name in names.items()),
                *([None, name, types[name]] for name in sorted(by_name_alone)),
            ],
        }
        return f"{topic}/{partition}/{self.source.entity}".encode(), orjson.dumps(document)

    @classmethod
    def read(cls, value: bytes | None, topics: TopicSet) -> "Birth | None":
        """Return what a record tells; None if it is malformed, or of none of the topics."""
        try:
            data = orjson.loads(value or b"")
            topic, partition, offset = data["topic"], data["partition"], data["offset"]
            metrics = [(alias, str(name), kind) for alias, name, kind in data["metrics"]]
            numbers = [partition, offset]
            numbers += [number for alias, _, kind in metrics for number in (alias or 0, kind)]
            if topic not in topics or not all(type(number) is int and number >= 0 for number in numbers):
                return None
            if partition >= MOST_PARTITIONS or type(topic_id := data["topic_id"]) not in (str, type(None)):
                return None
            source = Source(topics.number(topic, partition), str(data["node"]), str(data["device"]))
            names = {alias: name for alias, name, _ in metrics if alias is not None}
            return cls(source, offset, Table(names, {name: kind for _, name, kind in metrics}), topic_id)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
            return None


class Births:
    """The last birth certificates of edge nodes and devices. Bounded."""

    def __init__(self) -> None:
        self._births: dict[Source, dict[int, Birth]] = {}  # by offset, in the order in which they were taken
        self._bytes = 0

    def take(self, birth: Birth) -> bool:
        """Take note of a birth certificate; return False if there are too many machines for another one."""
        if birth.source not in self._births and self._bytes > MOST_IN_ALL:
            return False
        own = self._births.setdefault(birth.source, {})
        self._bytes += _size(birth) - _size(own.pop(birth.offset, None))
        own[birth.offset] = birth  # as the last one, also if a partition is read again
        if len(own) > _KEPT:
            self._bytes -= _size(own.pop(next(iter(own))))
        return True

    def table(self, source: Source, offset: int) -> Table:
        """Return what is known of the metrics of a message at this offset.

        After the birth of the edge node, a device needs a new one of its own.
        """
        own = self._before(source, offset)
        if own < self._before(source._replace(device=""), offset):
            return Table()
        return self._births[source][own].table if own >= 0 else Table()

    def restore(self, partition: int, births: Iterable[Birth]) -> None:
        """Replace all that is known of a partition."""
        for source in [source for source in self._births if source.partition == partition]:
            self._bytes -= sum(map(_size, self._births.pop(source).values()))
        for birth in births:
            self.take(birth)

    def of(self, partition: int) -> list[Birth]:
        """Return the births of a partition, in the order of their offsets."""
        own = (births.values() for source, births in self._births.items() if source.partition == partition)
        return sorted(chain.from_iterable(own), key=lambda birth: birth.offset)

    def _before(self, source: Source, offset: int) -> int:
        return max((birth for birth in self._births.get(source, ()) if birth < offset), default=-1)


def _size(birth: Birth | None) -> int:
    return 0 if birth is None else birth.table.bytes + _OF_METRIC * (len(birth.table.types) + 1)
