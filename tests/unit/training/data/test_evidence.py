"""What events, labels and faults say of vectors; and that nonsense in their topics says nothing."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings, strategies as st

from tests.record_blocks import block_of
from training.data import evidence
from training.data.evidence import Evidence, VectorFlags
from worker.blocks.timestamps import iso
from worker.decoding import Decoder
from worker.settings import Settings

SETTINGS = Settings()
SENSORS = SETTINGS.topics.sensors
T = 1_790_000_000_000


def told(monkeypatch: pytest.MonkeyPatch, **topics: list[Any]) -> Evidence:
    names = {getattr(SETTINGS.topics, name): docs for name, docs in topics.items()}

    def values(_: Settings, topic: str, since: int | None) -> Iterator[bytes]:
        yield from (json.dumps(doc).encode() for doc in names.get(topic, []))

    monkeypatch.setattr(evidence, "_values", values)
    return Evidence.read(SETTINGS, T, ("a", "b"))


def event(offset: int, incident: int | None = None, entity: str | None = "m") -> dict[str, Any]:
    data = {"entity": entity, "time": iso(T + offset * 1000)}
    data["incident"] = None if incident is None else f"{SENSORS}/0/{incident}/0"
    return {"id": f"{SENSORS}/0/{offset}/0", "type": "offnormal.anomaly.v1", "data": data}


def known(found: Evidence, n: int = 20, keys: list[bytes | None] | None = None) -> list[VectorFlags]:
    records = block_of([b"[1,2]"] * n, keys or [b"m"] * n)
    records.timestamp[:] = T + 1000 * np.arange(n)
    block = Decoder(SETTINGS.input, ("a", "b")).decode(records)
    return [VectorFlags(int(flag)) for flag in found.flags(block)]


def test_vectors_over_budget_and_those_between_them_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    found = known(told(monkeypatch, anomalies=[event(2), event(5, 5), event(9, 5)]))
    assert found[2] == VectorFlags.NAMED
    assert found[5] == found[9] == VectorFlags.NAMED | VectorFlags.INCIDENT
    assert found[6:9] == [VectorFlags.INCIDENT] * 3
    assert not any(found[:2] + found[3:5] + found[10:])


def test_only_the_entitys_own_vectors_are_in_its_incident(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[bytes | None] = [b"m" if i % 2 else b"other" for i in range(20)]
    found = known(told(monkeypatch, anomalies=[event(5, 5), event(9, 5)]), keys=keys)
    assert found[7] == VectorFlags.INCIDENT and found[8] == found[6] == VectorFlags(0)


def test_a_label_is_of_an_event_or_of_an_incident_and_the_last_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [event(2), event(5, 5), event(9, 5), event(12, 12), event(14, 12)]
    labels = [
        {"id": f"{SENSORS}/0/2/0", "verdict": "confirmed"},
        {"id": f"{SENSORS}/0/5/0", "verdict": "confirmed"},
        {"id": f"{SENSORS}/0/5/0", "verdict": "dismissed"},
        {"id": f"{SENSORS}/0/12/0", "verdict": "confirmed"},
        {"id": f"{SENSORS}/0/14/0", "verdict": "dismissed"},
    ]
    found = known(told(monkeypatch, anomalies=events, labels=labels))
    assert found[2] == VectorFlags.NAMED | VectorFlags.CONFIRMED
    assert all(each & VectorFlags.DISMISSED and not each & VectorFlags.CONFIRMED for each in found[5:10])
    assert found[13] == VectorFlags.INCIDENT | VectorFlags.CONFIRMED
    assert found[14] & VectorFlags.DISMISSED, "of the event itself"


def test_a_faulty_sensors_stretch_ends_when_it_is_told_or_soon_after_it_was_last_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = {"kind": "sensor", "topic": SENSORS, "partition": 0, "entity": "m", "feature": "a"}
    times = {"since": iso(T + 3000), "latest": iso(T + 5000)}
    drift = {"type": "offnormal.drift.v1", "data": data | times | {"until": None}}
    found = known(told(monkeypatch, drift=[drift]))
    assert found[3:14] == [VectorFlags.FAULTY] * 11 and not any(found[:3] + found[14:])
    closed = {"type": "offnormal.drift.v1", "data": data | times | {"until": iso(T + 6000)}}
    assert known(told(monkeypatch, drift=[drift, closed])).count(VectorFlags.FAULTY) == 4


HOUR = 3_600_000


def fault(begin: int, latest: int, until: int | None = None, feature: str = "a") -> dict[str, Any]:
    data = {
        "kind": "sensor",
        "model": {"name": "default"},
        "topic": SENSORS,
        "partition": 0,
        "entity": "m",
        "feature": feature,
        "since": iso(begin),
        "latest": iso(latest),
        "until": None if until is None else iso(until),
    }
    return {"type": "offnormal.drift.v1", "data": data}


def test_a_fault_of_a_sensor_that_the_model_does_not_have_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = told(monkeypatch, drift=[fault(T, T + 9000, feature="c")])
    assert not any(known(found)) and not found.accepted


def test_a_fault_that_lasts_for_a_day_is_a_change_of_the_plant(monkeypatch: pytest.MonkeyPatch) -> None:
    shorter = told(monkeypatch, drift=[fault(T - 24 * HOUR + 1, T)])
    assert all(known(shorter)) and not shorter.accepted
    found = told(monkeypatch, drift=[fault(T - 24 * HOUR, T)])
    assert not any(known(found))
    assert found.accepted == [("m", "a", T - 24 * HOUR)]


def test_a_fault_that_each_new_worker_tells_anew_is_one_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    restarts = [fault(T - 3 * hours * HOUR, T - (3 * hours - 2) * HOUR) for hours in range(9, 0, -1)]
    assert told(monkeypatch, drift=restarts).accepted == [("m", "a", T - 27 * HOUR)]


def test_a_fault_that_was_over_and_one_that_came_long_after_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    over = [fault(T - 30 * HOUR, T - 20 * HOUR, T - 19 * HOUR), fault(T - 18 * HOUR, T)]
    assert not told(monkeypatch, drift=over).accepted
    long_ago = [fault(T - 30 * HOUR, T - 30 * HOUR + 1000), fault(T - 18 * HOUR, T)]
    assert not told(monkeypatch, drift=long_ago).accepted


@pytest.mark.parametrize(
    ("id", "verdict", "when", "accepted"),
    [
        (f"sensor/default/0/m/a/{T + 3000}", "dismissed", T + 9000, True),
        ("sensor/default/0/m/a/17", "dismissed", T + 9000, True),  # of an earlier telling of the same sensor
        (f"sensor/default/0/m/a/{T + 3000}", "confirmed", T + 9000, False),
        (f"sensor/default/0/m/a/{T + 3000}", "dismissed", T + 1000, False),  # of a fault before this one
        (f"sensor/default/0/m/ab/{T + 3000}", "dismissed", T + 9000, False),
        (f"sensor/other/0/m/a/{T + 3000}", "dismissed", T + 9000, False),
    ],
)
def test_a_person_can_dismiss_a_fault(
    monkeypatch: pytest.MonkeyPatch, id: str, verdict: str, when: int, accepted: bool
) -> None:
    label = {"id": id, "verdict": verdict, "time": iso(when)}
    found = told(monkeypatch, drift=[fault(T + 3000, T + 9000)], labels=[label])
    assert bool(found.accepted) == accepted
    assert any(known(found)) != accepted


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def distorted(draw: st.DrawFn) -> Any:
    """A sound record with something else in a place or two."""
    sound = draw(
        st.sampled_from(
            [
                event(5, 5),
                {"id": f"{SENSORS}/0/5/0", "verdict": "dismissed"},
                {
                    "type": "offnormal.drift.v1",
                    "data": {
                        "kind": "sensor",
                        "topic": SENSORS,
                        "partition": 0,
                        "feature": "a",
                        "since": iso(T),
                        "latest": iso(T),
                    },
                },
                {
                    "type": "offnormal.drift.v1",
                    "data": {"kind": "shift", "model": {"name": "default"}, "since": iso(T)},
                },
            ]
        )
    )
    doc = orjson.loads(orjson.dumps(sound))
    for _ in range(draw(st.integers(1, 2))):
        inside = doc["data"] if isinstance(doc.get("data"), dict) and draw(st.booleans()) else doc
        inside[draw(st.sampled_from([*inside, "entity", "incident", "until", "id"]))] = draw(json_values)
    return doc


@settings(max_examples=300, deadline=None)
@given(docs=st.lists(distorted() | json_values, max_size=5))
def test_nonsense_says_nothing_and_stops_nothing(docs: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        known(told(patch, anomalies=docs, labels=docs, drift=docs))
