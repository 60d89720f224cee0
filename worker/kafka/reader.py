"""A reader without a consumer group: reads all partitions of its topics, from given offsets.

It serves everything outside of the exactly-once loop: the registry, the training window, the terminal views.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Final

import numpy as np
from kafka import TopicPartition, errors
from kafka.structs import OffsetAndTimestamp

from worker.blocks import RecordBlock, TopicSet
from worker.kafka import waits
from worker.kafka.client import internals
from worker.kafka.connection import consumer
from worker.kafka.errors import readable, readable_errors
from worker.kafka.polling import block_maker
from worker.kafka.unreadable import Patience, Unreadable
from worker.settings import KafkaSettings


def is_found(offset: OffsetAndTimestamp | None) -> bool:
    """Return whether a search by time found a record. (The embedded broker answers with offset 0 and no timestamp.)"""
    return offset is not None and offset.timestamp >= 0


LAST: Final = 50  # last offsets in which to look for the newest record: some may be transaction markers


class Reader:
    """Reads topics as they were committed (read_committed). Raises worker.errors.KafkaError throughout.

    Partitions are numbered as blocks have them (worker/blocks/topic_set.py). `patience` is how long the broker
    holds a fetch request while no records arrive. Other requests, and closing, have to wait for it, but each request
    costs a millisecond. `only` is a topic and a partition, by default all are read. `prepare` is applied to each block.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        max_records: int = 5000,
        patience: float = 0.1,
        only: tuple[str, int] | None = None,
        prepare: Callable[[RecordBlock], RecordBlock] = lambda records: records,
    ):
        self.topics = TopicSet.of(topic)
        self._settings = settings
        self._max_records, self._prepare = max_records, prepare
        self._consumer = consumer(settings, auto_offset_reset="earliest", fetch_max_wait_ms=int(patience * 1000))
        self._blocks = block_maker(self._consumer, settings)
        self._patience = Patience(self._consumer)
        with self._errors():
            places = waits.places_of(self._consumer, self.topics)
            self.places = [place for place in places if only in (None, place)]
            self._consumer.assign(self.places)
            self._ends = waits.end_offsets(self._consumer, self.places)

    def _number(self, place: TopicPartition) -> int:
        return self.topics.number(*place)

    def _errors(self) -> AbstractContextManager[None]:
        return readable_errors(f"reading {self.topics}", self._settings.bootstrap)

    def ends(self) -> dict[int, int]:
        """Return the end offset of each partition at the reader's start.

        The embedded broker's lies before its last batch.
        """
        return {self._number(place): end for place, end in self._ends.items()}

    def starts(self) -> dict[int, int]:
        """Return the first offset of each partition that retention has left."""
        with self._errors():
            offsets = waits.beginning_offsets(self._consumer, self.places)
        return {self._number(place): offset for place, offset in offsets.items()}

    def partitions(self) -> list[int]:
        """Return the numbers of the partitions."""
        return [self._number(place) for place in self.places]

    def topic_ids(self) -> dict[str, str | None]:
        """Return the id of each topic, which tells it from another of its name; None from brokers before 2.8."""
        return {topic: internals.topic_id(self._consumer, topic) for topic in {place.topic for place in self.places}}

    def has_read(self, ends: Mapping[int, int], timeout: float = waits.POSITION) -> bool:
        """Return whether the positions have reached all of these ends.

        Waits for a position that is not known yet, at most `timeout` seconds each.
        """
        with self._errors():
            try:
                return all(
                    waits.position(self._consumer, place, timeout) >= ends.get(self._number(place), 0)
                    for place in self.places
                )
            except errors.KafkaTimeoutError:
                return False

    def seek(self, offsets: Mapping[int, int]) -> None:
        """Go on from these offsets, by partition."""
        for place in self.places:
            if (number := self._number(place)) in offsets:
                self._consumer.seek(place, offsets[number])

    def seek_to_end(self) -> None:
        """Read on at the end of each partition."""
        if self.places:
            self._consumer.seek_to_end(*self.places)

    def offsets_at(self, time_ms: int) -> dict[int, int]:
        """Return the first offset of each partition whose timestamp is at least `time_ms`; the end if there is none."""
        with self._errors():
            offsets = waits.offsets_for_times(self._consumer, self.places, time_ms)
        return {
            self._number(place): offset.offset if offset and is_found(offset) else self._ends[place]
            for place, offset in offsets.items()
        }

    def newest(self) -> int | None:
        """Return the latest timestamp (ms) among the last records of each partition; None where there are none.

        This moves the positions, so the caller has to seek afterwards.
        """
        first = self.starts()
        self.seek({number: max(end - LAST, first[number]) for number, end in self.ends().items()})
        times = [int(block.timestamp.max()) for block in self.to_end() if len(block)]
        return max(times, default=None)

    def poll(self, timeout: float) -> RecordBlock | None:
        """Return the next block, or None. A batch that cannot be read is passed over, with an error in the log."""
        with self._errors():
            try:
                fetched = self._consumer.poll(timeout_ms=int(timeout * 1000), max_records=self._max_records)
            except Unreadable as bad:
                self._patience.gives_up(bad)
                return None
        return self._prepare(self._blocks.block_of(self.topics, fetched)) if fetched else None

    def caught_up(self) -> bool:
        """Return whether all that was there at the start has been read."""
        return self.has_read(self.ends())

    def to_end(self) -> Iterator[RecordBlock]:
        """Yield all records up to the end as of the start.

        Some that came later may be among them, but not all of those.
        """
        last, until = time.monotonic(), math.inf
        while self.places and time.monotonic() < until:
            block = self.poll(0.2)
            if until == math.inf and self.caught_up():
                until = time.monotonic() + 0.2
            if block is not None:
                last = time.monotonic()
                yield block
            elif until < math.inf:
                return
            elif time.monotonic() - last > self._settings.startup_timeout:
                raise self._stalled()

    def from_each(
        self, offsets: Mapping[int, int], count: int, wanted: Callable[[RecordBlock], RecordBlock]
    ) -> list[RecordBlock]:
        """Return the first `count` records of each partition that are `wanted`, from these offsets on.

        Reads to the end as of the start, at most. This moves the positions, so the caller has to seek afterwards.
        """
        self.seek(offsets)
        blocks: list[RecordBlock] = []
        missing = dict.fromkeys(self.places, count)
        last = time.monotonic()
        while missing:
            block = self.poll(0.2)
            if block is not None:
                last = time.monotonic()
                part = wanted(block)
                kept = {
                    place: np.flatnonzero(part.partition == self._number(place))[:n] for place, n in missing.items()
                }
                blocks.append(part.take(np.sort(np.concatenate(list(kept.values())))))
                missing = {place: n - len(kept[place]) for place, n in missing.items()}
            elif time.monotonic() - last > self._settings.startup_timeout:
                raise self._stalled()
            for place in [place for place, n in missing.items() if not n or self._has_ended(place)]:
                del missing[place]
                self._consumer.seek(place, self._ends[place])  # what is behind is not needed
        return blocks

    def _has_ended(self, place: TopicPartition) -> bool:
        with self._errors(), suppress(errors.KafkaTimeoutError):
            return waits.position(self._consumer, place) >= self._ends[place]
        return False

    def _stalled(self) -> Exception:
        error = errors.KafkaTimeoutError("no more records arrive")
        return readable(error, f"reading {self.topics}", self._settings.bootstrap)

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close(autocommit=False, timeout_ms=waits.CLOSE * 1000)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
