"""Streams of records with the p-values of their rows, by hand or by hypothesis, and the blocks that they make."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from hypothesis import strategies as st

from worker.blocks import BytesColumn, RecordBlock, TopicSet, VectorBlock
from worker.detection import Anomalies
from worker.detection.judge import Scorer
from worker.settings import IncidentSettings

BUDGET, ALARM, EXTREME = 0.01, 0.001, 0.001
QUIET, COOLDOWN = 10_000, 30_000  # ms
NOON = 1_700_000_000_000
SENSORS = ["flow", "heat", "pressure"]

T = TypeVar("T")


def scorer(version: str = "v1", features: Sequence[str] = SENSORS) -> Scorer:
    return cast(Scorer, SimpleNamespace(name="default", version=version, expected_rate=BUDGET, features=features))


def rules(open_after: int = 3, out_of: int = 4, extreme: float = EXTREME, cooldown: float = 30.0) -> IncidentSettings:
    return IncidentSettings(open_after=open_after, out_of=out_of, extreme=extreme, quiet=10.0, cooldown=cooldown)


class Sent(NamedTuple):
    """A record, with the p-values of its rows: None for a row within budget."""

    partition: int
    offset: int
    key: bytes | None
    time: int
    rows: tuple[float | None, ...]

    def place(self, row: int) -> str:
        return f"t/{self.partition}/{self.offset}/{row}"


def evidence(sent: Sent, row: int) -> list[tuple[str, float]]:
    first = (sent.offset + row) % len(SENSORS)
    return [(SENSORS[first], 0.75), (SENSORS[first - 1], 0.25)]


def block_of(sent: Sequence[Sent]) -> VectorBlock:
    counts = [len(s.rows) for s in sent]
    record = np.repeat(np.arange(len(sent)), counts)
    row = np.array([r for count in counts for r in range(count)], np.int64)
    time = np.array([s.time for s in sent], np.int64)
    records = RecordBlock(
        TopicSet.of("t"),
        np.array([s.partition for s in sent], np.int64),
        np.array([s.offset for s in sent], np.int64),
        time,
        BytesColumn.of([s.key for s in sent]),
        BytesColumn.of([b""] * len(sent)),
        {},
    )
    return VectorBlock(records, np.zeros((len(row), 1), np.float32), record, row, time[record], {}, [], 0)


def anomalies_of(sent: Sequence[Sent]) -> Anomalies:
    flat = [(s, row, p) for s in sent for row, p in enumerate(s.rows)]
    over = [(i, s, row, p) for i, (s, row, p) in enumerate(flat) if p is not None]
    told = [evidence(s, row) for _, s, row, _ in over]
    p_values = np.array([p for *_, p in over])
    return anomalies_at(
        [i for i, *_ in over],
        p_values,
        [[SENSORS.index(name) for name, _ in each] for each in told],
        [[share for _, share in each] for each in told],
    )


def anomalies_at(index: Sequence[int], p_values: Any, top: Any, contribution: Any) -> Anomalies:
    k = len(index)
    shares = np.array(contribution, np.float32).reshape(k, -1 if k else 0)
    return Anomalies(
        index=np.array(index, np.int64),
        score=np.ones(k, np.float32),
        p_value=np.array(p_values, np.float64),
        alarm=np.array(p_values, np.float64) <= ALARM,
        top=np.array(top, np.int64).reshape(shares.shape),
        actual=np.zeros_like(shares),
        expected=np.zeros_like(shares),
        contribution=shares,
        strength=np.ones(k, np.float32),
        missing=np.zeros((k, 1), bool),
        lags=None,
        incident=[None] * k,
    )


def long(each: st.SearchStrategy[T], most: int) -> st.SearchStrategy[list[T]]:
    """Lists whose lengths are even up to `most`: hypothesis by itself makes short ones."""
    return st.integers(0, most).flatmap(lambda n: st.lists(each, min_size=n, max_size=n))


P_VALUES = [None, None, None, 0.01, 0.009, 0.00123456789012345678, ALARM, 0.0007, BUDGET * EXTREME, 3e-7]
ENTITIES = [(0, b"a"), (0, None), (1, b"\xff\xfe"), (1, b"")]
# A clock that goes back by less than the quiet time, and one that is set to anything.
RISING = st.sampled_from([0, 1, 400, 1000, 3000, QUIET - 1, QUIET, 2 * QUIET, COOLDOWN + 1])
LATE = st.sampled_from([0, 0, 0, 1, 999, 4999])
WILD = st.integers(-30, 30).map(lambda k: k * 2500)


@st.composite
def streams(draw: st.DrawFn, wild: bool = False) -> list[Sent]:
    rows = st.lists(st.sampled_from(P_VALUES), min_size=1, max_size=3).map(tuple)
    entity, ahead, late = st.sampled_from(ENTITIES), WILD if wild else RISING, st.just(0) if wild else LATE
    now, offsets, made = NOON, [8, 8], []  # places are no texts: 10 comes after 9
    for (partition, key), step, back, p in draw(long(st.tuples(entity, ahead, late, rows), 60)):
        now += step
        made.append(Sent(partition, offsets[partition], key, now - back, p))
        offsets[partition] += 1 + step % 2  # markers of transactions take offsets too
    return made


RULES = st.builds(
    lambda of, extreme, cooldown: rules(*of, extreme, cooldown),  # type: ignore[call-arg]
    st.sampled_from([(1, 1), (1, 4), (2, 2), (2, 3), (3, 4), (3, 10)]),
    st.sampled_from([0.0, EXTREME]),
    st.sampled_from([0.0, COOLDOWN / 1000]),
)


def script(*rows: tuple[float, float | None], key: bytes | None = b"a", partition: int = 0) -> list[Sent]:
    """Records of one row each, as (seconds, p-value)."""
    return [Sent(partition, i, key, NOON + int(s * 1000), (p,)) for i, (s, p) in enumerate(rows)]
