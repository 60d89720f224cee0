"""Fast reading: decodes fetch responses to columns, where kafka-python creates an object for each record.

Everything else is left to kafka-python: connections, fetch sessions, positions, rebalances, leader epochs. Only the
class that unpacks one partition's part of a response (`Fetcher.PartitionRecords`) is replaced, by `PartitionColumns`,
which has the same methods. It decodes valid batches by itself. At the first batch that is corrupt or of an old format,
it hands the rest to kafka-python's own class. Both ways therefore give the same records and the same errors.

A response is unpacked in parts of about `max_bytes`, one at a time, since a small response may unpack to a lot.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, Final, NamedTuple

import numpy as np
from crc32c import crc32c
from kafka import KafkaConsumer, TopicPartition
from kafka.protocol.consumer import IsolationLevel
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.memory_records import MemoryRecords

from worker.blocks import BytesColumn, Headers, RecordBlock, TopicSet
from worker.kafka.client import record_batch, transport
from worker.kafka.client.compression import decompress
from worker.kafka.client.record_batch import Batch, Columns
from worker.kafka.outputs import decode_headers, encode_headers
from worker.kafka.records import int64
from worker.kafka.unreadable import GuardedRecords, bound
from worker.native.arrays import Bytes

UNBOUNDED: Final = 1 << 62


def install(consumer: KafkaConsumer, max_bytes: int) -> None:
    """Make `consumer.poll` return a list of chunks for each partition, instead of a list of records.

    A batch that unpacks to more than `max_bytes` is not read.
    """
    consumer._fetcher.PartitionRecords = partial(PartitionColumns, max_bytes=max_bytes)
    bound(consumer, max_bytes, _bytes)
    transport.install_transports()


def _bytes(chunks: Sequence["Chunk"]) -> int:
    """Return how many bytes of memory these chunks hold."""
    return sum({chunk.columns.buffer.ctypes.data: chunk.columns.buffer.nbytes for chunk in chunks}.values())


class Chunk(Sequence["Chunk"]):
    """Records of one partition, in columns.

    kafka-python treats a chunk as a list of records: it takes its length, and extends a list by it. The list then
    contains the chunk as a whole.
    """

    def __init__(self, columns: Columns):
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns.offset)

    def __iter__(self) -> Iterator["Chunk"]:
        yield self

    def __getitem__(self, index: Any) -> Any:
        raise TypeError("a chunk is taken as a whole")


class PartitionColumns:
    """The records of one partition's part of a fetch response, where kafka-python has its `PartitionRecords`."""

    def __init__(
        self,
        fetch_offset: int,
        tp: TopicPartition,
        records: MemoryRecords,
        key_deserializer: None = None,
        value_deserializer: None = None,
        check_crcs: bool = True,
        isolation_level: Any = IsolationLevel.READ_UNCOMMITTED,
        aborted_transactions: Any = None,
        metric_aggregator: Any = None,
        on_drain: Callable[[Any], None] = lambda _: None,
        max_bytes: int = UNBOUNDED,
    ):
        self.topic_partition = tp
        self.next_fetch_offset = fetch_offset
        self.leader_epoch = -1
        self.bytes_read, self.records_read = len(records._buffer), 0
        self._metric_aggregator, self._on_drain = metric_aggregator, on_drain
        self._drained = False
        self._fetch_offset = fetch_offset
        self._options = {"check_crcs": check_crcs, "isolation_level": isolation_level, "max_bytes": max_bytes}
        self._aborted = _Aborted(aborted_transactions, isolation_level == IsolationLevel.READ_COMMITTED)
        self._end = self.leader_epoch, self.next_fetch_offset
        self._rest: Any = None
        self._next_offset = 0  # where the batches that were looked at end
        self._data = memoryview(records._buffer)  # what is not decoded yet
        self._decode()

    def _decode(self) -> None:
        """Decode the valid batches at the head of the remaining data, up to the limit of bytes."""
        data, before = self._data, self._aborted.copy()
        found_batches, end = record_batch.batches(np.frombuffer(data, np.uint8))
        looked_at = _rising(found_batches, self._next_offset)
        wanted, passed = _wanted(data, looked_at, self._aborted, self._options["check_crcs"])
        self._columns, n_valid, self._goes_on = _records(data, wanted, self._options["max_bytes"])
        if n_valid < len(wanted):
            self._aborted = before
            looked_at = looked_at[: looked_at.index(wanted[n_valid])]
            wanted, passed = _wanted(data, looked_at, before, self._options["check_crcs"])
        if passed < len(found_batches):
            end = found_batches[passed].begin
        if passed:  # the header of the last batch counts, whatever compaction has left of the batch
            last = found_batches[passed - 1]
            self._next_offset = last.base_offset + last.last_offset_delta + 1
            self._end = last.leader_epoch, self._next_offset
        self._epochs = [batch.leader_epoch for batch in wanted]
        self._ends = np.cumsum([batch.n for batch in wanted])
        # A batch is fetched as a whole, even if the fetch offset lies within it.
        early = self._columns.offset < self._fetch_offset
        self._at = len(early) if early.all() else int(np.argmin(early))
        self._data = data[end:]

    def __bool__(self) -> bool:
        return not self._drained

    def drain(self) -> None:
        """Give up what is left, and report it as read."""
        if not self._drained:
            self._drained, self._rest, self._data = True, None, memoryview(b"")
            if self._metric_aggregator:
                self._metric_aggregator.record(self.topic_partition, self.bytes_read, self.records_read)
            self._on_drain(self)

    def take(self, n: int) -> Sequence[Any]:
        """Return at most n records, as one chunk. Raise Unreadable once everything before the bad batch was taken."""
        while self._at == len(self._columns.offset) and len(self._data):
            if not self._goes_on:
                return self._take_rest(n)
            self._decode()
        begin, end = self._at, min(self._at + n, len(self._columns.offset))
        columns = Columns(self._columns.buffer, *(column[begin:end] for column in self._columns[1:]))
        self._at = end
        self.records_read += end - begin
        if end < len(self._columns.offset):
            self.leader_epoch = self._epochs[int(np.searchsorted(self._ends, end - 1, "right"))]
            self.next_fetch_offset = int(columns.offset[-1]) + 1
        else:
            self.leader_epoch, self.next_fetch_offset = self._end
            if not len(self._data):
                self.drain()
        return Chunk(columns)

    def _take_rest(self, n: int) -> Sequence[Any]:
        if self._rest is None:
            self._rest = self._guarded()
        rest, taken_chunks = self._rest, []
        try:
            taken_chunks = rest.take(n)
        finally:
            self.leader_epoch, self.next_fetch_offset = rest.leader_epoch, rest.next_fetch_offset
            self.records_read += len(taken_chunks)
            # After an error it would be polled again and again, without returning anything.
            if not rest or not taken_chunks:
                self.drain()
        return Chunk(_columns_of(taken_chunks)) if taken_chunks else ()

    def _guarded(self) -> GuardedRecords:
        """Return kafka-python's own class for the rest, as if it had read what comes before."""
        guarded = GuardedRecords(
            self._fetch_offset,
            self.topic_partition,
            MemoryRecords(self._data),
            aborted_transactions=self._aborted.to_come,
            next_offset=self._next_offset,
            **self._options,
        )
        guarded.aborted_producer_ids = self._aborted.producers
        guarded.leader_epoch, guarded.next_fetch_offset = self._end
        return guarded


class _Aborted:
    """The producers whose transactions were aborted, up to the batch that was read last."""

    def __init__(self, transactions: Any, only_committed: bool):
        self.to_come = deque(sorted(transactions or [], key=lambda transaction: transaction.first_offset))
        self.producers: set[int] = set()
        self._only_committed = only_committed

    def copy(self) -> "_Aborted":
        twin = _Aborted(self.to_come, self._only_committed)
        twin.producers = set(self.producers)
        return twin

    def drops(self, batch: Batch, data: memoryview) -> bool:
        """Take note of the next batch; return whether its records are to be dropped."""
        if not self._only_committed or batch.producer_id < 0:
            return False
        while self.to_come and self.to_come[0].first_offset <= batch.base_offset + batch.last_offset_delta:
            self.producers.add(self.to_come.popleft().producer_id)
        if batch.attributes & record_batch.CONTROL:
            marker = next(iter(DefaultRecordBatch(data[batch.begin : batch.end])), None)
            if marker is not None and marker.abort:
                self.producers.discard(batch.producer_id)
            return False
        return bool(batch.attributes & record_batch.TRANSACTIONAL) and batch.producer_id in self.producers


def _rising(batches: Sequence[Batch], next_offset: int) -> Sequence[Batch]:
    """Return the batches before the first that overlaps the one before it: no checksum covers a batch's base offset."""
    for k, batch in enumerate(batches):
        if batch.base_offset < next_offset:
            return batches[:k]
        next_offset = batch.base_offset + batch.last_offset_delta + 1
    return batches


def _wanted(data: memoryview, batches: Sequence[Batch], aborted: _Aborted, check_crcs: bool) -> tuple[list[Batch], int]:
    """Return the batches whose records are wanted, up to a damaged one, and how many batches were looked at."""
    wanted: list[Batch] = []
    for passed, batch in enumerate(batches):
        if check_crcs and crc32c(data[batch.begin + record_batch.CHECKED_FROM : batch.end]) != batch.crc:
            return wanted, passed
        try:
            dropped = aborted.drops(batch, data)
        except Exception:  # a malformed marker: kafka-python decides
            return wanted, passed
        if not dropped and not batch.attributes & record_batch.CONTROL:
            wanted.append(batch)
    return wanted, len(batches)


class _Decoded(NamedTuple):
    columns: Columns
    batches: int  # how many of those that were wanted these are
    is_enough: bool  # decoding stopped at the limit of bytes; otherwise at a refused batch or at the end


def _records(data: memoryview, wanted: Sequence[Batch], max_bytes: int) -> _Decoded:
    """Decode the batches, up to the first that is refused, or until they unpack to `max_bytes`."""
    places = [batch._replace(begin=batch.begin + record_batch.HEADER) for batch in wanted]
    is_enough = False
    if any(batch.attributes & record_batch.CODEC for batch in wanted):
        data, places, is_enough = _unpacked(data, places, max_bytes)
    whole, places_of = _whole(data)
    places = [place._replace(begin=place.begin + places_of, end=place.end + places_of) for place in places]
    columns, n_valid = record_batch.records(whole, places)
    return _Decoded(columns, n_valid, is_enough and n_valid == len(places))


def _whole(data: memoryview) -> tuple[Bytes, int]:
    """Return the frame that `data` is a part of, and where it begins there."""
    frame: Any = data.obj
    whole = np.frombuffer(frame, np.uint8)
    return whole, np.frombuffer(data, np.uint8).ctypes.data - whole.ctypes.data


def _unpacked(data: memoryview, packed: Sequence[Batch], max_bytes: int) -> tuple[memoryview, list[Batch], bool]:
    """Unpack batches end to end; return the bytes, where each batch's records lie, and whether there are more."""
    parts: list[Any] = []
    places: list[Batch] = []
    position = 0
    for batch in packed:
        if position > max_bytes // 2:
            break
        try:
            part = decompress(batch.attributes & record_batch.CODEC, data[batch.begin : batch.end], max_bytes)
        except MemoryError:
            raise
        except Exception:  # refused: kafka-python has the word
            return memoryview(b"".join(parts)), places, False
        parts.append(part)
        places.append(batch._replace(begin=position, end=position + len(part)))
        position += len(part)
    return memoryview(b"".join(parts)), places, len(places) < len(packed)


def _columns_of(chunks: Sequence[Any]) -> Columns:
    """Return records of kafka-python, an object each, as columns."""
    parts = [part for record in chunks for part in (record.key, record.value, encode_headers(record.headers))]
    column = BytesColumn.of(parts)
    return Columns(
        np.frombuffer(column.buffer, np.uint8),
        np.array([int64(record.offset) for record in chunks], np.int64),
        np.array([int64(record.timestamp) for record in chunks], np.int64),
        column.start.reshape(-1, 3),
        column.length.reshape(-1, 3),
    )


# -- chunks to a block


def chunks(fetched: Sequence[Any]) -> Sequence[Chunk]:
    """Return records of kafka-python as a poll of this client would have returned them."""
    return [Chunk(_columns_of(fetched))]


def first_offset(fetched: Sequence[Chunk]) -> int:
    """Return the first offset of what a poll returned of one partition."""
    return int(fetched[0].columns.offset[0])


def block_of(topics: TopicSet, fetched: Mapping[TopicPartition, Sequence[Chunk]]) -> RecordBlock:
    """Return one block of a poll's result."""
    chunks = [chunk.columns for of_partition in fetched.values() for chunk in of_partition]
    sizes = [sum(map(len, of_partition)) for of_partition in fetched.values()]
    partition = np.repeat(np.array([topics.number(*place) for place in fetched], np.int64), sizes)
    whole = _joined(chunks)
    buffer = whole.buffer.data
    key, value, headers = (BytesColumn(buffer, whole.starts[:, k], whole.lengths[:, k]) for k in range(3))
    return RecordBlock(
        topics=topics,
        partition=partition,
        offset=whole.offset,
        timestamp=whole.timestamp,
        keys=key,
        values=value,
        headers=HeaderColumn(headers),
    )


def _joined(chunks: Sequence[Columns]) -> Columns:
    """Return one buffer for all chunks: their common frame, or else a copy."""
    spans = [(chunk.starts[0, 0], chunk.starts[-1, 2] + max(chunk.lengths[-1, 2], 0)) for chunk in chunks]
    first, last = min(begin for begin, _ in spans), max(end for _, end in spans)
    if len({chunk.buffer.ctypes.data for chunk in chunks}) == 1:
        buffer, shifts = chunks[0].buffer[first:last], [-first] * len(chunks)
    else:
        buffer = np.concatenate([chunk.buffer[begin:end] for chunk, (begin, end) in zip(chunks, spans, strict=True)])
        shifts = [
            position - end
            for position, (_, end) in zip(accumulate(end - begin for begin, end in spans), spans, strict=True)
        ]
    starts = np.concatenate([chunk.starts + shift for chunk, shift in zip(chunks, shifts, strict=True)])
    offset, timestamp, lengths = (np.concatenate([chunk[k] for chunk in chunks]) for k in (1, 2, 4))
    return Columns(buffer, offset, timestamp, starts, lengths)


class HeaderColumn(Mapping[int, Headers]):
    """The headers of the records that have any, read when they are asked for."""

    def __init__(self, column: BytesColumn):
        self._column = column
        self._there = np.flatnonzero(column.length >= 0)

    def __len__(self) -> int:
        return len(self._there)

    def __iter__(self) -> Iterator[int]:
        return iter(self._there.tolist())

    def __getitem__(self, i: int) -> Headers:
        data = self._column[i]
        if data is None:
            raise KeyError(i)
        return decode_headers(data)
