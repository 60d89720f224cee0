"""The metadata of a committed offset: the caller's state, and what the source has to know of the topic."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

# Kafka's offset.metadata.max.bytes is 4096 unless a broker says otherwise.
MAX_BYTES: Final = 4000
SOURCE_BYTES: Final = 100  # of these, for what the source stores

_OWN: Final = ("topic", "first", "began")


@dataclass(frozen=True)
class OffsetNote:
    """What is stored beside a committed offset.

    `topic_id` tells topics of the same name apart. `first_partitions` is how many partitions the topic had when the
    group began: partitions that were added later are read from their first record. `began` is when the group began to
    read (ms), stored with topics that a pattern matches. Each is None where it is not known.
    """

    topic_id: str | None = None
    first_partitions: int | None = None
    began: int | None = None
    state: Mapping[str, Any] = field(default_factory=dict)

    def dump(self) -> str:
        """Return the note as JSON, as it is stored beside the offset."""
        own = zip(_OWN, (self.topic_id, self.first_partitions, self.began), strict=True)
        own_values = {name: value for name, value in own if value is not None}
        return json.dumps({**own_values, **self.state}, separators=(",", ":")) if own_values or self.state else ""

    @classmethod
    def load(cls, metadata: str | None) -> "OffsetNote":
        """Return the note; an empty one if what is stored there is not ours."""
        try:
            doc: Any = json.loads(metadata or "")
            topic, first, began = (doc.get(name) for name in _OWN)
        except (ValueError, AttributeError, RecursionError):
            return cls()
        state = {name: value for name, value in doc.items() if name not in _OWN}
        first, began = (n if type(n) is int and n >= 0 else None for n in (first, began))
        return cls(topic if type(topic) is str else None, first, began, state)
