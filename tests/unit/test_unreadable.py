"""A batch that cannot be read costs itself alone: its neighbours are read, by both clients, in bounded memory."""

import contextlib
import struct
import tracemalloc
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import lz4.frame
import numpy as np
import pytest
from kafka import TopicPartition
from kafka.record.memory_records import MemoryRecords

from tests.unit.test_columns import Batch, Record, log_of
from worker.kafka import columns
from worker.kafka.columns import PartitionColumns
from worker.kafka.compression import TooLarge, decompress
from worker.kafka.unreadable import GuardedRecords, Patience, Unreadable, guard
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


@pytest.mark.parametrize("install", [columns.install, guard])
@pytest.mark.parametrize("codec", CODECS)
def test_a_poll_of_bombs_that_are_each_within_the_bound_is_bounded(codec: str, install: Any) -> None:
    """kafka-python gathers until it has so many records: here, as Fetcher.fetched_records does."""
    log = log_of([one(bytes(3 * MIB), CODECS[codec]) for _ in range(40)])

    def append(drained: dict[TopicPartition, list[Any]], part: Any, n: int, _: bool) -> int:
        found = part.take(n)
        drained[PLACE].extend(found)
        return len(found)

    consumer = SimpleNamespace(_fetcher=SimpleNamespace(_append=append))
    install(consumer, 4 * MIB)
    tracemalloc.start()
    try:
        part = consumer._fetcher.PartitionRecords(100, PLACE, MemoryRecords(log))
        read = polls = 0
        while part:
            polls += 1
            drained: dict[TopicPartition, list[Any]] = defaultdict(list)
            wanted = 65536
            while wanted > 0 and part:
                wanted -= consumer._fetcher._append(drained, part, wanted, True)
            read += sum(map(len, drained[PLACE])) if install is columns.install else len(drained[PLACE])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read == 40
    assert polls >= 15
    assert peak < 50 * MIB


def test_a_lie_about_the_size_is_found_out() -> None:
    with pytest.raises(TooLarge):
        decompress(2, memoryview(b"\xff\xff\xff\xff\x0f" + b"x" * 20), MIB)


def test_a_frame_that_claims_to_be_large_is_not_believed() -> None:
    frame = bytearray(lz4.frame.compress(b"x" * 100, store_size=True))
    frame[6:14] = (1 << 45).to_bytes(8, "little")
    for check in range(256):  # one is right
        frame[14] = check
        with contextlib.suppress(RuntimeError):
            lz4.frame.get_frame_info(bytes(frame))
            break
    with pytest.raises(TooLarge, match="claims"):
        decompress(3, memoryview(bytes(frame)), MIB)


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


@pytest.mark.parametrize("kind", [PartitionColumns, GuardedRecords])
@pytest.mark.parametrize("bit", range(32))
def test_a_damaged_length_does_not_lead_past_sound_batches(kind: Any, bit: int) -> None:
    """What seems to come next then begins somewhere within: its first bytes are no offset."""
    batch = Batch([Record(0, 0, None, bytes(range(200)) * 4, ())] * 3)
    log = bytearray(log_of([batch] * 4))
    (length,) = struct.unpack_from(">i", log, 8)
    struct.pack_into(">I", log, 8, (length ^ (1 << bit)) & 0xFFFFFFFF)
    part = kind(100, PLACE, MemoryRecords(bytes(log)), most=MIB)
    try:
        while part and len(part.take(10)):
            pass
    except Unreadable as bad:
        assert bad.begin == 100 and bad.end in (101, 103, 106, 109)


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

    def bad(begin: int, end: int, is_whole: bool = False) -> Unreadable:
        return Unreadable(PLACE, begin, end, b"batch", is_whole, "why")

    assert [patience.gives_up(bad(100, 101)) for _ in range(3)] == [False, False, True]
    assert consumer.sought == [(PLACE, 101)]
    rest = bad(101, 102)
    assert patience.gives_up(rest), "the rest of the same batch needs no tries of its own"
    assert rest.batch == b"", "and its bytes are told once"
    assert patience.gives_up(bad(104, 105, is_whole=True)), "what was made like that will be no better"
    assert not patience.gives_up(bad(110, 10**15)), "another one does"
    patience.gives_up(bad(110, 10**15))
    assert patience.gives_up(bad(110, 10**15))
    assert consumer.sought[-1] == (PLACE, 120), "no further than the log goes, whatever a damaged batch says"


def test_it_becomes_a_dead_letter() -> None:
    record = Unreadable(PLACE, 7, 12, b"batch", False, "CorruptRecordError: crc").record()
    assert record.offset == 11
    headers = {0: record.headers}
    n = np.zeros(1, np.int64)
    block = RecordBlock("t", n, n + 11, n, BytesColumn.of([None]), BytesColumn.of([b"batch"]), headers)
    (reject,) = Decoder(InputSettings(format="f32"), ["a"]).decode(block).rejects
    assert reject.reason == "unreadable-batch"
    assert reject.error == "t/0, offsets 7 to 11: CorruptRecordError: crc"
