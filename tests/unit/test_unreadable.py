"""A batch that cannot be read costs itself alone: its neighbours are read, by both clients, in bounded memory."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from kafka import TopicPartition
from kafka.record.memory_records import MemoryRecords

from tests.unit.test_columns import Batch, Record, log_of
from worker.kafka.columns import PartitionColumns
from worker.kafka.compression import TooLarge, decompress
from worker.kafka.unreadable import GuardedRecords, Patience, Unreadable
from worker.settings import InputSettings
from worker.vectors import BytesColumn, Decoder, RecordBlock

PLACE = TopicPartition("t", 0)
CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
MIB = 2**20


def one(value: bytes, codec: int = 0) -> Batch:
    return Batch([Record(0, 0, None, value, ())], codec)


def values(taken: Any) -> list[bytes | None]:
    if taken and hasattr(taken, "columns"):
        column = BytesColumn(taken.columns.buffer.data, taken.columns.starts[:, 1], taken.columns.lengths[:, 1])
        return list(column)
    return [record.value for record in taken]


@pytest.mark.parametrize("kind", [PartitionColumns, GuardedRecords])
@pytest.mark.parametrize("codec", CODECS)
def test_a_bomb_is_not_unpacked(kind: Any, codec: str) -> None:
    log = log_of([one(b"before"), one(bytes(200 * MIB), CODECS[codec]), one(b"after")])
    part = kind(100, PLACE, MemoryRecords(log), most=4 * MIB)
    tracemalloc.start()
    try:
        assert values(part.take(10)) == [b"before"]
        with pytest.raises(Unreadable, match="more than 4194304") as raised:
            part.take(10)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60 * MIB
    assert (raised.value.begin, raised.value.end) == (101, 102)
    assert raised.value.batch in log
    assert not part


@pytest.mark.parametrize("codec", CODECS)
def test_many_bombs_that_are_each_within_the_bound_come_one_after_another(codec: str) -> None:
    log = log_of([one(bytes(3 * MIB), CODECS[codec]) for _ in range(40)])
    tracemalloc.start()
    try:
        part, read = PartitionColumns(100, PLACE, MemoryRecords(log), most=4 * MIB), 0
        while part:
            read += len(part.take(10))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read == 40
    assert peak < 40 * MIB


def test_a_lie_about_the_size_is_found_out() -> None:
    with pytest.raises(TooLarge):
        decompress(2, memoryview(b"\xff\xff\xff\xff\x0f" + b"x" * 20), MIB)


@pytest.mark.parametrize("kind", [PartitionColumns, GuardedRecords])
def test_a_damaged_batch_ends_where_the_next_one_begins(kind: Any) -> None:
    batch = Batch([Record(0, 0, None, b"x", ())] * 5)
    log = bytearray(log_of([batch, batch]))
    log[len(log) // 2 - 1] ^= 1
    part = kind(100, PLACE, MemoryRecords(bytes(log)), most=MIB)
    with pytest.raises(Unreadable, match="offsets 100 to 104: CorruptRecordError.*crc"):
        part.take(10)
    # It says itself where it ends, but is not to be trusted: without a next one it is passed offset by offset.
    last = kind(100, PLACE, MemoryRecords(bytes(log[: len(log) // 2])), most=MIB)
    with pytest.raises(Unreadable, match="offsets 100 to 100"):
        last.take(10)


class Consumer:
    def __init__(self) -> None:
        self.sought: list[tuple[TopicPartition, int]] = []

    def highwater(self, place: TopicPartition) -> int:
        return 120

    def seek(self, place: TopicPartition, offset: int) -> None:
        self.sought.append((place, offset))


def test_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.kafka.unreadable._PAUSE", 0)
    consumer = Consumer()
    patience = Patience(consumer)

    def bad(begin: int, end: int) -> Unreadable:
        return Unreadable(PLACE, begin, end, b"", "why")

    assert [patience.gives_up(bad(100, 101)) for _ in range(3)] == [False, False, True]
    assert consumer.sought == [(PLACE, 101)]
    assert patience.gives_up(bad(101, 102)), "the rest of the same batch needs no tries of its own"
    assert not patience.gives_up(bad(110, 10**15)), "another one does"
    patience.gives_up(bad(110, 10**15))
    assert patience.gives_up(bad(110, 10**15))
    assert consumer.sought[-1] == (PLACE, 120), "no further than the log goes, whatever a damaged batch says"


def test_it_becomes_a_dead_letter() -> None:
    record = Unreadable(PLACE, 7, 12, b"batch", "CorruptRecordError: crc").record()
    assert record.offset == 11
    headers = {0: record.headers}
    n = np.zeros(1, np.int64)
    block = RecordBlock("t", n, n + 11, n, BytesColumn.of([None]), BytesColumn.of([b"batch"]), headers)
    (reject,) = Decoder(InputSettings(format="f32"), ["a"]).decode(block).rejects
    assert reject.reason == "unreadable-batch"
    assert reject.error == "t/0, offsets 7 to 11: CorruptRecordError: crc"
