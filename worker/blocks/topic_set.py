"""The topics that are read, and one number for each of their partitions.

Windows, incidents and offsets are kept by partition. With one topic, a partition's number is Kafka's own. With several
topics, or a pattern, it also tells the topic. It is the same in every worker and after a restart, since the state that
is committed with the offsets identifies entities by it. So it is made from a hash of the topic's name, and not from the
topic's place in a list.
"""

import re
from collections.abc import Iterable
from functools import cache
from hashlib import blake2b
from typing import Final

import numpy as np

from worker.blocks.bytes_column import BytesColumn
from worker.errors import SettingsError
from worker.native.arrays import Int64s

_PARTITION_BITS: Final = 20
_TOPIC_BITS: Final = 63 - _PARTITION_BITS  # with a thousand topics, two have the same hash with a probability of 6e-8
MOST_PARTITIONS: Final = 1 << _PARTITION_BITS


class TopicSet:
    """Topics by their names, separated by commas, or by a pattern that begins with ^ (OFFNORMAL_TOPICS__SENSORS).

    `names` are the topics that are named; there are none with a `pattern`, which has to match a topic's whole name.
    """

    def __init__(self, text: str):
        self.text = text
        self.pattern = re.compile(text) if text.startswith("^") else None
        self.names = () if self.pattern else tuple(dict.fromkeys(name.strip() for name in text.split(",")))
        self.is_one = len(self.names) == 1
        self._number_of: dict[str, int] = {}  # of a topic's first partition
        self._topic_of: dict[int, str] = {}

    @classmethod
    @cache
    def of(cls, text: str) -> "TopicSet":
        """Return the topics that a setting names: always the same object for the same text."""
        return cls(text)

    def __contains__(self, topic: object) -> bool:
        if self.pattern is None:
            return topic in self.names
        return isinstance(topic, str) and self.pattern.fullmatch(topic) is not None

    def __str__(self) -> str:
        return self.text

    def among(self, topics: Iterable[str]) -> list[str]:
        """Return those of a cluster's topics that are these."""
        return sorted(topic for topic in topics if topic in self)

    def number(self, topic: str, partition: int) -> int:
        """Return the number of a topic's partition."""
        if self.is_one:
            return partition
        number = self._number_of.get(topic)
        return (self._add(topic) if number is None else number) | partition

    def place(self, number: int) -> tuple[str, int]:
        """Return the topic and the partition that a number stands for."""
        if self.is_one:
            return self.names[0], number
        return self._topic_of[number >> _PARTITION_BITS], number & (MOST_PARTITIONS - 1)

    def shown(self, number: int) -> int | str:
        """Return a partition as logs and metrics name it: its number, with its topic where there are several."""
        return number if self.is_one else "{}/{}".format(*self.place(number))

    def partitions(self, numbers: Int64s) -> Int64s:
        """Return Kafka's partition [n] of each number."""
        return numbers if self.is_one else numbers & (MOST_PARTITIONS - 1)

    def topics(self, numbers: Int64s) -> BytesColumn:
        """Return the topic [n] of each number, where there are several."""
        of_topic, index = np.unique(numbers >> _PARTITION_BITS, return_inverse=True)
        names = BytesColumn.of([self._topic_of[number].encode() for number in of_topic.tolist()])
        return names.take(index)

    def _add(self, topic: str) -> int:
        """Take note of another topic. Raises SettingsError if it cannot be told from one that is known."""
        number = int.from_bytes(blake2b(topic.encode(), digest_size=8).digest()) >> (64 - _TOPIC_BITS)
        same_number = self._topic_of.setdefault(number, topic)
        if same_number != topic:
            raise SettingsError(f"OFFNORMAL_TOPICS__SENSORS: {topic} and {same_number} have the same hash: rename one")
        self._number_of[topic] = number << _PARTITION_BITS
        return self._number_of[topic]
