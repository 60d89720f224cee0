"""Batches that cannot be read: damaged on a disk, or made to do harm (a few KiB that unpack to GiB).

kafka-python raises at each poll, for ever, or goes on in circles. Here one is tried a few times, since what came over
the network may have been to blame, and then given up: the source makes one dead letter of it, the others pass over it.
"""

import time
from collections.abc import Callable
from functools import partial
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
    """What lies at `begin`, and goes on to `end` as far as can be told, is no sound batch. It `is_whole` where its
    checksum is right: then it was made like that.
    """

    def __init__(self, place: TopicPartition, begin: int, end: int, batch: bytes, is_whole: bool, why: str):
        super().__init__(why)
        self.place, self.begin, self.end, self.batch = place, begin, end, batch
        self.is_whole, self.why = is_whole, why

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

    __slots__ = ("_checks_crcs", "batch", "most")

    def __init__(self, data: Any, most: int, checks_crcs: bool):
        super().__init__(data)
        self.batch, self.most = b"", most  # the one that was handed on last
        self._checks_crcs = checks_crcs

    def next_batch(self) -> Any:
        if self._next_slice is not None:
            self.batch = bytes(self._next_slice)
        batch = super().next_batch()
        if isinstance(batch, DefaultRecordBatch) and batch.compression_type:
            try:
                decompress(batch.compression_type, memoryview(self.batch)[batch.HEADER_STRUCT.size :], self.most)
            except (TooLarge, MemoryError):
                # What is damaged is told so by kafka-python, which does not unpack it then.
                if not self._checks_crcs or batch.validate_crc():
                    raise
            except Exception:  # kafka-python has the word
                log.debug("batch_odd", base_offset=batch.base_offset)
        return batch

    def whole(self) -> DefaultRecordBatch | None:
        """The one that was handed on last, if its checksum is right."""
        return _whole(self.batch)

    def coming(self) -> DefaultRecordBatch | None:
        """The one that comes next, likewise."""
        return None if self._next_slice is None else _whole(bytes(self._next_slice))


def _whole(data: bytes) -> DefaultRecordBatch | None:
    if len(data) < DefaultRecordBatch.HEADER_STRUCT.size or data[16] != 2:
        return None
    batch = DefaultRecordBatch(data)
    return batch if batch.validate_crc() else None


class GuardedRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """kafka-python's own records of one partition's part of a fetch. Raises Unreadable, and is drained then."""

    def __init__(
        self, fetch_offset: int, tp: TopicPartition, records: MemoryRecords, *args: Any, most: int, **more: Any
    ):
        self._bounded = BoundedRecords(records._buffer, most, more.get("check_crcs", True))
        self._error: Exception | None = None  # it came after records that were taken before it
        super().__init__(fetch_offset, tp, self._bounded, *args, **more)

    def take(self, n: int | None = None) -> list[Any]:
        """At most n, and no more than make some `most` bytes."""
        found: list[Any] = []
        size, error, self._error = 0, self._error, None
        while error is None and (n is None or len(found) < n) and size <= self._bounded.most:
            try:
                one = super().take(1)
            except MemoryError:
                raise
            except Exception as raised:
                error = raised
                break
            if not one:
                break
            found += one
            size += len(one[0].key or b"") + len(one[0].value or b"")
        if error is not None and found:
            self._error = error
        elif error is not None:
            self.drain()
            raise self._unreadable(error) from error
        return found

    def _unreadable(self, error: Exception) -> Unreadable:
        """It ends where it says, if its checksum is right; else where a sound one begins, if one follows."""
        begin, whole, coming = self.next_fetch_offset, self._bounded.whole(), self._bounded.coming()
        end = whole.next_offset if whole is not None else coming.base_offset if coming is not None else -1
        why = f"{type(error).__name__}: {error}"
        return Unreadable(self.topic_partition, begin, max(end, begin + 1), self._bounded.batch, whole is not None, why)


def guard(consumer: KafkaConsumer, most: int) -> None:
    """A poll raises Unreadable from now on, and gives not much more than `most` bytes."""
    consumer._fetcher.PartitionRecords = partial(GuardedRecords, most=most)
    bound(consumer, most, lambda found: sum(len(r.key or b"") + len(r.value or b"") for r in found))


def bound(consumer: KafkaConsumer, most: int, size: Callable[[Any], int]) -> None:
    """A poll gathers records, however many they are, only until they have so many bytes in memory."""
    append = consumer._fetcher._append

    def bounded(drained: dict[TopicPartition, list[Any]], part: Any, n: int, update_offsets: bool) -> int:
        taken: int = append(drained, part, n, update_offsets)
        return n if sum(map(size, drained.values())) > most else taken  # n: as if all that were wanted had come

    consumer._fetcher._append = bounded


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
        goes_on = self._given_up.get(bad.place) == bad.begin
        if tries < _TRIES and not bad.is_whole and not goes_on:
            log.warning("batch_unreadable", error=str(bad), tried=tries)
            time.sleep(_PAUSE)
            return False
        high = self._consumer.highwater(bad.place)
        bad.end = max(min(bad.end, high if high is not None else bad.end), bad.begin + 1)
        log.error("batch_given_up", error=str(bad), bytes=len(bad.batch))
        if goes_on and not bad.is_whole:
            bad.batch = b""  # told already
        self._given_up[bad.place] = bad.end
        self._consumer.seek(bad.place, bad.end)
        return True
