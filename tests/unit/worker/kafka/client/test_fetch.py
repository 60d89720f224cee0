"""The columnar client gives what kafka-python gives: the same records, positions and errors, over generated logs."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from crc32c import crc32c
from hypothesis import given, settings as budget, strategies as st
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.protocol.consumer import IsolationLevel
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.legacy_records import LegacyRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords

from worker.blocks import TopicSet
from worker.kafka import connection, records
from worker.kafka.client import fetch
from worker.kafka.client.fetch import UNBOUNDED, PartitionColumns
from worker.kafka.unreadable import Unreadable
from worker.settings import KafkaSettings

PLACE = TopicPartition("t", 3)
NOW = 1_700_000_000_000


class Record(NamedTuple):
    gap: int  # offsets that compaction has left out before it
    later: int  # ms
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


@dataclass
class Batch:
    records: Sequence[Record]
    codec: int = 0
    epoch: int = 0
    producer: int = -1
    transactional: bool = False
    control: int | None = None  # 0 aborts, 1 commits
    append_time: bool = False
    left_out: int = 0  # offsets after the last record that compaction has left


def encoded(batch: Batch, base: int) -> tuple[bytes, int]:
    """-> the batch as a broker stores it, and the offset after it."""
    builder = DefaultRecordBatchBuilder(2, batch.codec, False, -1, -1, -1, 1 << 24)
    if batch.producer >= 0:
        builder.set_producer_state(batch.producer, 0, 0, batch.transactional)
    offset, when = 0, NOW
    made = [Record(0, 0, struct.pack(">hh", 0, batch.control), b"", ())] if batch.control is not None else batch.records
    for record in made:
        offset, when = offset + record.gap, when + record.later
        builder.append(offset, when, record.key, record.value, list(record.headers))
        offset += 1
    data = bytearray(builder.build())
    (attributes,) = struct.unpack_from(">h", data, 21)
    attributes |= 0x08 * batch.append_time | 0x20 * (batch.control is not None)
    struct.pack_into(">h", data, 21, attributes)
    struct.pack_into(">i", data, 23, max(offset - 1, 0) + batch.left_out)
    struct.pack_into(">I", data, 17, crc32c(bytes(data[21:])))
    struct.pack_into(">q", data, 0, base)
    struct.pack_into(">i", data, 12, batch.epoch)
    return bytes(data), base + max(offset - 1, 0) + batch.left_out + 1


def claiming(deltas: Sequence[int], last_delta: int, base: int = 100, codec: int = 0) -> bytes:
    """A batch whose records claim these offsets within it, and whose header says another last one."""
    builder = DefaultRecordBatchBuilder(2, codec, False, -1, -1, -1, 1 << 24)
    for delta in deltas:
        builder.append(delta, NOW, None, b"claims %d" % delta, [])
    data = bytearray(builder.build())
    struct.pack_into(">i", data, 23, last_delta)
    struct.pack_into(">I", data, 17, crc32c(bytes(data[21:])))
    struct.pack_into(">q", data, 0, base)
    return bytes(data)


def log_of(batches: Sequence[Batch], base: int = 100) -> bytes:
    parts = []
    for batch in batches:
        data, base = encoded(batch, base)
        parts.append(data)
    return b"".join(parts)


class Aborted(NamedTuple):
    producer_id: int
    first_offset: int


def read(
    kind: Any,
    log: bytes,
    takes: Sequence[int],
    fetch_offset: int,
    aborted: Sequence[Aborted],
    **bounds: int,
) -> dict[str, Any]:
    """All that can be seen of it: records, where to go on, and the error."""
    drained: list[Any] = []
    part = kind(
        fetch_offset,
        PLACE,
        MemoryRecords(log),
        isolation_level=IsolationLevel.READ_COMMITTED,
        aborted_transactions=list(aborted),
        on_drain=drained.append,
        **bounds,
    )
    found: list[Any] = []
    error, k = "", 0
    while part:
        try:
            taken = part.take(takes[k % len(takes)])
        except Exception as raised:
            error = raised.why if isinstance(raised, Unreadable) else f"{type(raised).__name__}: {raised}"
            break
        k += 1
        block_of = fetch.block_of if kind is PartitionColumns else records.block_of
        if len(taken):
            fetched = {PLACE: [*taken]}
            block = block_of(TopicSet.of("t"), fetched)
            found += [
                (o, t, key, value, list(block.headers.get(i, [])))
                for i, (o, t, key, value) in enumerate(
                    zip(block.offset.tolist(), block.timestamp.tolist(), block.keys, block.values, strict=True)
                )
            ]
            assert set(block.partition.tolist()) == {3}
            first_offset = fetch.first_offset if kind is PartitionColumns else records.first_offset
            assert first_offset(fetched[PLACE]) == block.offset[0]
        elif kind is not PartitionColumns and part:
            break  # kafka-python's own is not drained by an error: it would go on for ever
    return {
        "records": found,
        "error": error,
        "next": part.next_fetch_offset,
        "epoch": part.leader_epoch,
        "drained": bool(drained) if not error else None,
    }


def both(
    log: bytes, takes: Sequence[int] = (7,), at: int = 100, aborted: Sequence[Aborted] = (), most: int = UNBOUNDED
) -> dict[str, Any]:
    """What both give, which is the same."""
    expected = read(Fetcher.PartitionRecords, log, takes, at, aborted)
    found = read(PartitionColumns, log, takes, at, aborted, max_bytes=most)
    if "UnicodeDecodeError" in expected["error"]:  # an odd name of a header: it costs nobody anything here
        assert found["records"][: len(expected["records"])] == expected["records"]
        return expected
    if found["error"].startswith("OffsetsOutOfOrder"):  # kafka-python believes them
        assert found["records"] == expected["records"][: len(found["records"])]
        return found
    if expected["error"].startswith("MemoryError"):  # it has believed what an lz4 frame claims to unpack to
        assert found["error"].startswith(("TooLarge", "MemoryError"))
        assert found["records"][: len(expected["records"])] == expected["records"]
        return expected
    if expected["error"]:
        # It may have gone past what compaction had left out before the damage: the same batch is fetched again.
        assert found.pop("next") >= expected.pop("next")
    assert found == expected
    return expected


payload = st.one_of(st.none(), st.binary(max_size=40), st.just(b"x" * 200))
header = st.tuples(st.text("abcü-", max_size=8), st.one_of(st.none(), st.binary(max_size=10)))
record = st.builds(
    Record,
    gap=st.sampled_from([0, 0, 0, 1, 300]),
    later=st.sampled_from([0, 1, -5, 100_000]),
    key=payload,
    value=payload,
    headers=st.lists(header, max_size=2).map(tuple),
)
batch = st.builds(
    Batch,
    records=st.lists(record, min_size=1, max_size=8),
    codec=st.sampled_from([0, 0, 0, 1, 2, 3, 4]),
    epoch=st.integers(0, 3),
    producer=st.sampled_from([-1, -1, 5, 6]),
    transactional=st.booleans(),
    control=st.sampled_from([None, None, None, 0, 1]),
    append_time=st.booleans(),
    left_out=st.sampled_from([0, 0, 4]),
).map(lambda b: b if b.producer >= 0 else Batch(b.records, b.codec, b.epoch, append_time=b.append_time))
aborts = st.lists(st.builds(Aborted, st.sampled_from([5, 6]), st.integers(95, 140)), max_size=3)
takes = st.lists(st.integers(1, 12), min_size=1, max_size=4)


@budget(max_examples=300, deadline=None)
@given(st.lists(batch, max_size=6), takes, st.integers(95, 140), aborts, st.sampled_from([UNBOUNDED, 5000]))
def test_sound_logs(batches: list[Batch], takes: list[int], at: int, aborted: list[Aborted], most: int) -> None:
    """However much is decoded at a time: no batch here has 5000 bytes, and a few of them have."""
    both(log_of(batches), takes, at, aborted, most)


@budget(max_examples=500, deadline=None)
@given(
    st.lists(batch, min_size=1, max_size=4),
    takes,
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=3),
    st.one_of(st.none(), st.integers(0, 10**6)),
    st.booleans(),
    aborts,
)
def test_damaged_logs(
    batches: list[Batch],
    takes: list[int],
    flips: list[tuple[int, int]],
    cut: int | None,
    right_sum: bool,
    aborted: list[Aborted],
) -> None:
    """Any bytes changed, the end cut off; where the checksum is right all the same, the records are odd."""
    data = bytearray(log_of(batches))
    for at, value in flips:
        data[at % len(data)] = value
    if right_sum:
        (size,) = struct.unpack_from(">i", data, 8)
        if 49 <= size <= len(data) - 12:
            struct.pack_into(">I", data, 17, crc32c(bytes(data[21 : 12 + size])))
    both(bytes(data[: cut % len(data)] if cut is not None else data), takes, 100, aborted)


def test_an_old_format_is_left_to_kafka_python() -> None:
    builder = LegacyRecordBatchBuilder(1, 0, 1 << 20)
    for k in range(3):
        builder.append(k, timestamp=NOW, key=b"k", value=b"v%d" % k)
    new, _ = encoded(Batch([Record(0, 0, None, b"new", ())]), 0)
    found = both(new + bytes(builder.build()), at=0)
    assert [value for _, _, _, value, _ in found["records"]][:1] == [b"new"]


def test_an_aborted_transaction_is_not_read_and_its_neighbours_are() -> None:
    mine = Batch([Record(0, 0, None, b"mine", ())], producer=5, transactional=True)
    other = Batch([Record(0, 0, None, b"other", ())], producer=6, transactional=True)
    log = log_of([mine, other, Batch([], producer=5, control=0), mine])
    found = both(log, aborted=[Aborted(5, 100)])
    assert [value for _, _, _, value, _ in found["records"]] == [b"other", b"mine"]


def test_after_an_error_the_rest_is_fetched_again() -> None:
    """kafka-python's own would be asked for ever, and answer nothing: Fetcher.fetched_records would not return."""
    log = bytearray(log_of([Batch([Record(0, 0, None, b"good", ())]), Batch([Record(0, 0, None, b"bad", ())])]))
    log[-1] ^= 0xFF
    part = PartitionColumns(100, PLACE, MemoryRecords(bytes(log)))
    assert len(part.take(10)) == 1
    assert part
    with pytest.raises(Unreadable, match="crc"):
        part.take(10)
    assert not part
    assert part.next_fetch_offset == 101


def test_an_unknown_kafka_python_is_used_by_its_public_api(monkeypatch: pytest.MonkeyPatch) -> None:
    assert connection.is_columnar(KafkaSettings())
    assert not connection.is_columnar(KafkaSettings(client="public"))
    monkeypatch.setattr("kafka.__version__", "3.0.999")
    assert not connection.is_columnar(KafkaSettings())
