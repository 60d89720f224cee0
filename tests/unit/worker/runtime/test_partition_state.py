"""What lies beside a committed offset: read back as it was, bounded, and nobody else's."""

import uuid

import pytest
from hypothesis import given, strategies as st

from worker.detection import Suspect
from worker.detection.incident import Flag
from worker.kafka.offset_metadata import OffsetNote
from worker.runtime.partition_state import PartitionState

FLAGS = st.lists(
    st.builds(
        Flag,
        st.integers(0, 900),
        st.integers(0, 10**14),
        st.integers(0, 2**62),
        st.integers(0, 10**6),
        st.floats(1e-300, 1),
        st.booleans(),
    ),
    min_size=1,
    max_size=3,
)
SUSPECTS = st.lists(st.builds(Suspect, st.integers(1, 2**64 - 1), st.just(900), FLAGS), max_size=20)


@given(st.none() | st.integers(0, 2**62), SUSPECTS)
def test_it_comes_back_as_it_was(replay: int | None, suspects: list[Suspect]) -> None:
    back = PartitionState.load(PartitionState(replay, suspects).dump())
    assert back.replay == replay
    for got, given_ in zip(back.suspects, suspects, strict=False):
        assert got.entity == given_.entity
        # positions are distances now: the count begins anew
        assert [(got.position - g.position, *g[1:]) for g in got.flags] == [
            (given_.position - f.position, *f[1:]) for f in given_.flags
        ]


@pytest.mark.parametrize("count", [1, 30, 5000])
def test_it_fits_beside_an_offset_and_the_first_ones_stay(count: int) -> None:
    flag = Flag(7, 10**13, 2**62, 999, 1.234567890123456e-250, True)
    suspects = [Suspect(2**64 - 1 - i, 10, [flag, flag]) for i in range(count)]
    told = OffsetNote(str(uuid.uuid4()), 100_000, 10**13, PartitionState(2**62, suspects).dump()).dump()
    assert len(told.encode()) <= 4096
    kept = PartitionState.load(OffsetNote.load(told).state).suspects
    assert len(kept) >= min(count, 15)
    assert [s.entity for s in kept] == [s.entity for s in suspects[: len(kept)]]


def test_nothing_to_tell_is_nothing() -> None:
    assert OffsetNote(state=PartitionState().dump()).dump() == ""


@given(st.none() | st.uuids().map(str), st.none() | st.integers(0, 10**6), st.none() | st.integers(0, 10**13), SUSPECTS)
def test_what_the_source_stores_and_what_the_loop_does_come_back(
    topic: str | None, first: int | None, began: int | None, suspects: list[Suspect]
) -> None:
    state = PartitionState(7, suspects).dump()
    note = OffsetNote.load(OffsetNote(topic, first, began, state).dump())
    assert (note.topic_id, note.first_partitions, note.began) == (topic, first, began)
    assert note.state == state == PartitionState(7, suspects).dump()


@pytest.mark.parametrize(
    "metadata",
    ["", "{}", "[]", "null", "7", '{"replay": -1, "suspects": []}', '{"replay": true, "suspects": []}', "[" * 10**5]
    + ['{"topic": 7, "first": -1}', '{"topic": "x", "first": true}']
    + ['{"replay": 1, "suspects": [["zz", []]]}', '{"replay": 1, "suspects": [["1", [[1, 2]]]]}', "kafka-streams"],
)
def test_what_others_have_stored_is_no_state(metadata: str) -> None:
    assert PartitionState.load(OffsetNote.load(metadata).state) == PartitionState()


@given(st.text())
def test_any_text_can_be_read(metadata: str) -> None:
    PartitionState.load(OffsetNote.load(metadata).state)
