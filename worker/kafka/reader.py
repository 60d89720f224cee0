"""A reader without a group: all partitions of a topic, from a given place, for as long as its caller likes.

Serves what is no part of the exactly-once loop: the registry, the training window, the terminal views.
"""

import math
import time
from collections.abc import Container, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Final

from kafka import TopicPartition, errors
from kafka.structs import OffsetAndTimestamp

from worker.kafka.blocks import blocks
from worker.kafka.connection import consumer
from worker.kafka.faults import readable, readable_errors
from worker.kafka.unreadable import Patience, Unreadable
from worker.settings import KafkaSettings
from worker.vectors import RecordBlock


def is_found(at: OffsetAndTimestamp | None) -> bool:
    """Whether a search by time found a record. (The embedded broker answers with offset 0 and no timestamp.)"""
    return at is not None and at.timestamp >= 0


LAST: Final = 50  # records of a partition that are looked at for the newest: some may be transaction markers


class Reader:
    """Reads a topic as it was committed (read_committed). Raises worker.errors.KafkaError throughout.

    `patience` is how long the broker holds a request while nothing comes: other requests, and the end, wait behind it,
    but each one costs a millisecond. `only` are the partitions to read, by default all.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        max_records: int = 5000,
        patience: float = 0.1,
        only: Container[int] | None = None,
    ):
        self.topic = topic
        self._settings = settings
        self._max_records = max_records
        self._consumer = consumer(settings, auto_offset_reset="earliest", fetch_max_wait_ms=int(patience * 1000))
        self._blocks = blocks(self._consumer, settings)
        self._patience = Patience(self._consumer)
        with self._errors():
            partitions = sorted(self._consumer.partitions_for_topic(topic) or ())
            self._partitions = [TopicPartition(topic, p) for p in partitions if only is None or p in only]
            self._consumer.assign(self._partitions)
            self._ends = self._consumer.end_offsets(self._partitions) if partitions else {}

    def _errors(self) -> AbstractContextManager[None]:
        return readable_errors(f"reading {self.topic}", self._settings.bootstrap)

    def ends(self) -> dict[int, int]:
        """Partition -> end offset as of the reader's start. (The embedded broker's lies before its last batch.)"""
        return {p.partition: end for p, end in self._ends.items()}

    def starts(self) -> dict[int, int]:
        """Partition -> the first offset that retention has left."""
        with self._errors():
            found = self._consumer.beginning_offsets(self._partitions) if self._partitions else {}
        return {p.partition: offset for p, offset in found.items()}

    def partitions(self) -> list[int]:
        return [p.partition for p in self._partitions]

    def has_read(self, ends: Mapping[int, int]) -> bool:
        """True once its position has come to all of these."""
        with self._errors():
            return all(
                (self._consumer.position(p, timeout_ms=1000) or 0) >= ends.get(p.partition, 0) for p in self._partitions
            )

    def seek(self, offsets: Mapping[int, int]) -> None:
        """Partition -> offset to go on from."""
        for partition in self._partitions:
            if partition.partition in offsets:
                self._consumer.seek(partition, offsets[partition.partition])

    def seek_to_end(self) -> None:
        if self._partitions:
            self._consumer.seek_to_end(*self._partitions)

    def offsets_at(self, time_ms: int) -> dict[int, int]:
        """Partition -> the first offset whose timestamp is at least `time_ms`; its end where there is none."""
        with self._errors():
            found = self._consumer.offsets_for_times(dict.fromkeys(self._partitions, time_ms))
        return {p.partition: found[p].offset if is_found(found.get(p)) else self._ends[p] for p in self._partitions}

    def newest(self) -> int | None:
        """The latest timestamp (ms) among the last records of each partition; None where there are none. Where it reads
        from next is to be said after it.
        """
        first = self.starts()
        self.seek({p.partition: max(self._ends[p] - LAST, first[p.partition]) for p in self._partitions})
        times = [int(block.timestamp.max()) for block in self.to_end() if len(block)]
        return max(times, default=None)

    def poll(self, timeout: float) -> RecordBlock | None:
        """What has come; a batch that cannot be read is passed over, with an error in the log."""
        with self._errors():
            try:
                fetched = self._consumer.poll(timeout_ms=int(timeout * 1000), max_records=self._max_records)
            except Unreadable as bad:
                self._patience.gives_up(bad)
                return None
        return self._blocks.block_of(self.topic, fetched) if fetched else None

    def caught_up(self) -> bool:
        """True once all that was there at the start has been read."""
        return self.has_read(self.ends())

    def to_end(self) -> Iterator[RecordBlock]:
        """All records up to the end as of the start, and what comes with them: where more come all the time, not all of
        these.
        """
        last, until = time.monotonic(), math.inf
        while self._partitions and time.monotonic() < until:
            block = self.poll(0.2)
            if until == math.inf and self.caught_up():
                until = time.monotonic() + 0.2
            if block is not None:
                last = time.monotonic()
                yield block
            elif until < math.inf:
                return
            elif time.monotonic() - last > self._settings.startup_timeout:
                error = errors.KafkaTimeoutError("no more records arrive")
                raise readable(error, f"reading {self.topic}", self._settings.bootstrap)

    def close(self) -> None:
        self._consumer.close(autocommit=False, timeout_ms=2000)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
