"""Batches that cannot be read: damaged on a disk, or made to do harm (a few KiB that unpack to GiB).

On such a batch kafka-python raises at each poll, forever, or loops. Here a batch is tried a few times, since the
network may have damaged it, and then given up. The source makes one dead letter of it; other readers skip it.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
import structlog
from kafka import KafkaConsumer, TopicPartition, errors
from kafka.consumer.fetcher import ConsumerRecord, Fetcher
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.memory_records import MemoryRecords

from worker.blocks.limits import BY_US, RECORD_BATCH
from worker.kafka.client import record_batch
from worker.kafka.client.compression import TooLarge, decompress

log = structlog.get_logger()

_TRIES: Final = 3
_PAUSE: Final = 0.5


class OffsetsOutOfOrder(errors.CorruptRecordError):  # type: ignore[misc]
    """A batch claims offsets that are not its own."""


class Unreadable(errors.CorruptRecordError):  # type: ignore[misc]
    """A batch that cannot be read, at the offsets from `begin` to `end` as far as that is known.

    `is_whole` says that its checksum is right, so it was written like that.
    """

    def __init__(self, place: TopicPartition, begin: int, end: int, batch: bytes, is_whole: bool, why: str):
        super().__init__(why)
        self.place, self.begin, self.end, self.batch = place, begin, end, batch
        self.is_whole, self.why = is_whole, why

    def __str__(self) -> str:
        return f"{self.place.topic}/{self.place.partition}, offsets {self.begin} to {self.end - 1}: {self.why}"

    def record(self) -> ConsumerRecord:
        """Return the batch as one record, whose value is its bytes."""
        headers = [("content-type", RECORD_BATCH.encode()), ("offnormal-error", str(self).encode()), BY_US]
        now = int(time.time() * 1000)
        place = self.place
        return ConsumerRecord(
            place.topic, place.partition, -1, self.end - 1, now, 0, None, self.batch, headers, None, -1, -1, -1
        )


class BoundedRecords(MemoryRecords):  # type: ignore[misc]
    """The batches of a fetch. Raises TooLarge instead of returning one that unpacks to more than `max_bytes`."""

    __slots__ = ("_checks_crcs", "_next_offset", "batch", "max_bytes")

    def __init__(self, data: Any, max_bytes: int, checks_crcs: bool, next_offset: int):
        """Begin after `next_offset`, where the batches before `data` end: no offset of these may be smaller."""
        super().__init__(data)
        self.batch, self.max_bytes = b"", max_bytes  # the one that was handed on last
        self._next_offset = next_offset
        self._checks_crcs = checks_crcs

    def next_batch(self) -> Any:
        """Return the next batch. Raises TooLarge, OffsetsOutOfOrder."""
        if self._next_slice is not None:
            self.batch = bytes(self._next_slice)
        batch = super().next_batch()
        if isinstance(batch, DefaultRecordBatch):
            try:
                _check(batch, self.batch, self.max_bytes, self._next_offset)
                self._next_offset = batch.next_offset
            except (TooLarge, MemoryError, OffsetsOutOfOrder):
                # kafka-python reports damaged batches itself, without unpacking them.
                if not self._checks_crcs or batch.validate_crc():
                    raise
            except Exception:  # kafka-python has the word
                log.debug("batch_malformed", base_offset=batch.base_offset)
        return batch

    def whole(self) -> DefaultRecordBatch | None:
        """Return the batch that was handed on last, if its checksum is right."""
        return _whole(self.batch)

    def coming(self) -> DefaultRecordBatch | None:
        """Return the batch that comes next, if its checksum is right."""
        return None if self._next_slice is None else _whole(bytes(self._next_slice))


def _check(batch: DefaultRecordBatch, data: bytes, max_bytes: int, next_offset: int) -> None:
    """Raise TooLarge, OffsetsOutOfOrder, or whatever unpacking raises. Control batches are the broker's own."""
    if batch.base_offset < next_offset:  # no checksum covers it
        raise OffsetsOutOfOrder(
            f"its offsets begin at {batch.base_offset}, where the batches before it end at {next_offset}"
        )
    records = memoryview(data)[batch.HEADER_STRUCT.size :]
    if batch.compression_type:
        records = memoryview(decompress(batch.compression_type, records, max_bytes))
    (header,), _ = record_batch.batches(np.frombuffer(data, np.uint8))
    _, n_valid = record_batch.records(np.frombuffer(records, np.uint8), [header._replace(begin=0, end=len(records))])
    if n_valid or batch.is_control_batch:
        return
    last = -1
    for record in DefaultRecordBatch(data):  # raises kafka-python's own error if it cannot read a record
        delta = record.offset - batch.base_offset
        if not last < delta <= header.last_offset_delta:
            raise OffsetsOutOfOrder(
                f"the offsets of its records do not rise within {batch.base_offset} to {batch.next_offset - 1}"
            )
        last = delta


def _whole(data: bytes) -> DefaultRecordBatch | None:
    if len(data) < DefaultRecordBatch.HEADER_STRUCT.size or data[16] != 2:
        return None
    batch = DefaultRecordBatch(data)
    return batch if batch.validate_crc() else None


class GuardedRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """kafka-python's own records of one partition's part of a fetch. Raises Unreadable, and is then drained."""

    def __init__(
        self,
        fetch_offset: int,
        tp: TopicPartition,
        records: MemoryRecords,
        *args: Any,
        max_bytes: int,
        next_offset: int = 0,
        **more: Any,
    ):
        self._bounded = BoundedRecords(records._buffer, max_bytes, more.get("check_crcs", True), next_offset)
        self._error: Exception | None = None  # to be raised once the records before it are taken
        super().__init__(fetch_offset, tp, self._bounded, *args, **more)

    def take(self, n: int | None = None) -> list[Any]:
        """Return at most n records, and not much more than `max_bytes` of them."""
        taken_records: list[Any] = []
        size, error, self._error = 0, self._error, None
        while error is None and (n is None or len(taken_records) < n) and size <= self._bounded.max_bytes:
            try:
                one = super().take(1)
            except MemoryError:
                raise
            except Exception as raised:
                error = raised
                break
            if not one:
                break
            taken_records += one
            size += len(one[0].key or b"") + len(one[0].value or b"")
        if error is not None and taken_records:
            self._error = error
        elif error is not None:
            self.drain()
            raise self._unreadable(error) from error
        return taken_records

    def _unreadable(self, error: Exception) -> Unreadable:
        """Return the error for the batch at the position.

        Its end is the batch's own, if its checksum is right and its end is after its beginning. Otherwise it ends where
        the next valid batch begins, if one follows.
        """
        begin, whole, coming = self.next_fetch_offset, self._bounded.whole(), self._bounded.coming()
        ends = [whole.next_offset] if whole is not None else []
        ends += [coming.base_offset] if coming is not None else []
        end = next((end for end in ends if end > begin), begin + 1)
        why = f"{type(error).__name__}: {error}"
        return Unreadable(
            place=self.topic_partition,
            begin=begin,
            end=end,
            batch=self._bounded.batch,
            is_whole=whole is not None,
            why=why,
        )


def guard(consumer: KafkaConsumer, max_bytes: int) -> None:
    """Make polls raise Unreadable, and return not much more than `max_bytes`."""
    consumer._fetcher.PartitionRecords = partial(GuardedRecords, max_bytes=max_bytes)
    bound(consumer, max_bytes, lambda fetched: sum(len(r.key or b"") + len(r.value or b"") for r in fetched))


def bound(consumer: KafkaConsumer, max_bytes: int, size: Callable[[Any], int]) -> None:
    """Make a poll stop gathering records once they hold `max_bytes` of memory."""
    append = consumer._fetcher._append

    def bounded(drained: dict[TopicPartition, list[Any]], part: Any, n: int, update_offsets: bool) -> int:
        count: int = append(drained, part, n, update_offsets)
        return n if sum(map(size, drained.values())) > max_bytes else count  # n: as if all wanted ones had come

    consumer._fetcher._append = bounded


class Patience:
    """Counts how often a batch has been tried, for each partition of a consumer."""

    def __init__(self, consumer: KafkaConsumer):
        self._consumer = consumer
        self._tried: dict[TopicPartition, tuple[int, int]] = {}  # begin -> how often
        self._given_up: dict[TopicPartition, int] = {}

    def gives_up(self, bad: Unreadable) -> bool:
        """Return whether the batch is given up; the consumer then continues after it.

        Otherwise it is to be tried again; this method has already paused.
        """
        begin, tries = self._tried.get(bad.place, (bad.begin, 0))
        tries = tries + 1 if begin == bad.begin else 1
        self._tried[bad.place] = bad.begin, tries
        # The remaining offsets of a batch whose end could not be trusted are given up one by one.
        goes_on = self._given_up.get(bad.place) == bad.begin
        if tries < _TRIES and not bad.is_whole and not goes_on:
            log.warning("batch_rejected", error=str(bad), tried=tries)
            time.sleep(_PAUSE)
            return False
        high = self._consumer.highwater(bad.place)
        bad.end = max(min(bad.end, high if high is not None else bad.end), bad.begin + 1)
        log.error("batch_abandoned", error=str(bad), bytes=len(bad.batch))
        if goes_on and not bad.is_whole:
            bad.batch = b""  # its bytes were already reported
        self._given_up[bad.place] = bad.end
        self._consumer.seek(bad.place, bad.end)
        return True
