"""The vectors that the aligner makes of readings, beside those of pandas."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from worker.alignment import Aligner, Flush
from worker.alignment.grid import FLUSHED_ROW
from worker.blocks import BytesColumn, RecordBlock, TopicSet, VectorBlock
from worker.blocks.reading_block import ReadingBlock
from worker.errors import SettingsError
from worker.native.arrays import Float32s
from worker.settings import EntitySettings, InputSettings

STEP, T0 = 1000, 1_795_000_000_000
NONE = float("nan")


class Reading(NamedTuple):
    """A reading `at` ms after the begin, of a tag by its number."""

    at: int
    tag: int
    value: float
    entity: str = "press"


def aligner(tags: int, hold: float = 3.0, lateness: float = 0.0, **entities: int) -> Aligner:
    inputs = InputSettings(align=True, step="1s", lateness=lateness)
    return Aligner(np.full(tags, hold), inputs, EntitySettings(**{"max": 8, **entities}))


def block_of(readings: Sequence[Reading], first: int = 0) -> ReadingBlock:
    n = len(readings)
    records = RecordBlock(
        TopicSet.of("sensors"),
        np.zeros(n, np.int64),
        np.arange(first, first + n),
        np.arange(n),
        BytesColumn.of([r.entity.encode() for r in readings]),
        BytesColumn.of([b""] * n),
        {},
    )
    return ReadingBlock(
        records=records,
        record=np.arange(n),
        column=np.array([r.tag for r in readings], np.int64),
        value=np.array([r.value for r in readings], np.float32),
        time=np.array([T0 + r.at for r in readings], np.int64),
        entities={},
        rejects=(),
        nulls=0,
        timed=n,
    )


Vectors = list[tuple[int, tuple[str, ...]]]  # time after the begin in ms, readings as text


def vectors(block: VectorBlock) -> Vectors:
    return [(int(t) - T0, tuple(map(str, x))) for t, x in zip(block.time, block.x.tolist(), strict=True)]


def ids(block: VectorBlock) -> list[tuple[int, int]]:
    return list(zip(block.records.offset[block.record].tolist(), block.row.tolist(), strict=True))


def by_pandas(readings: Sequence[Reading], tags: int, hold: float, lateness: int) -> Vectors:
    """Return the vectors of one entity by merge_asof, up to where the newest reading closes them."""
    first, newest = T0 + readings[0].at - lateness, T0 + max(r.at for r in readings)
    grid = np.arange(-(-first // STEP) * STEP, newest - lateness, STEP)
    result = pd.DataFrame({"t": grid})
    for tag in range(tags):
        own = pd.DataFrame([(T0 + r.at, r.value) for r in readings if r.tag == tag], columns=["t", str(tag)])
        own = own.astype({"t": np.int64, str(tag): np.float32}).sort_values("t", kind="stable")
        # Of readings of one time the last counts.
        own = own.drop_duplicates("t", keep="last")
        result = pd.merge_asof(result, own, on="t", tolerance=int(hold * 1000))
    kept = result[result.drop(columns="t").notna().any(axis=1)]
    rows = kept.drop(columns="t").to_numpy(np.float32).tolist()
    return [(int(t) - T0, tuple(map(str, row))) for t, row in zip(kept["t"], rows, strict=True)]


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Reading], int, int, float]:
    """Draw readings in any order within the lateness, the number of tags, the lateness in ms, and the hold in s."""
    tags, lateness = draw(st.integers(1, 4)), draw(st.sampled_from([0, 1, 500, 1000, 2500, 7000]))
    hold = draw(st.sampled_from([1.0, 2.5, 10.0, 100.0]))
    newest, readings = 0, []
    for _ in range(draw(st.integers(1, 60))):
        at = newest + draw(st.integers(0, 2500) | st.integers(3000, 40_000) if draw(st.booleans()) else st.just(0))
        at -= draw(st.integers(0, lateness))
        newest = max(newest, at)
        value = draw(st.integers(-9, 9).map(float) | st.just(NONE))
        readings.append(Reading(at, draw(st.integers(0, tags - 1)), value))
    return readings, tags, lateness, hold


@given(streams(), st.data())
@settings(max_examples=100, deadline=None)
def test_vectors_are_those_of_merge_asof_however_the_stream_is_cut(
    stream: tuple[list[Reading], int, int, float], data: st.DataObject
) -> None:
    readings, tags, lateness, hold = stream
    cuts = sorted(data.draw(st.sets(st.integers(0, len(readings)), max_size=5)) | {0, len(readings)})
    one = aligner(tags, hold, lateness / 1000)
    parts = [one.push(block_of(readings[a:b], a)) for a, b in zip(cuts, cuts[1:], strict=False)]
    assert sum(part.late for part in parts) == 0
    assert [v for part in parts for v in vectors(part.block)] == by_pandas(readings, tags, hold, lateness)


@given(streams(), st.data())
@settings(max_examples=100, deadline=None)
def test_reading_back_gives_the_same_vectors_with_the_same_ids(
    stream: tuple[list[Reading], int, int, float], data: st.DataObject
) -> None:
    readings, tags, lateness, hold = stream
    at = data.draw(st.integers(0, len(readings)))
    one = aligner(tags, hold, lateness / 1000)
    if at:
        one.push(block_of(readings[:at]))
    begin = one.replay_from(0, at, 1000)
    again = aligner(tags, hold, lateness / 1000)
    if begin < at:
        again.push(block_of(readings[begin:at], begin))
    rest = block_of(readings[at:], at)
    expected, found = one.push(rest).block, again.push(rest).block
    assert vectors(found) == vectors(expected)
    assert ids(found) == ids(expected)


@given(streams(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_flush_is_repeated_where_it_was(stream: tuple[list[Reading], int, int, float], data: st.DataObject) -> None:
    readings, tags, lateness, hold = stream
    flushed_at = data.draw(st.integers(1, len(readings)))
    at = data.draw(st.integers(flushed_at, len(readings)))
    one = aligner(tags, hold, lateness / 1000)
    one.push(block_of(readings[:flushed_at]))
    flush = Flush(flushed_at, flushed_at)
    one.flush(0, flush)
    if at > flushed_at:
        one.push(block_of(readings[flushed_at:at], flushed_at))
    begin = min(one.replay_from(0, at, 1000), at)
    again = aligner(tags, hold, lateness / 1000)
    again.repeat(0, [flush])
    if begin < at:
        for part in again.split(block_of(readings[begin:at], begin).records):
            first = int(part.offset[0])
            again.repeated(0, first)
            again.push(block_of(readings[first : first + len(part)], first))
    if at < len(readings):
        rest = block_of(readings[at:], at)
        again.repeated(0, at)
        expected, found = one.push(rest), again.push(rest)
        assert vectors(found.block) == vectors(expected.block)
        assert ids(found.block) == ids(expected.block)
        assert found.late == expected.late


def test_a_vector_has_the_last_reading_of_each_tag_and_the_place_of_the_record_that_closes_it() -> None:
    found = aligner(2).push(block_of([Reading(100, 0, 1), Reading(900, 1, 2), Reading(950, 0, 3), Reading(1001, 1, 4)]))
    assert vectors(found.block) == [(1000, ("3.0", "2.0"))]
    assert ids(found.block) == [(3, 0)]


def test_one_record_may_close_several_vectors() -> None:
    found = aligner(1, hold=10).push(block_of([Reading(100, 0, 1), Reading(3500, 0, 2)]))
    assert vectors(found.block) == [(1000, ("1.0",)), (2000, ("1.0",)), (3000, ("1.0",))]
    assert ids(found.block) == [(1, 0), (1, 1), (1, 2)]


def test_a_reading_holds_for_its_time_and_no_longer() -> None:
    found = aligner(2, hold=2).push(block_of([Reading(0, 0, 1), *(Reading(k * 500, 1, 2) for k in range(1, 8))]))
    assert [x for _, x in vectors(found.block)] == [("1.0", "nan"), ("1.0", "2.0"), ("1.0", "2.0"), ("nan", "2.0")]


def test_a_reading_without_a_value_takes_the_one_before_it_away() -> None:
    found = aligner(2).push(
        block_of([Reading(0, 0, 1), Reading(500, 1, 2), Reading(600, 0, NONE), Reading(1500, 1, 2)])
    )
    assert vectors(found.block)[-1] == (1000, ("nan", "2.0"))


def test_what_comes_after_its_vector_is_late() -> None:
    readings = [Reading(0, 0, 1), Reading(2500, 0, 2), Reading(1500, 0, 9), Reading(3500, 0, 3)]
    assert aligner(1, lateness=0).push(block_of(readings)).late == 1
    waits = aligner(1, lateness=1).push(block_of(readings))
    assert (waits.late, vectors(waits.block)) == (0, [(0, ("1.0",)), (1000, ("1.0",)), (2000, ("9.0",))])


def test_a_clock_that_is_set_back_begins_anew() -> None:
    one = aligner(1)
    one.push(block_of([Reading(3_600_000, 0, 1)]))
    found = one.push(block_of([Reading(500 * k, 0, k) for k in range(20)], 1))
    assert (found.late, found.restarted) == (4, 1)
    assert len(found.block) > 5


def test_after_a_long_gap_the_grid_goes_on_at_the_next_reading() -> None:
    found = aligner(1, hold=1e6).push(
        block_of([Reading(500, 0, 1), Reading(5_000_500, 0, 2), Reading(5_001_500, 0, 3)])
    )
    assert vectors(found.block) == [(1000, ("1.0",)), (5_001_000, ("2.0",))]


def test_entities_are_kept_apart() -> None:
    found = aligner(1).push(
        block_of([Reading(0, 0, 1, "a"), Reading(0, 0, 2, "b"), Reading(500, 0, 3, "b"), Reading(700, 0, 4, "a")])
    )
    assert [(found.block.entity(i), x) for i, (_, x) in enumerate(vectors(found.block))] == [
        ("b", ("2.0",)),
        ("a", ("1.0",)),
    ]


def test_too_many_entities_push_the_idlest_out() -> None:
    one = aligner(1, max=4)
    one.push(block_of([Reading(0, 0, k, f"e{k}") for k in range(50)]))
    assert one.evicted == 46
    assert len(one) == 4


def test_a_flush_closes_the_silent_alone_and_names_them() -> None:
    one = aligner(1, lateness=2)
    one.push(block_of([Reading(0, 0, 1, "a"), Reading(1500, 0, 2, "a"), Reading(0, 0, 3, "b")]))
    block = one.flush(0, Flush(3, 2))
    assert block is not None
    assert vectors(block) == [(0, ("1.0",)), (1000, ("1.0",)), (2000, ("2.0",))]
    assert [block.entity(i) for i in range(3)] == ["a"] * 3
    offsets, rows = zip(*ids(block), strict=True)
    assert offsets == (1, 1, 1)
    assert rows == tuple(range(rows[0], rows[0] + 3)) and rows[0] > FLUSHED_ROW
    assert one.flush(0, Flush(3, 2)) is None


def test_readings_of_other_tags_only_tell_the_time() -> None:
    found = aligner(1).push(block_of([Reading(0, 0, 1), Reading(1500, -1, 0)]))
    assert (found.unknown, vectors(found.block)) == (1, [(0, ("1.0",)), (1000, ("1.0",))])


def test_vectors_with_gaps_are_readings() -> None:
    x: Float32s = np.array([[1, np.nan], [np.nan, np.nan], [2, 3]], np.float32)
    records = block_of([Reading(0, 0, 0)] * 3).records
    block = VectorBlock(records, x, np.arange(3), np.zeros(3, np.int64), np.arange(3) * 10, {}, (), 0)
    readings = ReadingBlock.of_vectors(block, STEP)
    assert readings.record.tolist() == [0, 1, 2, 2]
    assert readings.column.tolist() == [0, -1, 0, 1]
    assert readings.time.tolist() == [0, 10, 20, 20]


@pytest.mark.parametrize("lateness", [0.0, 60.0])
def test_there_is_room_for_all_cells(lateness: float) -> None:
    one = aligner(1, hold=1, lateness=lateness)
    times = range(0, 200_000, 250)
    found = one.push(block_of([Reading(t, 0, t) for t in times]))
    assert [int(float(x[0])) for _, x in vectors(found.block)] == [t for t, _ in vectors(found.block)]


def test_more_than_fits_into_memory_is_told() -> None:
    inputs = InputSettings(align=True, step="1s", lateness=60)
    with pytest.raises(SettingsError, match="10,000,000 entities with 3000 tags over 62 steps"):
        Aligner(np.ones(3000), inputs, EntitySettings(max=10_000_000))


@given(streams(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_vector_has_the_same_id_whatever_flushes_there_were(
    stream: tuple[list[Reading], int, int, float], data: st.DataObject
) -> None:
    readings, tags, lateness, _ = stream
    one, other = aligner(tags, 100, lateness / 1000), aligner(tags, 100, lateness / 1000)
    found = {}
    for i, reading in enumerate(readings):
        for block in (one.push(block_of([reading], i)).block, other.push(block_of([reading], i)).block):
            for place, time in zip(ids(block), block.time.tolist(), strict=True):
                assert found.setdefault(place, time) == time
        if data.draw(st.booleans()):
            other.flush(0, Flush(i + 1, i + 1))


def test_what_is_open_is_read_back_however_far_that_is() -> None:
    one = aligner(2, lateness=2)
    one.push(block_of([Reading(0, 0, 1, "a"), *(Reading(k, 0, 2, "b") for k in range(100))]))
    assert one.replay_from(0, 101, 10) == 0
    one.flush(0, Flush(101, 1))
    assert one.replay_from(0, 101, 10) > 90 or one.replay_from(0, 101, 10) == 1  # of b alone


def test_two_vectors_of_a_record_have_two_rows_though_the_clock_is_set_back_within_it() -> None:
    one = aligner(1)
    block = block_of([Reading(3_600_000, 0, 1), *(Reading(1000 * k, 0, k) for k in range(40))])
    as_one = replace(block, record=np.zeros(len(block), np.int64))
    vectors_of_it = one.push(as_one).block
    assert len(set(ids(vectors_of_it))) == len(vectors_of_it)
