"""Batches that cannot be read: damaged on a disk, or made to do harm (a few KiB that unpack to GiB).

kafka-python raises at each poll, for ever, or goes on in circles. Here one is tried a few times, since what came over
the network may have been to blame, and then given up: the source makes one dead letter of it, the others pass over it.
"""

import time
from typing import Any, Final

import structlog
from kafka import KafkaConsumer, TopicPartition, errors
from kafka.consumer.fetcher import ConsumerRecord, Fetcher
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.memory_records import MemoryRecords

from worker.kafka.compression import TooLarge, decompress
from worker.vectors.formats import RECORD_BATCH

log = structlog.get_logger()

_TRIES: Final = 3
_PAUSE: Final = 0.5


class Unreadable(errors.CorruptRecordError):  # type: ignore[misc]
    """What lies at `begin`, and goes on to `end` as far as can be told, is no sound batch."""

    def __init__(self, place: TopicPartition, begin: int, end: int, batch: bytes, why: str):
        super().__init__(why)
        self.place, self.begin, self.end, self.batch, self.why = place, begin, end, batch, why

    def __str__(self) -> str:
        return f"{self.place.topic}/{self.place.partition}, offsets {self.begin} to {self.end - 1}: {self.why}"

    def record(self) -> ConsumerRecord:
        """As if it was one record, whose value is the batch."""
        headers = [("content-type", RECORD_BATCH.encode()), ("offnormal-error", str(self).encode())]
        now = int(time.time() * 1000)
        place = self.place
        return ConsumerRecord(
            place.topic, place.partition, -1, self.end - 1, now, 0, None, self.batch, headers, None, -1, -1, -1
        )


class BoundedRecords(MemoryRecords):  # type: ignore[misc]
    """The batches of a fetch; none that unpacks to more than `most` bytes is handed on. Raises TooLarge."""

    __slots__ = ("batch", "most")

    def __init__(self, data: Any, most: int):
        super().__init__(data)
        self.batch, self.most = b"", most

    def next_batch(self) -> Any:
        if self._next_slice is not None:
            self.batch = bytes(self._next_slice)
        batch = super().next_batch()
        if isinstance(batch, DefaultRecordBatch) and batch.compression_type:
            try:
                decompress(batch.compression_type, memoryview(self.batch)[batch.HEADER_STRUCT.size :], self.most)
            except TooLarge:
                raise
            except Exception:  # kafka-python has the word
                log.debug("batch_odd", base_offset=batch.base_offset)
        return batch

    def next_base(self) -> int:
        """The first offset of the batch to come; -1 where none does."""
        return -1 if self._next_slice is None else int.from_bytes(self._next_slice[:8], "big", signed=True)


class GuardedRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """kafka-python's own records of one partition's part of a fetch. Raises Unreadable, and is drained then."""

    def __init__(
        self, fetch_offset: int, tp: TopicPartition, records: MemoryRecords, *args: Any, most: int, **more: Any
    ):
        self._bounded = BoundedRecords(records._buffer, most)
        super().__init__(fetch_offset, tp, self._bounded, *args, **more)

    def take(self, n: int | None = None) -> list[Any]:
        try:
            found: list[Any] = super().take(n)
            return found
        except Exception as error:
            self.drain()
            begin, end = self.next_fetch_offset, self._end()
            why = f"{type(error).__name__}: {error}"
            raise Unreadable(self.topic_partition, begin, max(end, begin + 1), self._bounded.batch, why) from error

    def _end(self) -> int:
        """Where the next batch begins; what a damaged one says of itself is not to be trusted."""
        base, batch = self._bounded.next_base(), self._bounded.batch
        if base > self.next_fetch_offset:
            return base
        if len(batch) < DefaultRecordBatch.HEADER_STRUCT.size or batch[16] != 2:
            return -1
        sound = DefaultRecordBatch(batch)
        return int(sound.next_offset) if sound.validate_crc() else -1


class Patience:
    """How often a batch has been tried, for each partition of a consumer."""

    def __init__(self, consumer: KafkaConsumer):
        self._consumer = consumer
        self._tried: dict[TopicPartition, tuple[int, int]] = {}  # begin -> how often
        self._given_up: dict[TopicPartition, int] = {}

    def gives_up(self, bad: Unreadable) -> bool:
        """False: it is to be tried again, after a pause that was made. True: the consumer reads on after it."""
        begin, tries = self._tried.get(bad.place, (bad.begin, 0))
        tries = tries + 1 if begin == bad.begin else 1
        self._tried[bad.place] = bad.begin, tries
        # After a batch whose end was not to be trusted its other offsets come, one by one.
        if tries < _TRIES and self._given_up.get(bad.place) != bad.begin:
            log.warning("batch_unreadable", error=str(bad), tried=tries)
            time.sleep(_PAUSE)
            return False
        log.error("batch_given_up", error=str(bad), bytes=len(bad.batch))
        high = self._consumer.highwater(bad.place)
        bad.end = max(min(bad.end, high if high is not None else bad.end), bad.begin + 1)
        self._given_up[bad.place] = bad.end
        self._consumer.seek(bad.place, bad.end)
        return True
