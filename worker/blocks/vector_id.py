"""The identity of a vector: its place in Kafka. Events, labels and incidents name vectors by it."""

import re
from typing import NamedTuple

from worker.blocks.topic_set import MOST_PARTITIONS, TopicSet

_TEXT = re.compile(r"([a-zA-Z0-9._-]{1,249})/(\d{1,10})/(\d{1,19})/(\d{1,19})", re.ASCII)


class VectorId(NamedTuple):
    """The `row`-th vector of the record at `offset`. As text: topic/partition/offset/row."""

    topic: str
    partition: int
    offset: int
    row: int

    @classmethod
    def parse(cls, text: object, topics: TopicSet | None = None) -> "VectorId | None":
        """Return the identity that `text` names; None if it names none, or one of none of the `topics`."""
        match = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if match is None or not (topics is None or match[1] in topics):
            return None
        vector = cls(match[1], int(match[2]), int(match[3]), int(match[4]))
        return vector if vector.partition < MOST_PARTITIONS and max(vector.offset, vector.row) < 2**63 else None

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}/{self.row}"
