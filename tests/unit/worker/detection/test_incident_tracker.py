"""Incidents: those of a plain loop over each entity's vectors, whatever the batches and the crashes in between; what is
published of them and read back; and what is forgotten.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from itertools import combinations
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, TypeVar, cast

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings as budget, strategies as st

from worker.blocks import BytesColumn, RecordBlock, VectorBlock
from worker.detection import Anomalies, Incidents
from worker.detection.incident import Incident
from worker.detection.judge import Scorer
from worker.kafka import Output
from worker.publishing.cloudevents import schema
from worker.publishing.encoder import EventEncoder
from worker.publishing.incident_event import read_incident
from worker.runtime.partition_state import PartitionState
from worker.settings import IncidentSettings, KafkaSettings, Settings

BUDGET, ALARM, EXTREME = 0.01, 0.001, 0.001
QUIET, COOLDOWN = 10_000, 30_000  # ms
NOON = 1_700_000_000_000
SENSORS = ["flow", "heat", "pressure"]
SOURCE, ENCODER = Settings().source, EventEncoder(Settings())
VALIDATOR = jsonschema.Draft202012Validator(schema("incident"), format_checker=jsonschema.FormatChecker())

Data = dict[str, Any]
T = TypeVar("T")


def scorer(version: str = "v1", features: Sequence[str] = SENSORS) -> Scorer:
    return cast(Scorer, SimpleNamespace(name="default", version=version, budget=BUDGET, features=features))


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
        "t",
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
        missing=np.zeros((k, 1), bool),
        lags=None,
        incident=[None] * k,
    )


# -- what is right: one loop


class Vector(NamedTuple):
    place: str
    time: int
    p: float | None
    evidence: list[tuple[str, float]]


@dataclass
class Right:
    """An incident by its vectors over budget, of which `early` were there before the one that opened it."""

    vectors: list[Vector]
    early: int
    notify: bool
    notified: int
    closed: bool = False

    @property
    def id(self) -> str:
        return self.vectors[0].place

    @property
    def started(self) -> int:
        return min(v.time for v in self.vectors[: self.early + 1])

    @property
    def latest(self) -> int:
        return max(v.time for v in self.vectors)


def loop(vectors: Iterable[Vector], s: IncidentSettings) -> tuple[list[Right], dict[str, str | None]]:
    """The incidents of one entity; and of each of its vectors over budget, the incident."""
    made: list[Right] = []
    named: dict[str, str | None] = {}
    now: Right | None = None
    free: list[Vector] = []  # since the last incident
    for v in vectors:
        if now is not None:
            set_back = v.p is not None and v.time <= now.started - QUIET
            if v.time >= now.latest + QUIET or set_back:
                now.closed = True
                now, free = None, []
        if now is None:
            free.append(v)
            over = [f for f in free[-s.out_of :] if f.p is not None]
            if v.p is not None and (len(over) >= s.open_after or v.p <= BUDGET * s.extreme):
                started = min(f.time for f in over)
                notify = not made or abs(started - made[-1].notified) >= s.cooldown * 1000
                now = Right(over, len(over) - 1, notify, started if notify else made[-1].notified)
                made.append(now)
        elif v.p is not None:
            now.vectors.append(v)
        if v.p is not None:
            named[v.place] = now.id if now else None
    return made, named


def as_data(right: Right, key: bytes | None, identity: int) -> Data:
    counted = right.vectors[right.early :]
    values = [v.p for v in right.vectors if v.p is not None]
    return {
        "incident": right.id,
        "entity": None if key is None else key.decode("utf-8", "replace"),
        "identity": f"{identity:016x}",
        "state": "closed" if right.closed else "open",
        "severity": "alarm" if min(values) <= ALARM else "warning",
        "started": clock(right.started),
        "ended": clock(right.latest) if right.closed else None,
        "latest": clock(right.latest),
        "vectors": len(right.vectors),
        "peak_p_value": min(values),
        "evidence": {
            name: total
            for name in SENSORS
            if (total := sum(share for v in counted for n, share in v.evidence if n == name))
        },
        "models": [{"name": "default", "version": "v1"}],
        "notified": clock(right.notified),
        "opened_by": counted[0].place,
        "last_vector": right.vectors[-1].place,
    }


def clock(ms: int) -> str:
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ms % 1000:03}Z"


class Outcome(NamedTuple):
    """What is to be seen from outside: the last record of each incident, the incident of each anomaly, and the
    incidents that were notified of, in any order.
    """

    incidents: dict[str, Data]
    named: dict[str, str | None]
    pages: list[str]


def right_of(stream: Sequence[Sent], s: IncidentSettings) -> Outcome:
    found = Outcome({}, {}, [])
    hashes = dict(zip([s[0:3:2] for s in stream], block_of(stream).entity_hash.tolist(), strict=True)) if stream else {}
    for partition, key in hashes:
        mine = [sent for sent in stream if (sent.partition, sent.key) == (partition, key)]
        vectors = [
            Vector(sent.place(row), sent.time, p, evidence(sent, row))
            for sent in mine
            for row, p in enumerate(sent.rows)
        ]
        made, named = loop(vectors, s)
        found.named.update(named)
        for right in made:
            found.incidents[right.id] = as_data(right, key, hashes[partition, key])
            found.pages.extend([right.id] if right.notify else [])
    return found._replace(pages=sorted(found.pages))


# -- what is there: incidents, driven as the service does


@dataclass
class Worker:
    """Drives incidents as worker/runtime/session.py does, by a Kafka of a few lists. It owns partitions 0 and 1."""

    stream: Sequence[Sent]
    rules: IncidentSettings
    topic: list[Output] = field(default_factory=list)  # the incidents
    metadata: dict[int, dict[str, Any]] = field(default_factory=dict)
    committed: int = 0
    at: int = 0
    named: dict[str, list[str | None]] = field(default_factory=dict)
    handed: list[list[Incident]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.adopt(Incidents(self.rules, "t"))

    def adopt(self, incidents: Incidents) -> None:
        """Goes on from what was committed. Of the topic, no more is left than after a compaction."""
        self.incidents, self.at = incidents, self.committed
        last: dict[int, dict[int, Incident]] = {0: {}, 1: {}}
        for output in {output.key: output for output in self.topic}.values():
            incident = read_incident(output.value, SOURCE)
            assert incident is not None
            last[incident.partition][incident.identity] = incident
        for partition in (0, 1):
            incidents.forget(partition)
            state = PartitionState.load(self.metadata.get(partition, {}))
            incidents.restore(partition, state.suspects, last[partition])

    def score(self, records: int) -> None:
        sent = self.stream[self.at : self.at + records]
        self.at += len(sent)
        block, anomalies = block_of(sent), anomalies_of(sent)
        self.incidents.observe(block, anomalies, scorer())
        for index, incident in zip(anomalies.index.tolist(), anomalies.incident, strict=True):
            place = sent[block.record[index]].place(int(block.row[index]))
            self.named.setdefault(place, []).append(incident)

    def commit(self) -> None:
        self.handed.append(self.incidents.changed())
        self.topic += ENCODER.incidents(self.handed[-1])
        for partition in {sent.partition for sent in self.stream[self.committed : self.at]}:
            self.metadata[partition] = PartitionState(None, self.incidents.suspects(partition)).dump()
        self.committed = self.at

    def run(self, plan: Iterable["Step"]) -> "Worker":
        for records, then, published in plan:
            self.score(records)
            match then:
                case "commit":
                    self.commit()
                case "take over":
                    self.commit()
                    self.adopt(Incidents(self.rules, "t"))
                case "crash":
                    self.adopt(Incidents(self.rules, "t"))
                case "redo":
                    self.adopt(self.incidents)
                case "publish and crash":
                    self.topic += ENCODER.incidents(self.incidents.changed())[:published]
                    self.adopt(Incidents(self.rules, "t"))
        self.score(len(self.stream))
        self.commit()
        return self

    def outcome(self) -> Outcome:
        told = [json.loads(output.value)["data"] for output in self.topic]
        pages = [data["incident"] for data in told if data.pop("notify")]
        for data in told:
            shares = {f["name"]: f["contribution"] * data["evidence"] for f in data.pop("features")}
            data["evidence"] = {name: round(total, 6) for name, total in shares.items()}
        named = {place: names[-1] for place, names in self.named.items()}
        return Outcome({data["incident"]: data for data in told}, named, sorted(pages))


Then = Literal["score on", "commit", "take over", "crash", "redo", "publish and crash"]
Step = tuple[int, Then, int]  # so many records, and then; of an unfinished commit, so many incidents are published


def plans(*then: Then) -> st.SearchStrategy[list[Step]]:
    return long(st.tuples(st.integers(0, 9), st.sampled_from(then), st.integers(0, 5)), 20)


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
    lambda of, extreme, cooldown: rules(*of, extreme, cooldown),
    st.sampled_from([(1, 1), (1, 4), (2, 2), (2, 3), (3, 4), (3, 10)]),
    st.sampled_from([0.0, EXTREME]),
    st.sampled_from([0.0, COOLDOWN / 1000]),
)


def script(*rows: tuple[float, float | None], key: bytes | None = b"a", partition: int = 0) -> list[Sent]:
    """Records of one row each, as (seconds, p-value)."""
    return [Sent(partition, i, key, NOON + int(s * 1000), (p,)) for i, (s, p) in enumerate(rows)]


# -- the same incidents, whatever happens


@budget(max_examples=150, deadline=None)
@given(streams() | streams(wild=True), RULES, plans("score on", "commit"))
def test_incidents_are_those_of_a_plain_loop_however_the_stream_is_cut(
    stream: list[Sent], s: IncidentSettings, plan: list[Step]
) -> None:
    assert Worker(stream, s).run(plan).outcome() == right_of(stream, s)


@budget(max_examples=150, deadline=None)
@given(
    streams() | streams(wild=True),
    RULES,
    plans("score on", "commit", "take over", "take over", "crash", "redo"),
)
def test_a_takeover_or_a_crash_anywhere_changes_nothing(
    stream: list[Sent], s: IncidentSettings, plan: list[Step]
) -> None:
    assert Worker(stream, s).run(plan).outcome() == right_of(stream, s)


@budget(max_examples=200, deadline=None)
@given(streams(), RULES, plans("score on", "commit", "take over", "publish and crash", "publish and crash"))
def test_at_least_once_no_vector_is_counted_twice_and_nobody_is_told_twice(
    stream: list[Sent], s: IncidentSettings, plan: list[Step]
) -> None:
    worker, right = Worker(stream, s).run(plan), right_of(stream, s)
    assert worker.outcome()._replace(named={}) == right._replace(named={})
    for place, names in worker.named.items():
        # One that is scored again may belong to an incident before the last, which is not known any more.
        assert names[0] == right.named[place] or len(names) > 1
        assert set(names) <= {right.named[place], None}


@budget(max_examples=100, deadline=None)
@given(streams(), RULES, plans("commit", "take over", "crash", "redo", "publish and crash"))
def test_an_entity_is_notified_of_once_within_the_cooldown_and_else_each_time(
    stream: list[Sent], s: IncidentSettings, plan: list[Step]
) -> None:
    started: dict[str, dict[int, bool]] = {}
    for output in Worker(stream, s).run(plan).topic:
        data = json.loads(output.value)["data"]
        times = started.setdefault(data["identity"], {})
        when = round(datetime.fromisoformat(data["started"]).timestamp() * 1000)
        assert not (data["notify"] and times.get(when)), "twice for one opening"
        times[when] = data["notify"] or times.get(when, False)
    for times in started.values():
        told = [when for when, notified in times.items() if notified]
        assert all(abs(a - b) >= s.cooldown * 1000 for a, b in combinations(told, 2))
        for when in times.keys() - set(told):
            assert any(abs(when - t) < s.cooldown * 1000 for t in told)


@budget(max_examples=60, deadline=None)
@given(streams(), RULES, plans("commit", "take over", "crash"))
def test_of_each_entity_closed_incidents_are_handed_over_before_the_open_one(
    stream: list[Sent], s: IncidentSettings, plan: list[Step]
) -> None:
    for handed in Worker(stream, s).run(plan).handed:
        assert len({incident.id for incident in handed}) == len(handed)
        for identity in {incident.identity for incident in handed}:
            mine = [incident for incident in handed if incident.identity == identity]
            assert all(incident.closed for incident in mine[:-1])
            assert [incident.first for incident in mine] == sorted(incident.first for incident in mine)


def test_several_incidents_of_one_batch_are_all_handed_over_once() -> None:
    worker = Worker(script((0, 0.009), (20, 0.009), (21, 0.009), (60, 0.009)), rules(open_after=1))
    worker.run([])
    (handed,) = worker.handed
    assert [(i.id, i.vectors, i.closed, i.notify) for i in handed] == [
        ("t/0/0/0", 1, True, True),
        ("t/0/1/0", 2, True, False),
        ("t/0/3/0", 1, False, True),
    ]
    assert worker.incidents.changed() == []


def test_what_was_handed_over_does_not_change_any_more() -> None:
    worker = Worker(script((0, 0.009), (1, 0.0009)), rules(open_after=1))
    worker.score(1)
    (before,) = worker.incidents.changed()
    told = ENCODER.incidents([before])
    worker.score(1)
    assert ENCODER.incidents([before]) == told


def test_work_that_is_void_leaves_no_trace_in_what_it_went_on_from() -> None:
    worker = Worker(script((0, 0.009), (1, 0.009)), rules(open_after=1))
    worker.score(1)
    published = read_incident(ENCODER.incidents(worker.incidents.changed())[0].value, SOURCE)
    assert published is not None
    before = ENCODER.incidents([published])
    worker.incidents.restore(0, [], {published.identity: published})
    worker.incidents.observe(block_of(worker.stream[1:]), anomalies_of(worker.stream[1:]), scorer("v2"))
    assert [i.models for i in worker.incidents.changed()] == [[("default", "v1"), ("default", "v2")]]
    assert ENCODER.incidents([published]) == before


# -- the rules, one by one


@pytest.mark.parametrize(("gap", "vectors"), [(0, 3), (1, 3), (2, 0)])
def test_it_opens_with_three_of_the_last_four(gap: int, vectors: int) -> None:
    quiet_rows: list[tuple[float, float | None]] = [(2, None)] * gap
    found = Worker(script((0, 0.009), (1, 0.009), *quiet_rows, (3, 0.009)), rules()).run([]).outcome()
    assert [data["vectors"] for data in found.incidents.values()] == [vectors] * bool(vectors)


@pytest.mark.parametrize(("p", "opens"), [(BUDGET * EXTREME, True), (BUDGET * EXTREME * 1.01, False)])
def test_one_extreme_vector_opens_it(p: float, opens: bool) -> None:
    worker = Worker(script((0, p)), rules()).run([])
    assert worker.named == {"t/0/0/0": ["t/0/0/0" if opens else None]}
    assert worker.incidents.open == opens


@pytest.mark.parametrize(("p", "closed"), [(None, True), (0.009, True)])
@pytest.mark.parametrize(("wait", "late"), [(9.999, False), (10, True)])
def test_the_first_vector_after_a_quiet_time_closes_it(wait: float, late: bool, p: float | None, closed: bool) -> None:
    worker = Worker(script((0, 1e-7), (2, 0.009), (2 + wait, p)), rules(open_after=2)).run([])
    (data,) = worker.outcome().incidents.values()
    assert (data["state"] == "closed") == (late and closed)
    assert data["ended"] == (clock(NOON + 2000) if late else None)
    assert data["vectors"] == (3 if p and not late else 2)


def test_a_flag_and_the_incident_that_it_leads_to_have_one_id() -> None:
    worker = Worker(script((0, None), (1, 0.009), (2, 0.009), (3, 0.009), (4, None), (5, 0.009)), rules()).run([])
    assert {place: names[0] for place, names in worker.named.items()} == {
        "t/0/1/0": None,
        "t/0/2/0": None,
        "t/0/3/0": "t/0/1/0",
        "t/0/5/0": "t/0/1/0",
    }


def test_a_vector_that_is_scored_again_is_of_the_incident_that_took_it_in() -> None:
    stream = script((0, 0.009), (1, 0.009), (2, 0.009))
    worker = Worker(stream, rules(open_after=2)).run([(3, "publish and crash", 1)])
    assert worker.named == {"t/0/0/0": [None, None], "t/0/1/0": ["t/0/0/0"] * 2, "t/0/2/0": ["t/0/0/0"] * 2}


def test_flags_that_a_published_incident_has_taken_in_open_no_other() -> None:
    stream = script((0, 0.009), (1, 0.009), (2, 0.009), (12, None), (13, 0.009))
    worker = Worker(stream, rules(out_of=10)).run([(2, "commit", 0), (1, "publish and crash", 1)])
    assert list(worker.outcome().incidents) == ["t/0/0/0"]
    assert worker.named["t/0/4/0"] == [None]


def test_a_vector_before_the_incident_is_none_of_it_though_its_clock_was_ahead() -> None:
    stream = script((3, 0.009), (0, None), (0, None), (0, None), (1, 0.009), (2, 0.009))
    worker = Worker(stream, rules(open_after=2, out_of=2)).run([(6, "publish and crash", 1)])
    assert [data["vectors"] for data in worker.outcome().incidents.values()] == [2]


def test_a_topic_made_anew_is_read_from_its_start_again() -> None:
    """Offsets begin anew then, and the incidents of before lie ahead of them."""
    old = Worker(script(*[(k, 0.009) for k in range(20)]), rules(open_after=2)).run([])
    new = Worker(script((60, 0.009), (61, 0.009)), rules(open_after=2), topic=old.topic).run([])
    assert new.named == {"t/0/0/0": [None], "t/0/1/0": ["t/0/0/0"]}
    assert {data["state"] for data in new.outcome().incidents.values()} == {"open"}


def test_the_evidence_is_bounded_and_the_guiltiest_comes_first() -> None:
    worker = Worker(script(*[(k / 100, 1e-7) for k in range(200)]), rules())
    names = [f"s{k:03}" for k in range(200)]
    anomalies = anomalies_at(range(200), [1e-7] * 200, range(200), [1 + k % 3 for k in range(200)])
    worker.incidents.observe(block_of(worker.stream), anomalies, scorer(features=names))
    (incident,) = worker.incidents.changed()
    assert (incident.vectors, len(incident.evidence)) == (200, 64)
    shares = incident.leading()
    assert shares == sorted(shares, key=lambda told: (-told[1], told[0]))
    assert sum(share for _, share in shares) == pytest.approx(1)
    assert (shares[0][0], shares[-1][0]) == ("s002", "s063")


def test_the_entity_that_the_payload_names_is_the_incidents() -> None:
    sent = script((0, 1e-7), (1, 1e-7), key=None)
    block = replace(block_of(sent), entities={0: "press", 1: "über"})
    incidents = Incidents(rules(), "t")
    incidents.observe(block, anomalies_of(sent), scorer())
    outputs = ENCODER.incidents(incidents.changed())
    assert {output.key: json.loads(output.value)["subject"] for output in outputs} == {
        b"press": "press",
        "über".encode(): "über",
    }


# -- what is forgotten


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock that incidents see; to be set."""
    now = [1000.0]
    monkeypatch.setattr("worker.detection.incident_tracker.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_partition_that_goes_away_leaves_nothing_behind_and_publishes_nothing() -> None:
    here, there = script((0, 1e-7), key=b"a"), script((0, 1e-7), key=b"b", partition=1)
    worker = Worker([*here, *there, *script((0, 0.009), key=b"c", partition=1)], rules())
    worker.score(3)
    assert [s.entity for s in worker.incidents.suspects(1)] == [int(block_of(worker.stream).entity_hash[2])]
    worker.incidents.forget(1)
    assert worker.incidents.open == 1 and worker.incidents.suspects(1) == []
    assert [i.partition for i in worker.incidents.changed()] == [0]
    worker.incidents.forget(0)
    assert not worker.incidents._states and not len(worker.incidents._watch)
    worker.incidents.sweep(0)
    assert worker.incidents.changed() == []


def test_a_silent_entitys_incident_is_closed_and_then_forgotten_after_the_cooldown(seconds: list[float]) -> None:
    worker = Worker(script((0, 1e-7), (1, 1e-7)), rules())
    worker.score(1)
    assert [i.closed for i in worker.incidents.changed()] == [False]
    seconds[0] += 19
    worker.incidents.sweep(20)
    assert worker.incidents.changed() == [] and worker.incidents.open == 1
    seconds[0] += 1
    worker.incidents.sweep(20)
    (swept,) = worker.incidents.changed()
    assert swept.closed and not swept.notify and worker.incidents.open == 0
    seconds[0] += 9
    worker.incidents.sweep(20)
    assert len(worker.incidents._states) == 1, "the cool-down is not over"
    seconds[0] += 1
    worker.incidents.sweep(20)
    assert not worker.incidents._states and not len(worker.incidents._watch)
    worker.score(1)
    assert [i.notify for i in worker.incidents.changed()] == [True], "nothing is known of it"


def test_a_closed_incident_is_known_until_the_cooldown_is_over(seconds: list[float]) -> None:
    worker = Worker(script((0, 1e-7), (11, None), (25, 1e-7)), rules())
    worker.score(2)
    seconds[0] += 29
    worker.incidents.sweep(1)
    worker.score(1)
    assert [(i.notify, i.closed) for i in worker.incidents.changed()] == [(True, True), (False, False)]


def test_a_sweep_changes_nothing_of_who_is_heard_of(seconds: list[float]) -> None:
    stream = script(*[(float(k), p) for k, p in enumerate([0.009, None, 0.009, 0.009] + [None] * 20)])
    worker = Worker(stream, rules())
    for _ in stream:
        worker.score(1)
        seconds[0] += 19
        worker.incidents.sweep(20)
    worker.commit()
    assert worker.outcome() == right_of(stream, worker.rules)


def test_entities_of_which_nothing_is_left_to_know_take_no_memory() -> None:
    stream = script((0, 0.009), *[(k, None) for k in range(1, 9)])
    worker = Worker(stream, rules())
    worker.score(1)
    assert len(worker.incidents._states) == len(worker.incidents._watch) == 1
    worker.score(8)
    assert not worker.incidents._states and not len(worker.incidents._watch)


def test_those_flagged_last_come_first() -> None:
    stream = [
        Sent(0, k, b"%d" % entity, NOON + k, (p,))
        for k, (entity, p) in enumerate([(0, 0.009), (1, 0.009), (2, 0.009), (0, 0.009), (2, None)])
    ]
    worker = Worker(stream, rules())
    worker.score(5)
    hashes = block_of(stream).entity_hash.tolist()
    assert [s.entity for s in worker.incidents.suspects(0)] == [hashes[0], hashes[2], hashes[1]]


# -- what is published, and read back


@budget(max_examples=30, deadline=None)
@given(streams() | streams(wild=True), RULES, plans("commit", "take over", "publish and crash"))
def test_every_published_incident_fits_the_schema_and_comes_back(
    stream: list[Sent], s: IncidentSettings, plan: list[Step]
) -> None:
    worker = Worker(stream, s).run(plan)
    for output in worker.topic:
        event = json.loads(output.value)
        VALIDATOR.validate(event)
        data = event["data"]
        assert event["id"] == f"{data['incident']}#{data['last_vector']}:{data['state']}"
        assert event["time"] == data["latest"]
        entity = data["entity"]
        assert output.key == (b"t/%d" % int(data["incident"].split("/")[1]) if entity is None else entity.encode())
        assert event.get("subject", "") == (entity or "")
        assert read_incident(output.value, Settings(kafka=KafkaSettings(group="other")).source) is None
    for incident in (i for handed in worker.handed for i in handed):
        back = read_incident(ENCODER.incidents([incident])[0].value, SOURCE)
        assert back is not None
        assert back.evidence == pytest.approx(incident.evidence)
        assert back == replace(incident, evidence=back.evidence, notify=False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def example() -> Data:
    worker = Worker(script((0, 1e-7), (1, 0.009)), rules()).run([])
    told: Data = json.loads(worker.topic[0].value)
    return told


EXAMPLE = example()
EXTREMES = st.sampled_from(
    [
        "",
        "/",
        "t/0/1/2",
        "t/-1/0/0",
        "ffffffffffffffffff",
        "-1",
        "0",
        2**63,
        -(2**63),
        1e300,
        "1e999",
        "nan",
        "0001-01-01",
    ]
    + ["9999-12-31T23:59:59.999Z", "9" * 5000, "f" * 5000, [], {}, [{}], [[]], None, True]
)


@budget(max_examples=200, deadline=None)
@given(st.binary() | JSON.map(lambda doc: json.dumps(doc).encode()) | st.none())
def test_what_is_no_incident_reads_as_none(value: bytes | None) -> None:
    assert read_incident(value, SOURCE) is None


@budget(max_examples=400, deadline=None)
@given(st.sampled_from([*sorted(EXAMPLE), *(("data", name) for name in sorted(EXAMPLE["data"]))]), JSON | EXTREMES)
def test_an_incident_with_a_damaged_field_is_none_or_one_to_go_on_from(where: str | tuple[str, str], what: Any) -> None:
    event: Data = json.loads(json.dumps(EXAMPLE))
    if isinstance(where, str):
        event[where] = what
    else:
        event["data"][where[1]] = what
    incident = read_incident(json.dumps(event).encode(), SOURCE)
    if incident is None:
        return
    for gap in (2, 2000):
        worker = Worker(script((gap, 1e-7), (gap + 1, None), key=b"a"), rules())
        worker.incidents.restore(0, [], {incident.identity: incident})
        worker.score(2)
        ENCODER.incidents(worker.incidents.changed())


@pytest.mark.parametrize(("where", "what"), [("source", "urn:offnormal:other"), ("type", "offnormal.anomaly.v1")])
def test_what_others_publish_is_none_of_ours(where: str, what: str) -> None:
    assert read_incident(json.dumps(EXAMPLE).encode(), SOURCE) is not None
    assert read_incident(json.dumps(EXAMPLE | {where: what}).encode(), SOURCE) is None


# -- an alarm storm


def test_an_alarm_storm_is_one_incident_an_entity() -> None:
    stream = [Sent(0, k, b"%d" % (k % 50), NOON + k, (0.0005,)) for k in range(20_000)]
    block, anomalies = block_of(stream), anomalies_of(stream)
    incidents = Incidents(rules(), "t")
    incidents.observe(block, anomalies, scorer())
    assert sum(incident is not None for incident in anomalies.incident) == 50 * (400 - 2)
    handed = incidents.changed()
    assert [i.vectors for i in handed] == [400] * 50
    assert incidents.open == sum(i.notify for i in handed) == 50
    assert incidents.suspects(0) == [] and incidents.changed() == []
    assert all(not course.flags and course.incident for course in incidents._states.values())
    assert len(incidents._states) == len(incidents._watch) == 50
    assert {len(i.evidence) for i in handed} == {len(SENSORS)} and {len(i.models) for i in handed} == {1}


def test_a_dataclass_of_an_incident_has_no_field_that_is_not_published() -> None:
    renamed = {"topic", "partition", "first"}, {"opened": "opened_by", "last": "last_vector", "peak": "peak_p_value"}
    told = {renamed[1].get(f.name, f.name) for f in fields(Incident)} - renamed[0]
    assert told - {"closed"} <= EXAMPLE["data"].keys()
