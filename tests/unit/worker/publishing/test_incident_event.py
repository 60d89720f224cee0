"""A published incident fits its schema, and comes back as it was. What is damaged, or is no incident, does no harm."""

import json
from dataclasses import fields, replace
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings as budget, strategies as st

from tests.unit.worker.detection.incident_reference import Data
from tests.unit.worker.detection.incident_streams import RULES, Sent, rules, script, streams
from tests.unit.worker.detection.incident_worker import ENCODER, SOURCE, Step, Worker, plans
from worker.detection.incident import Incident
from worker.publishing.cloudevents import schema
from worker.publishing.incident_event import read_incident
from worker.settings import IncidentSettings, KafkaSettings, Settings

VALIDATOR = jsonschema.Draft202012Validator(schema("incident"), format_checker=jsonschema.FormatChecker())


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


def test_a_dataclass_of_an_incident_has_no_field_that_is_not_published() -> None:
    renamed = {"topic", "partition", "first"}, {"opened": "opened_by", "last": "last_vector", "peak": "peak_p_value"}
    told = {renamed[1].get(f.name, f.name) for f in fields(Incident)} - renamed[0]
    assert told - {"closed"} <= EXAMPLE["data"].keys()
