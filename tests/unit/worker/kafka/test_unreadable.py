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

from tests.record_blocks import block_of
from tests.unit.worker.kafka.client.test_fetch import Batch, Record, claiming, log_of
from worker.blocks import BytesColumn, RecordBlock, TopicSet
from worker.blocks.limits import BY_US
from worker.decoding import Decoder
from worker.kafka import records
from worker.kafka.client import fetch
from worker.kafka.client.compression import TooLarge, decompress
from worker.kafka.client.fetch import PartitionColumns
from worker.kafka.unreadable import GuardedRecords, Patience, Unreadable, guard
from worker.publishing.encoder import EventEncoder
from worker.settings import InputSettings, Settings

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
    part = kind(100, PLACE, MemoryRecords(log), max_bytes=4 * MIB)
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


@pytest.mark.parametrize("kind", [PartitionColumns, GuardedRecords])
@pytest.mark.parametrize("codec", [0, *CODECS.values()])
@pytest.mark.parametrize(
    ("deltas", "last_delta"), [([500], 0), ([0, 500, 1], 2), ([0, 0], 1), ([1, 0], 1), ([0, 1, 2], 1), ([0, 1], -1)]
)
def test_offsets_that_do_not_rise_within_the_batch_are_not_believed(
    kind: Any, codec: int, deltas: list[int], last_delta: int
) -> None:
    """A broker looks at a batch's header only: whoever committed such an offset would leave out what comes there."""
    log = log_of([one(b"before")]) + claiming(deltas, last_delta, 101, codec)
    part = kind(100, PLACE, MemoryRecords(log), max_bytes=4 * MIB)
    assert values(part.take(10)) == [b"before"]
    with pytest.raises(Unreadable, match="do not rise") as raised:
        part.take(10)
    assert (raised.value.begin, raised.value.end) == (101, max(101 + last_delta, 101) + 1)
    assert raised.value.is_whole and not part


@pytest.mark.parametrize("kind", [PartitionColumns, GuardedRecords])
@pytest.mark.parametrize("base", [-(2**63) + 101, -1, 0, 100])
def test_a_batch_that_begins_before_the_one_before_it_ends_is_not_left_out_in_silence(kind: Any, base: int) -> None:
    """No checksum covers a batch's first offset, so a disk may change it unseen."""
    logs = [log_of([one(value)], offset) for value, offset in ((b"before", 100), (b"moved", 101), (b"after", 102))]
    log = logs[0] + struct.pack(">q", base) + logs[1][8:] + logs[2]
    part = kind(100, PLACE, MemoryRecords(log), max_bytes=4 * MIB)
    assert values(part.take(10)) == [b"before"]
    with pytest.raises(Unreadable, match="begin at") as raised:
        part.take(10)
    assert (raised.value.begin, raised.value.end) == (101, 102)
    assert b"moved" in raised.value.batch


@pytest.mark.parametrize("kind", [PartitionColumns, GuardedRecords])
def test_offsets_that_compaction_has_left_are_believed(kind: Any) -> None:
    part = kind(100, PLACE, MemoryRecords(claiming([3, 7], 9)), max_bytes=4 * MIB)
    assert values(part.take(10)) == [b"claims 3", b"claims 7"]
    assert part.next_fetch_offset == 110


@pytest.mark.parametrize("install", [fetch.install, guard])
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
            read += sum(map(len, drained[PLACE])) if install is fetch.install else len(drained[PLACE])
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
    part = kind(100, PLACE, MemoryRecords(bytes(log)), max_bytes=MIB)
    with pytest.raises(Unreadable, match="offsets 100 to 104: CorruptRecordError.*crc"):
        part.take(10)
    # It says itself where it ends, but is not to be trusted: without a next one it is passed offset by offset.
    last = kind(100, PLACE, MemoryRecords(bytes(log[: len(log) // 2])), max_bytes=MIB)
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
    part = kind(100, PLACE, MemoryRecords(bytes(log)), max_bytes=MIB)
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
    block = RecordBlock(TopicSet.of("t"), n, n + 11, n, BytesColumn.of([None]), BytesColumn.of([b"batch"]), headers)
    (reject,) = Decoder(InputSettings(format="f32"), ["a"]).decode(block).rejects
    assert reject.reason == "unreadable-batch"
    assert reject.error == "t/0, offsets 7 to 11: CorruptRecordError: crc"


@pytest.mark.parametrize("by", [[], [("offnormal-unread", b"")], [("offnormal-unread", bytes(16))]])
def test_a_sender_cannot_choose_its_dead_letters_reason_and_text(by: list[tuple[str, bytes]]) -> None:
    """By the headers of a batch that could not be read."""
    headers = [("content-type", b"application/vnd.offnormal.record-batch"), ("offnormal-error", b"told by him"), *by]
    (reject,) = Decoder(InputSettings(), ["a"]).decode(block_of([b"[1]"], headers={0: headers})).rejects
    assert reject.reason == "unknown-content-type" and "told by him" not in reject.error


@pytest.mark.parametrize("client", ["columnar", "public"])
def test_what_says_that_it_is_ours_goes_into_no_dead_letter(client: str) -> None:
    record = Unreadable(PLACE, 7, 12, b"batch", False, "why").record()
    block = (
        fetch.block_of(TopicSet.of("t"), {PLACE: fetch.chunks([record])})
        if client == "columnar"
        else records.block_of(TopicSet.of("t"), {PLACE: [record]})
    )
    decoded = Decoder(InputSettings(), ["a"]).decode(block)
    assert [reject.reason for reject in decoded.rejects] == ["unreadable-batch"]
    (letter,) = EventEncoder(Settings()).dead_letters(decoded.rejects, decoded)
    assert BY_US not in letter.headers and b"why" in dict(letter.headers)["offnormal-error"]
