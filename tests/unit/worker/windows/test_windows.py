"""Windows: those of a plain definition whatever the batches, and the same again after a replay."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings as budget, strategies as st

from worker.blocks import BytesColumn, RecordBlock, TopicSet, VectorBlock
from worker.settings import EntitySettings, InputSettings
from worker.windows import Windowed, Windows, max_gap

Rows = npt.NDArray[np.float32]

WHEN = 1_700_000_000_000
NAN = float("nan")
KEYS = (b"a", None, b"", b"b", b"c")
# All different, and so large that their differences are wrong where they are summed in float32.
READINGS = (1e5 + np.random.default_rng(0).normal(scale=100, size=(1000, 3))).astype(np.float32)


class Setup(NamedTuple):
    window: int
    reorder: int = 4
    step: float | None = None
    max_gap: float = 3600
    max_missing: float = 0.5
    width: int = 1

    def windows(self, entities: int = 20) -> Windows:
        inputs = InputSettings(step=self.step, max_gap=self.max_gap, reorder=self.reorder)
        return Windows(self.window, self.width, self.max_missing, inputs, EntitySettings(max=entities))


class Record(NamedTuple):
    offset: int
    time: int
    x: Rows
    key: bytes | None = b"a"
    partition: int = 0


def block(records: Sequence[Record], width: int, read_only: bool = False) -> VectorBlock:
    def column(values: Sequence[int]) -> npt.NDArray[np.int64]:
        return np.array(values, np.int64)

    counts = [len(r.x) for r in records]
    time = column([r.time for r in records])
    keys = BytesColumn.of([r.key for r in records])
    of = RecordBlock(
        TopicSet.of("t"),
        column([r.partition for r in records]),
        column([r.offset for r in records]),
        time,
        keys,
        keys,
        {},
    )
    x = np.concatenate([np.empty((0, width), np.float32), *(r.x for r in records)])
    x.flags.writeable = not read_only
    record = np.repeat(np.arange(len(records)), counts)
    row = column([i for n in counts for i in range(n)])
    return VectorBlock(of, x, record, row, time[record], {}, [], 0)


def batches(records: Sequence[Record], sizes: Sequence[int]) -> Iterator[Sequence[Record]]:
    begin, i = 0, 0
    while begin < len(records):
        yield records[begin : begin + sizes[i % len(sizes)]]
        begin, i = begin + sizes[i % len(sizes)], i + 1


def joined(parts: Sequence[Windowed]) -> Windowed:
    x, cold = np.concatenate([p.x for p in parts]), np.concatenate([p.cold for p in parts])
    begins = np.cumsum([0, *(len(p.cold) for p in parts)])
    set_back = np.concatenate([begin + p.set_back for begin, p in zip(begins, parts, strict=False)])
    return Windowed(x, cold, sum(p.late for p in parts), sum(p.restarted for p in parts), set_back)


def push(windows: Windows, records: Sequence[Record], setup: Setup, sizes: Sequence[int] = (1000,)) -> Windowed:
    """In batches; every other one is read-only."""
    parts = [windows.push(block([], setup.width))]
    for i, batch in enumerate(batches(records, sizes)):
        parts.append(windows.push(block(batch, setup.width, i % 2 > 0)))
    return joined(parts)


def same(a: Windowed, b: Windowed) -> None:
    """To the bit."""
    np.testing.assert_array_equal(a.x.view(np.uint32), b.x.view(np.uint32))
    np.testing.assert_array_equal(a.cold, b.cold)
    assert (a.late, a.restarted, a.set_back.tolist()) == (b.late, b.restarted, b.set_back.tolist())


class Definition:
    """What `Windows.push` promises, one row at a time, with all rows of an entity kept since its window began."""

    def __init__(self, setup: Setup):
        self.setup = setup
        self.step = int(setup.step * 1000) if setup.step else 0
        self.entities: dict[tuple[int, bytes | None], list[tuple[int, Rows]]] = defaultdict(list)
        self.last: dict[tuple[int, bytes | None], int] = {}
        self.late_run: Counter[tuple[int, bytes | None]] = Counter()
        self.high: dict[tuple[int, bytes | None], int] = {}  # the latest time before clocks were set back
        self.set_back: list[int] = []
        self.rows = 0
        self.lengths = [n for n in (1, 2, 4, 8, 16) if n < setup.window]
        self.late = self.restarted = 0

    def push(self, records: Sequence[Record]) -> Windowed:
        """The counts are of all rows up to now."""
        rows = [self._row(r, r.time + i * self.step, x) for r in records for i, x in enumerate(r.x)]
        cold = np.array([window is None for window in rows], bool)
        x = [self._coefficients(window) for window in rows]
        columns = (1 + len(self.lengths)) * self.setup.width
        return Windowed(
            np.array(x, np.float32).reshape(len(rows), columns),
            cold,
            self.late,
            self.restarted,
            np.array(self.set_back, np.int64),
        )

    def _row(self, record: Record, time: int, x: Rows) -> Rows | None:
        """The row's window, the newest first; None where it is not full."""
        entity, gap = (record.partition, record.key), self.setup.max_gap * 1000
        rows = self.entities[entity]
        if self.step:
            time = (time + self.step // 2) // self.step * self.step
        if rows and (time > rows[-1][0] + gap or time < self.last[entity] - gap):
            if time < self.last[entity] - gap:
                self.high.pop(entity, None)
            rows.clear()
            self.restarted += 1
        self.last[entity] = time
        newer = sum(t > time for t, _ in rows)
        before_all = self.step > 0 and len(rows) > 0 and time < rows[0][0]
        self.rows += 1
        if newer > self.setup.reorder or before_all:
            self.late_run[entity] += 1
            if self.late_run[entity] <= max(self.setup.reorder, 4):
                self.late += 1
                return None
            self.high[entity] = max(self.high.get(entity, 0), rows[-1][0])
            rows.clear()  # the clock was set back
            self.set_back.append(self.rows - 1)
            self.restarted += 1
        self.late_run[entity] = 0
        ring = [t for t, _ in rows[-self.setup.window - self.setup.reorder :]]
        is_beyond = len(ring) > 1 and ring[-1] < self.high.get(entity, 0) < time
        if is_beyond and (time - ring[-1]) * (len(ring) - 1) > 4 * (ring[-1] - ring[0]):
            rows.clear()  # what came before was a burst of old vectors
            self.restarted += 1
        if self.step:
            while rows and rows[-1][0] + self.step < time:
                rows.append((rows[-1][0] + self.step, np.full_like(x, np.nan)))
            rows[:] = [row for row in rows if row[0] != time]
        rows.append((time, x))
        rows.sort(key=lambda row: row[0])  # stable: of equal times the later comes last
        seen = [row for row in rows if row[0] <= time]
        window = np.array([x for _, x in reversed(seen)][: self.setup.window])
        return window if len(window) == self.setup.window else None

    def _coefficients(self, window: Rows | None) -> npt.NDArray[np.float64]:
        d = self.setup.width
        if window is None or np.isnan(window[0]).sum() > self.setup.max_missing * d:
            return np.full((1 + len(self.lengths)) * d, np.nan)
        return np.concatenate([mean(window, 0), *(mean(window[:n]) - mean(window[n : 2 * n]) for n in self.lengths)])


def mean(rows: Rows, least: float = 0.75) -> npt.NDArray[np.float64]:
    """NaN where a smaller share of the readings is there, or none."""
    there = ~np.isnan(rows)
    counts = there.sum(0)
    total = np.where(there, rows.astype(np.float64), 0).sum(0)
    return np.where((counts >= least * len(rows)) & (counts > 0), total / np.maximum(counts, 1), np.nan)


def close(a: Windowed, b: Windowed) -> None:
    np.testing.assert_allclose(a.x, b.x, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(a.cold, b.cold)
    assert (a.late, a.restarted, a.set_back.tolist()) == (b.late, b.restarted, b.set_back.tolist())


setups = st.builds(
    Setup,
    window=st.integers(2, 4) | st.integers(2, 20),
    reorder=st.integers(0, 5),
    step=st.sampled_from([None, 1.0]),
    max_gap=st.sampled_from([3600.0, 10.0, 3.0]),
    max_missing=st.sampled_from([0.0, 0.5, 0.7, 0.9]),
    width=st.integers(1, 3),
)
sizes = st.lists(st.sampled_from([1, 2, 3, 5, 20]), min_size=1, max_size=5)


@st.composite
def streams(draw: st.DrawFn, setup: Setup) -> list[Record]:
    """Records of some entities: out of order, at equal times, after gaps, without a row; readings are missing.

    Clocks are set back.
    """
    keys = st.sampled_from(KEYS[: draw(st.integers(1, len(KEYS)))])
    partitions = st.integers(0, draw(st.integers(0, 1)))
    ahead = [1, 1, 1, 0, 2, 3, 5, 12]
    steps = st.sampled_from(draw(st.sampled_from([ahead, [*ahead, -9], [1] * 12 + [-9, -30]])))
    behind = st.sampled_from(draw(st.sampled_from([[0], [0, 0, 0, 0, 1, 1, 2, 3, 4, 8, 13]])))
    jitter = st.sampled_from([0, 0, 0, 300, 500])
    missing = st.sampled_from([0, 0, 0, 0, 1, 2, 4, 7])
    one = st.tuples(keys, partitions, steps, behind, jitter, missing, st.sampled_from([1, 1, 1, 2, 3, 0]))
    n = draw(st.integers(0, 15) | st.integers(0, 100))
    clock, rows, records = 0, 0, []
    offsets = [100, 7]
    for key, partition, ahead, late, off, holes, count in draw(st.lists(one, min_size=n, max_size=n)):
        clock += ahead
        x = READINGS[rows : rows + count, : setup.width].copy()
        x[:1, [f for f in range(setup.width) if holes >> f & 1]] = np.nan
        records.append(Record(offsets[partition], WHEN + 1000 * (clock - late) + off, x, key, partition))
        rows += count
        offsets[partition] += 1
    return records


def test_an_entity_may_be_silent_for_four_of_its_intervals_or_an_hour() -> None:
    assert max_gap(InputSettings(), 0) == max_gap(InputSettings(), 60) == 3600
    assert (
        max_gap(InputSettings(), 3600) == max_gap(InputSettings(), 3581.7) == max_gap(InputSettings(), 4000) == 14_400
    )
    assert max_gap(InputSettings(max_gap="10m"), 3600) == 600
    ninety_minutes = [Record(i, WHEN + i * 5_400_000, READINGS[i : i + 1, :1]) for i in range(3)]
    for interval, cold in ((0.0, [True, True, True]), (3600.0, [True, False, False])):
        windows = Windows(2, 1, 0.5, InputSettings(), EntitySettings(max=1), interval=interval)
        assert windows.push(block(ninety_minutes, 1)).cold.tolist() == cold


@budget(max_examples=200, deadline=None)
@given(st.data(), setups, sizes)
def test_windows_are_those_of_the_definition_in_any_batches(
    data: st.DataObject, setup: Setup, sizes: list[int]
) -> None:
    records = data.draw(streams(setup))
    close(push(setup.windows(), records, setup, sizes), Definition(setup).push(records))


@pytest.mark.parametrize("step", [None, 1.0])
def test_a_window_begins_anew_where_the_clock_was_set_back(step: float | None) -> None:
    setup = Setup(window=3, reorder=2, step=step)
    times = [*range(20), *range(5, 40)]  # the clock is set back by 15 s
    records = [Record(i, WHEN + 1000 * t, READINGS[i : i + 1, :1]) for i, t in enumerate(times)]
    windowed = push(setup.windows(), records, setup)
    assert windowed.set_back.tolist() == [24]
    assert (windowed.late, windowed.restarted) == (4, 1)
    assert np.flatnonzero(windowed.cold).tolist() == [0, 1, *range(20, 26)]
    again = push(setup.windows(), records[24:], setup)
    np.testing.assert_array_equal(windowed.x[24:], again.x, "no window holds rows from before")


def test_no_window_is_of_live_vectors_and_a_burst_of_old_ones() -> None:
    setup = Setup(window=3, reorder=2)
    times = [*range(100, 120), *range(20, 30), *range(120, 130)]
    records = [Record(i, WHEN + 1000 * t, READINGS[i : i + 1, :1]) for i, t in enumerate(times)]
    windowed = push(setup.windows(), records, setup)
    assert np.flatnonzero(windowed.cold).tolist() == [0, 1, *range(20, 26), 30, 31]
    again = push(setup.windows(), records[30:], setup)
    np.testing.assert_array_equal(windowed.x[30:], again.x)


def test_an_entity_whose_set_back_is_too_far_back_is_filled_from_what_is_left() -> None:
    setup = Setup(window=3, reorder=2)
    times = [*range(1000), *range(500, 700)]
    records = [Record(i, WHEN + 1000 * t, READINGS[:1, :1]) for i, t in enumerate(times)]
    windows = setup.windows()
    push(windows, records, setup)
    assert windows.replay_from(0, 1200, 300) == 995, "all rows from before the set-back"
    assert windows.replay_from(0, 1200, 100) == 1195, "the newest rows"


class Run:
    """A run that is never interrupted, and at each record what a replay before it would be asked for."""

    def __init__(self, setup: Setup, records: Sequence[Record], depth: int = 10**9):
        self.setup, self.records = setup, records
        windows, ends = setup.windows(), dict[int, int]()
        self.begins: list[dict[int, int]] = []  # by cut and partition
        self._rows = []
        for record in records:
            self.begins.append({p: windows.replay_from(p, end, depth) for p, end in ends.items()})
            self._rows.append(push(windows, [record], setup))
            ends[record.partition] = record.offset + 1

    def rest(self, cut: int) -> Windowed:
        return joined(self._rows[cut:])

    def resumed(self, cut: int, sizes: Sequence[int] = (1000,), earlier: int = 0) -> Windowed:
        """The rest, after a replay that begins `earlier` than asked for."""
        windows = self.setup.windows()
        for p, begin in self.begins[cut].items():
            old = [r for r in self.records[:cut] if r.partition == p and r.offset >= begin - earlier]
            push(windows, old, self.setup, sizes)
        return push(windows, self.records[cut:], self.setup, sizes)


@budget(max_examples=150, deadline=None)
@given(st.data(), setups, sizes)
def test_a_replay_gives_the_windows_of_an_uninterrupted_run(
    data: st.DataObject, setup: Setup, sizes: list[int]
) -> None:
    run = Run(setup, data.draw(streams(setup)))
    earlier = data.draw(st.sampled_from([0, 0, 1, 3]))
    for cut in range(0, len(run.records), 1 + len(run.records) // 20):
        same(run.resumed(cut, sizes, earlier), run.rest(cut))
