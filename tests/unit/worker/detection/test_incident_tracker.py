"""Incidents are those of a plain loop over each entity's vectors, whatever the batches and the crashes in between. What
is closed is forgotten after its cool-down.
"""

import json
from dataclasses import replace
from datetime import datetime
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings as budget

from tests.unit.worker.detection.incident_reference import clock, right_of
from tests.unit.worker.detection.incident_streams import (
    BUDGET,
    EXTREME,
    NOON,
    RULES,
    SENSORS,
    Sent,
    anomalies_at,
    anomalies_of,
    block_of,
    rules,
    scorer,
    script,
    streams,
)
from tests.unit.worker.detection.incident_worker import ENCODER, SOURCE, Step, Worker, plans
from worker.blocks import TopicSet
from worker.detection import Incidents
from worker.publishing.incident_event import read_incident
from worker.settings import IncidentSettings

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


def test_a_vector_counts_by_its_strength_whether_it_comes_alone_or_with_others() -> None:
    for blocks in ([3], [1, 2], [1, 1, 1]):
        worker, begin = Worker(script(*[(k / 100, 1e-7) for k in range(3)]), rules()), 0
        for n in blocks:
            rows = slice(begin, begin + n)
            anomalies = anomalies_at(range(n), [1e-7] * n, [[0, 1]] * n, [[0.75, 0.25], [0.75, 0.25], [0, 1]][rows])
            anomalies = replace(anomalies, strength=np.array([1, 1, 6], np.float32)[rows])
            worker.incidents.observe(block_of(worker.stream[rows]), anomalies, scorer(features=["a", "b"]))
            begin += n
        (incident,) = worker.incidents.changed()
        assert incident.leading() == [("b", 6.5 / 8), ("a", 1.5 / 8)]


def test_the_entity_that_the_payload_names_is_the_incidents() -> None:
    sent = script((0, 1e-7), (1, 1e-7), key=None)
    block = replace(block_of(sent), entities={0: "press", 1: "über"})
    incidents = Incidents(rules(), TopicSet.of("t"))
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


# -- an alarm storm


def test_an_alarm_storm_is_one_incident_an_entity() -> None:
    stream = [Sent(0, k, b"%d" % (k % 50), NOON + k, (0.0005,)) for k in range(20_000)]
    block, anomalies = block_of(stream), anomalies_of(stream)
    incidents = Incidents(rules(), TopicSet.of("t"))
    incidents.observe(block, anomalies, scorer())
    assert sum(incident is not None for incident in anomalies.incident) == 50 * (400 - 2)
    handed = incidents.changed()
    assert [i.vectors for i in handed] == [400] * 50
    assert incidents.open == sum(i.notify for i in handed) == 50
    assert incidents.suspects(0) == [] and incidents.changed() == []
    assert all(not course.flags and course.incident for course in incidents._states.values())
    assert len(incidents._states) == len(incidents._watch) == 50
    assert {len(i.evidence) for i in handed} == {len(SENSORS)} and {len(i.models) for i in handed} == {1}
