"""How outputs are handed to the producer: whole record batches, encoded by compiled loops, where kafka-python would
encode record by record.

A batch goes into the producer's own queue (`RecordAccumulator`), as if its records had been sent one by one: retries,
sequence numbers, transactions, compression and the splitting of what is too large are the producer's, as ever.
"""

# mypy: disable-error-code="no-untyped-def"
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from kafka import KafkaProducer, TopicPartition
from kafka.producer.future import FutureRecordMetadata
from kafka.producer.producer_batch import ProducerBatch
from kafka.record.memory_records import MemoryRecordsBuilder

from worker.addresses import move, put
from worker.compiled import compiled, read_only
from worker.kafka.connection import is_columnar
from worker.kafka.outputs import Outputs
from worker.settings import KafkaSettings
from worker.vectors import BytesColumn, Headers

Int64s = npt.NDArray[np.int64]

BATCH_BYTES: Final = 256 * 1024
_OVERHEAD: Final = 32  # bytes of a record besides key, value and headers, at most


def warm_up(outputs: Sequence[Outputs]) -> None:
    """Encodes them, and sends nothing: what is compiled is so loaded."""
    for each in outputs:
        _murmur2(*_arrays(each.keys), np.empty(len(each), np.int64))
        _encode(each, np.arange(len(each)))


def sendable(value: bytes | None, key: bytes | None, headers: Headers) -> tuple[bytes | None, bytes | None, list[Any]]:
    """What kafka-python takes: not all that Kafka does, a null header, or neither key nor value."""
    return b"" if value is None and key is None else value, key, [(name, told or b"") for name, told in headers]


class Produce:
    """Hands outputs over as OFFNORMAL_KAFKA__CLIENT says: those of a topic when they make a batch, or at `flush`.
    `sent` are the futures of whatever may fail by itself. `limits` are the bytes that a topic takes of one record.
    """

    def __init__(self, settings: KafkaSettings):
        self._columnar = is_columnar(settings)
        self.limits: dict[str, int] = {}
        self._waiting: dict[str, list[Outputs]] = {}
        self.sent: list[Any] = []

    def send(self, client: KafkaProducer, outputs: Outputs) -> None:
        """Raises what the client raises."""
        if outputs.topic in self.limits:
            outputs = outputs.within(self.limits[outputs.topic])
        waiting = self._waiting.setdefault(outputs.topic, [])
        waiting.append(outputs)
        if sum(each.size for each in waiting) >= BATCH_BYTES:
            self._hand_over(client, self._waiting.pop(outputs.topic))

    def flush(self, client: KafkaProducer) -> None:
        """Likewise."""
        while self._waiting:
            self._hand_over(client, self._waiting.popitem()[1])

    def discard(self) -> None:
        self._waiting.clear()
        self.sent.clear()

    def _hand_over(self, client: KafkaProducer, waiting: list[Outputs]) -> None:
        outputs = Outputs.concat(waiting)
        if not self._columnar:
            for output in outputs:
                self.sent.append(client.send(output.topic, *sendable(output.value, output.key, output.headers)))
            return
        client.partitions_for(outputs.topic)  # waits for the topic's metadata
        for place, rows in _places(client, outputs):
            for part in _parts(outputs, rows):
                self.sent.append(_enqueue(client, place, _encode(outputs, part), len(part), self.sent))
        client._sender.wakeup()


def _places(client: KafkaProducer, outputs: Outputs) -> Iterator[tuple[TopicPartition, Int64s]]:
    """The rows of each partition: by the key's hash, as every client has it, and anywhere without a key."""
    partitions = np.array(sorted(client._metadata.partitions_for_topic(outputs.topic)))
    keys = outputs.keys
    at = np.empty(len(outputs), np.int64)
    _murmur2(read_only(np.frombuffer(keys.buffer, np.uint8)), keys.start, keys.length, at)
    at %= len(partitions)
    keyless = keys.length < 0
    if keyless.any():
        anywhere = client._partition(outputs.topic, None, None, None, None, None)
        at[keyless] = np.searchsorted(partitions, anywhere)
    for k in np.flatnonzero(np.bincount(at, minlength=len(partitions))).tolist():
        yield TopicPartition(outputs.topic, int(partitions[k])), np.flatnonzero(at == k)


def _parts(outputs: Outputs, rows: Int64s) -> Iterator[Int64s]:
    """As many rows as make a batch, again and again."""
    sizes = sum(np.maximum(c.length[rows], 0) for c in (outputs.keys, outputs.values, outputs.headers)) + _OVERHEAD
    batch = (np.cumsum(sizes) - sizes) // BATCH_BYTES
    yield from np.split(rows, np.flatnonzero(np.diff(batch)) + 1)


def _encode(outputs: Outputs, rows: Int64s) -> memoryview:
    columns = [outputs.keys, outputs.values, outputs.headers]
    most = sum(int(np.maximum(c.length[rows], 0).sum()) for c in columns) + _OVERHEAD * len(rows)
    out = np.empty(most, np.uint8)
    end = _records(rows, *(part for c in columns for part in _arrays(c)), out)
    return out.data[:end]


def _arrays(column: BytesColumn) -> tuple[Any, Any, Any]:
    return read_only(np.frombuffer(column.buffer, np.uint8)), column.start, column.length


def _enqueue(client: KafkaProducer, place: TopicPartition, encoded: memoryview, n: int, sent: list[Any]) -> Any:
    """What `KafkaProducer.send` does with one record, with n of them. -> the future of the first."""
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
            made = FutureRecordMetadata(self._batch.produce_future, i, self._now, None, -1, -1, -1)
            self._made[i] = made
            if i:
                self._sent.append(made)
        return self._made[i]

    def append(self, future: Any) -> None:
        self._more.append(future)  # somebody sends one more record while there is room


@compiled
def _murmur2(buffer, start, length, out):
    """murmur2 of each key, without the sign: Utils.murmur2 and toPositive of Kafka's clients."""
    m = np.uint32(0x5BD1E995)
    for i in range(len(start)):
        n = max(length[i], 0)
        h = np.uint32(0x9747B28C) ^ np.uint32(n)
        at = start[i]
        for _ in range(n // 4):
            k = np.uint32(0)
            for b in range(4):
                k |= np.uint32(buffer[at + b]) << np.uint32(8 * b)
            k = np.uint32(k * m)
            k ^= k >> np.uint32(24)
            k = np.uint32(k * m)
            h = np.uint32(h * m) ^ k
            at += 4
        rest = n % 4
        for b in range(rest - 1, -1, -1):
            h ^= np.uint32(buffer[at + b]) << np.uint32(8 * b)
        if rest:
            h = np.uint32(h * m)
        h ^= h >> np.uint32(13)
        h = np.uint32(h * m)
        h ^= h >> np.uint32(15)
        out[i] = np.int64(h & np.uint32(0x7FFFFFFF))


@compiled
def _put_varint(value, at):
    """Zigzag, of a value that is not large. -> where it ends."""
    value = (value << 1) ^ (value >> 63)
    while value > 0x7F:
        put(at, value & 0x7F | 0x80)
        value >>= 7
        at += 1
    put(at, value)
    return at + 1


@compiled
def _varint_size(value):
    value, size = (value << 1) ^ (value >> 63), 1
    while value > 0x7F:
        value >>= 7
        size += 1
    return size


@compiled
def _records(rows, keys, key_at, key_size, values, value_at, value_size, headers, header_at, header_size, out):
    """Encodes these rows, one after another. -> where they end."""
    begin = at = np.int64(out.ctypes.data)
    key_base, value_base = np.int64(keys.ctypes.data), np.int64(values.ctypes.data)
    header_base = np.int64(headers.ctypes.data)
    for n in range(len(rows)):
        i = rows[n]
        key, value = max(key_size[i], -1), max(value_size[i], -1)
        size = 2 + _varint_size(n) + _varint_size(key) + max(key, 0) + _varint_size(value) + max(value, 0)
        at = _put_varint(size + (header_size[i] if header_size[i] >= 0 else 1), at)
        put(at, 0)  # attributes
        put(at + 1, 0)  # timestamp delta
        at = _put_varint(key, _put_varint(n, at + 2))
        move(at, key_base + key_at[i], max(key, 0))
        at = _put_varint(value, at + max(key, 0))
        move(at, value_base + value_at[i], max(value, 0))
        at += max(value, 0)
        if header_size[i] >= 0:
            move(at, header_base + header_at[i], header_size[i])
            at += header_size[i]
        else:
            put(at, 0)  # how many there are
            at += 1
    return at - begin
