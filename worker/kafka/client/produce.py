"""Hands outputs to the producer as whole record batches, encoded by compiled loops.

kafka-python would encode record by record. A batch goes into the producer's own queue (`RecordAccumulator`), as if its
records had been sent one by one. Retries, sequence numbers, transactions, compression and the splitting of too large
batches stay the producer's work.
"""

# mypy: disable-error-code="no-untyped-def"
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from kafka import KafkaProducer, TopicPartition, errors
from kafka.producer.future import FutureRecordMetadata
from kafka.producer.producer_batch import ProducerBatch
from kafka.record.memory_records import MemoryRecordsBuilder

from worker.blocks import BytesColumn, Headers
from worker.kafka.connection import is_columnar
from worker.kafka.outputs import Outputs
from worker.native.arrays import Int64s
from worker.native.jit import compiled, read_only
from worker.native.raw_memory import move, put
from worker.settings import KafkaSettings

BATCH_BYTES: Final = 256 * 1024
_OVERHEAD: Final = 32  # bytes of a record besides key, value and headers, at most
_BATCH_OVERHEAD: Final = 128  # bytes of a batch besides its records, at most


def warm_up(outputs: Sequence[Outputs]) -> None:
    """Encode these outputs and send nothing, so that the compiled code is loaded."""
    for records in outputs:
        _murmur2(*_arrays(records.keys), np.empty(len(records), np.int64))
        _encode(records, np.arange(len(records)))


def sendable(value: bytes | None, key: bytes | None, headers: Headers) -> tuple[bytes | None, bytes | None, list[Any]]:
    """Return what kafka-python accepts: unlike Kafka it takes no null header, and no record without key and value."""
    return b"" if value is None and key is None else value, key, [(name, header or b"") for name, header in headers]


class Produce:
    """Hands outputs over as OFFNORMAL_KAFKA__CLIENT says: those of a topic when they make a batch, or at `flush`.

    `sent` holds the futures of everything that may fail by itself. `limits` is the maximum size of a batch in bytes, by
    topic. Larger records of the topics in `shortened` are sent without their value.
    """

    def __init__(self, settings: KafkaSettings):
        self._columnar = is_columnar(settings)
        self.limits: dict[str, int] = {}
        self.shortened: set[str] = set()
        self._waiting: dict[str, list[Outputs]] = {}
        self.sent: list[Any] = []

    def send(self, client: KafkaProducer, outputs: Outputs) -> None:
        """Queue outputs, and hand full batches over. Raises what the client raises."""
        if outputs.topic in self.shortened:
            outputs = outputs.within(self.limits[outputs.topic])
        waiting = self._waiting.setdefault(outputs.topic, [])
        waiting.append(outputs)
        if sum(part.size for part in waiting) >= BATCH_BYTES:
            self._hand_over(client, self._waiting.pop(outputs.topic))

    def flush(self, client: KafkaProducer) -> None:
        """Hand over whatever is queued. Raises what the client raises."""
        while self._waiting:
            self._hand_over(client, self._waiting.popitem()[1])

    def await_sent(self, timeout: float) -> None:
        """Wait until all that was handed over is acknowledged. Raises KafkaTimeoutError, and what the client raises.

        That includes what the client had to split: the parts join `sent` before the first of them is acknowledged.
        """
        deadline, k = time.monotonic() + timeout, 0
        while k < len(self.sent):
            self.sent[k].get(max(deadline - time.monotonic(), 0.001))
            k += 1

    def discard(self) -> None:
        """Forget what was not handed over, and what was sent."""
        self._waiting.clear()
        self.sent.clear()

    def _hand_over(self, client: KafkaProducer, waiting: list[Outputs]) -> None:
        outputs = Outputs.concat(waiting)
        if not self._columnar:
            for output in outputs:
                self.sent.append(client.send(output.topic, *sendable(output.value, output.key, output.headers)))
            return
        partitions = client.partitions_for(outputs.topic)  # waits for the topic's metadata
        batch_bytes = min(BATCH_BYTES, self.limits.get(outputs.topic, BATCH_BYTES) - _BATCH_OVERHEAD)
        for place, rows in _places(client, outputs, sorted(partitions)):
            for part in _parts(outputs, rows, batch_bytes):
                self.sent.append(_enqueue(client, place, _encode(outputs, part), len(part), self.sent))
        client._sender.wakeup()


def _places(
    client: KafkaProducer, outputs: Outputs, all_partitions: Sequence[int]
) -> Iterator[tuple[TopicPartition, Int64s]]:
    """Yield the rows of each partition.

    A row with a key is assigned by the key's hash, as in every client. Rows without a key may go to any partition.
    """
    partitions = np.array(all_partitions)
    keys = outputs.keys
    partition_of = np.empty(len(outputs), np.int64)
    _murmur2(read_only(np.frombuffer(keys.buffer, np.uint8)), keys.start, keys.length, partition_of)
    partition_of %= len(partitions)
    keyless = keys.length < 0
    if keyless.any():
        anywhere = client._partition(outputs.topic, None, None, None, None, None)
        if anywhere is None:
            raise errors.KafkaTimeoutError(f"{outputs.topic} is no longer there")
        partition_of[keyless] = np.searchsorted(partitions, anywhere)
    for k in np.flatnonzero(np.bincount(partition_of, minlength=len(partitions))).tolist():
        yield TopicPartition(outputs.topic, int(partitions[k])), np.flatnonzero(partition_of == k)


def _parts(outputs: Outputs, rows: Int64s, batch_bytes: int) -> Iterator[Int64s]:
    """Yield pieces of rows that fit into a batch, each of at least one row."""
    sizes = sum(np.maximum(c.length[rows], 0) for c in (outputs.keys, outputs.values, outputs.headers)) + _OVERHEAD
    ends = np.cumsum(sizes)
    begin, size = 0, 0
    while begin < len(rows):
        end = max(int(np.searchsorted(ends, size + batch_bytes, "right")), begin + 1)
        yield rows[begin:end]
        begin, size = end, ends[end - 1]


def _encode(outputs: Outputs, rows: Int64s) -> memoryview:
    columns = [outputs.keys, outputs.values, outputs.headers]
    max_bytes = sum(int(np.maximum(c.length[rows], 0).sum()) for c in columns) + _OVERHEAD * len(rows)
    out = np.empty(max_bytes, np.uint8)
    end = _records(rows, *(part for c in columns for part in _arrays(c)), out)
    return out.data[:end]


def _arrays(column: BytesColumn) -> tuple[Any, Any, Any]:
    return read_only(np.frombuffer(column.buffer, np.uint8)), column.start, column.length


def _enqueue(client: KafkaProducer, place: TopicPartition, encoded: memoryview, n: int, sent: list[Any]) -> Any:
    """Queue n records as `KafkaProducer.send` does one; return the future of the first batch."""
    if client._transaction_manager is not None and client._transaction_manager.is_transactional():
        client._transaction_manager.maybe_add_partition_to_transaction(place)
    accumulator = client._accumulator
    now = int(time.time() * 1000)
    records = MemoryRecordsBuilder(2, accumulator.config["compression_attrs"], BATCH_BYTES)
    builder = records._builder
    builder._buffer += encoded
    builder._num_records, builder._last_offset = n, n - 1
    builder._first_timestamp = builder._max_timestamp = now
    records._next_offset = n
    batch = ProducerBatch(place, records)
    batch._record_futures = _Futures(batch, n, now, sent)
    with accumulator._tp_lock(place):
        accumulator._batches[place].append(batch)
        accumulator._incomplete.add(batch)
    return batch._record_futures[0]


class _Futures:
    """The futures of a batch's records: made only for the first one, and where the client has to split the batch."""

    def __init__(self, batch: ProducerBatch, n: int, now: int, sent: list[Any]):
        self._batch, self._n, self._now, self._sent = batch, n, now, sent
        self._made: dict[int, FutureRecordMetadata] = {}
        self._more: list[Any] = []

    def __len__(self) -> int:
        return self._n + len(self._more)

    def __getitem__(self, i: int) -> Any:
        if i >= self._n:
            return self._more[i - self._n]
        if i not in self._made:
            future = FutureRecordMetadata(self._batch.produce_future, i, self._now, None, -1, -1, -1)
            self._made[i] = future
            if i:
                self._sent.append(future)
        return self._made[i]

    def append(self, future: Any) -> None:
        self._more.append(future)  # somebody sends one more record while there is room


@compiled
def _murmur2(buffer, start, length, out):
    """Return murmur2 of each key, without the sign, as Kafka's clients do (Utils.murmur2 and toPositive)."""
    m = np.uint32(0x5BD1E995)
    for i in range(len(start)):
        n = max(length[i], 0)
        h = np.uint32(0x9747B28C) ^ np.uint32(n)
        position = start[i]
        for _ in range(n // 4):
            k = np.uint32(0)
            for b in range(4):
                k |= np.uint32(buffer[position + b]) << np.uint32(8 * b)
            k = np.uint32(k * m)
            k ^= k >> np.uint32(24)
            k = np.uint32(k * m)
            h = np.uint32(h * m) ^ k
            position += 4
        rest = n % 4
        for b in range(rest - 1, -1, -1):
            h ^= np.uint32(buffer[position + b]) << np.uint32(8 * b)
        if rest:
            h = np.uint32(h * m)
        h ^= h >> np.uint32(13)
        h = np.uint32(h * m)
        h ^= h >> np.uint32(15)
        out[i] = np.int64(h & np.uint32(0x7FFFFFFF))


@compiled
def _put_varint(value, address):
    """Write a small value as a zigzag varint; return where it ends."""
    value = (value << 1) ^ (value >> 63)
    while value > 0x7F:
        put(address, value & 0x7F | 0x80)
        value >>= 7
        address += 1
    put(address, value)
    return address + 1


@compiled
def _varint_size(value):
    value, size = (value << 1) ^ (value >> 63), 1
    while value > 0x7F:
        value >>= 7
        size += 1
    return size


@compiled
def _records(rows, keys, key_at, key_size, values, value_at, value_size, headers, header_at, header_size, out):
    """Encode these rows, one after another; return where they end."""
    begin = address = np.int64(out.ctypes.data)
    key_base, value_base = np.int64(keys.ctypes.data), np.int64(values.ctypes.data)
    header_base = np.int64(headers.ctypes.data)
    for n in range(len(rows)):
        i = rows[n]
        key, value = max(key_size[i], -1), max(value_size[i], -1)
        size = 2 + _varint_size(n) + _varint_size(key) + max(key, 0) + _varint_size(value) + max(value, 0)
        address = _put_varint(size + (header_size[i] if header_size[i] >= 0 else 1), address)
        put(address, 0)  # attributes
        put(address + 1, 0)  # timestamp delta
        address = _put_varint(key, _put_varint(n, address + 2))
        move(address, key_base + key_at[i], max(key, 0))
        address = _put_varint(value, address + max(key, 0))
        move(address, value_base + value_at[i], max(value, 0))
        address += max(value, 0)
        if header_size[i] >= 0:
            move(address, header_base + header_at[i], header_size[i])
            address += header_size[i]
        else:
            put(address, 0)  # how many there are
            address += 1
    return address - begin
