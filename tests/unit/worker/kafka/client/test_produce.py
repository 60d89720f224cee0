"""Record batches encoded in columns are those that kafka-python would have made record by record."""

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given, settings as budget, strategies as st
from kafka import TopicPartition
from kafka.partitioner.default import murmur2
from kafka.producer.record_accumulator import RecordAccumulator
from kafka.record.memory_records import MemoryRecords

from worker.blocks import BytesColumn
from worker.kafka import Output, Outputs
from worker.kafka.client.produce import BATCH_BYTES, Produce, _encode, _enqueue, _murmur2, _places
from worker.kafka.outputs import decode_headers, encode_headers, headers_with
from worker.settings import KafkaSettings

payload = st.one_of(st.none(), st.binary(max_size=300))
header = st.tuples(st.text(max_size=5), st.one_of(st.none(), st.binary(max_size=200)))
outputs = st.lists(
    st.builds(Output, st.just("t"), st.binary(max_size=300), payload, st.lists(header, max_size=3)), max_size=12
)


class Client:
    """A producer whose batches stay in its queue."""

    def __init__(self, partitions: tuple[int, ...] = (0, 1, 2)):
        self._transaction_manager = None
        self._accumulator = RecordAccumulator(
            batch_size=BATCH_BYTES, delivery_timeout_ms=60_000, request_timeout_ms=1000
        )
        self._metadata = SimpleNamespace(partitions_for_topic=lambda _: set(partitions))
        self._partitions = partitions
        self._sender = SimpleNamespace(wakeup=lambda: None)
        self.config = {"compression_type": None}

    def partitions_for(self, topic: str) -> set[int]:
        return set(self._partitions)

    def _partition(self, *_: Any) -> int:
        return self._partitions[-1]

    def queued(self) -> dict[int, list[Any]]:
        """Partition -> its records."""
        found: dict[int, list[Any]] = {}
        for place, batches in self._accumulator._batches.items():
            for batch in batches:
                batch.records.close()
                for each in MemoryRecords(bytes(batch.records.buffer())):
                    assert each.validate_crc()
                    found.setdefault(place.partition, []).extend(each)
        return found


@budget(max_examples=200, deadline=None)
@given(outputs)
def test_every_record_arrives_as_it_was(given_outputs: list[Output]) -> None:
    client, produce = Client(), Produce(KafkaSettings())
    for part in (given_outputs[:5], given_outputs[5:]):
        produce.send(client, Outputs.of("t", part))  # type: ignore[arg-type]
    produce.flush(client)  # type: ignore[arg-type]
    queued = client.queued()
    found = [(r.key, r.value, tuple(r.headers)) for records in queued.values() for r in records]
    assert sorted(found, key=repr) == sorted(((o.key, o.value, tuple(o.headers)) for o in given_outputs), key=repr)
    for partition, records in queued.items():
        assert [r.offset for r in records] == list(range(len(records))) or len(client._accumulator._batches) > 0
        for r in records:
            expected = 2 if r.key is None else (murmur2(r.key) & 0x7FFFFFFF) % 3
            assert partition == expected
    assert len(produce.sent) == sum(map(len, client._accumulator._batches.values()))


@budget(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1))
def test_keys_go_where_every_client_sends_them(keys: list[bytes]) -> None:
    column = BytesColumn.of(keys)
    found = np.empty(len(keys), np.int64)
    _murmur2(np.frombuffer(column.buffer, np.uint8), column.start, column.length, found)
    assert found.tolist() == [murmur2(key) & 0x7FFFFFFF for key in keys]


def test_partitions_need_not_begin_with_0() -> None:
    client = Client((4, 7))
    made = Outputs.of("t", [Output("t", b"v", b"k%d" % k) for k in range(50)])
    places = dict(_places(client, made, (4, 7)))  # type: ignore[arg-type]
    assert set(places) == {TopicPartition("t", 4), TopicPartition("t", 7)}


def test_what_is_much_makes_several_batches_and_a_large_record_its_own() -> None:
    client, produce = Client((0,)), Produce(KafkaSettings())
    made = [Output("t", b"x" * 1000, b"k")] * 1000 + [Output("t", b"y" * 3 * BATCH_BYTES, b"k")]
    produce.send(client, Outputs.of("t", made))  # type: ignore[arg-type]
    batches = client._accumulator._batches[TopicPartition("t", 0)]
    assert len(batches) >= 4
    assert all(b.records.size_in_bytes() < 1.1 * BATCH_BYTES for b in list(batches)[:-1])
    assert [len(r.value) for r in client.queued()[0]] == [len(o.value) for o in made]


def test_a_little_waits_for_more_until_it_is_flushed() -> None:
    client, produce = Client(), Produce(KafkaSettings())
    produce.send(client, Outputs.of("t", [Output("t", b"v")]))  # type: ignore[arg-type]
    assert not produce.sent and not client.queued()
    produce.flush(client)  # type: ignore[arg-type]
    assert len(produce.sent) == 1
    produce.discard()
    assert not produce.sent


def test_a_batch_that_the_client_splits_is_told_of_in_all_its_parts() -> None:
    client, sent = Client((0,)), []
    made = Outputs.of("t", [Output("t", b"%d" % k) for k in range(10)])
    place = TopicPartition("t", 0)
    sent.append(_enqueue(client, place, _encode(made, np.arange(10)), 10, sent))  # type: ignore[arg-type]
    (batch,) = client._accumulator._batches[place]
    client._accumulator._batches[place].clear()
    batch.records.close()
    client._accumulator.split_and_reenqueue(batch)
    first, second = client._accumulator._batches[place]
    first.complete(0, -1)
    assert sum(future.is_done for future in sent) == 5
    second.complete_exceptionally(RuntimeError("no"), lambda _: RuntimeError("no"))
    assert len(sent) == 10 and all(future.is_done for future in sent)
    assert sum(future.failed() for future in sent) == 5


@budget(max_examples=200, deadline=None)
@given(st.lists(header, max_size=4))
def test_headers_come_back(headers: list[tuple[str, bytes | None]]) -> None:
    assert decode_headers(encode_headers(headers)) == headers


@budget(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5), st.lists(header, max_size=2))
def test_headers_with_one_that_differs(values: list[bytes], others: list[tuple[str, bytes | None]]) -> None:
    column = headers_with("own", BytesColumn.of(values), others)
    assert [decode_headers(each) for each in column] == [[("own", value), *others] for value in values]


def test_the_lock_of_a_partition_is_held_while_its_queue_is_changed() -> None:
    """The producer's thread takes batches off the queue meanwhile."""
    client, sent = Client((0,)), []
    place = TopicPartition("t", 0)
    made = Outputs.of("t", [Output("t", b"v")] * 2)
    ended = threading.Event()

    def enqueue() -> None:
        sent.append(_enqueue(client, place, _encode(made, np.arange(2)), 2, sent))  # type: ignore[arg-type]
        ended.set()

    with client._accumulator._tp_lock(place):
        thread = threading.Thread(target=enqueue)
        thread.start()
        assert not ended.wait(0.2)
    thread.join()
    assert ended.is_set()
