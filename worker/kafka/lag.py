"""The lag: how many records of each partition are not committed yet."""

import contextlib
import time
from collections.abc import Collection, Sequence
from typing import Any

from kafka import TopicPartition, errors

from worker.blocks import TopicSet
from worker.kafka import waits
from worker.kafka.client import internals
from worker.kafka.start_offsets import Marks

ENDS_EVERY, ENDS_PATIENCE = 5.0, 0.5  # seconds between two requests for end offsets, and the timeout of each


class Lag:
    """Knows the ends of partitions, by what fetches report, or asks for them."""

    def __init__(self, consumer: Any, topics: TopicSet, marks: Marks):
        self._consumer, self._topics, self._marks = consumer, topics, marks
        self._ends: dict[TopicPartition, int] = {}
        self._ends_at = 0.0

    def of(self, places: Collection[TopicPartition]) -> dict[int, int]:
        """Return the number of records not yet committed, by partition, from the last known high water marks."""
        begins = {place: self._uncommitted_from(place) for place in places}
        known = {place: begin for place, begin in begins.items() if begin is not None}
        ends = {place: self._consumer.highwater(place) for place in known}
        ends |= self._ends_of([place for place, end in ends.items() if end is None])
        return {
            self._topics.number(*place): max(end - known[place], 0) for place, end in ends.items() if end is not None
        }

    def forget(self, place: TopicPartition) -> None:
        """Forget the end of a partition."""
        self._ends.pop(place, None)

    def _uncommitted_from(self, place: TopicPartition) -> int | None:
        """Return where a partition's uncommitted work begins: at its position, if it has had no record yet."""
        if place in self._marks.resume or place in self._marks.unadopted:
            return self._marks.resume.get(place)
        position = internals.position(self._consumer, place)
        return None if position is None else int(position.offset)

    def _ends_of(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Ask for the ends of partitions that no fetch has reported: a broker reports an idle one only once."""
        if not set(places) <= self._ends.keys() and time.monotonic() >= self._ends_at:
            self._ends_at = time.monotonic() + ENDS_EVERY
            with contextlib.suppress(errors.KafkaError):
                self._ends = waits.end_offsets(self._consumer, places, ENDS_PATIENCE)
        return {place: self._ends[place] for place in places if place in self._ends}
