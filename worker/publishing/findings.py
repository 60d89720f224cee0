"""Findings of drift detection and of trials, as events; and the requests for training that a drift makes."""

from functools import singledispatch

import orjson

from worker.blocks.timestamps import iso
from worker.drift.findings import Drift, SensorFault
from worker.kafka import Output
from worker.publishing.cloudevents import DRIFT_TYPE, SHADOW_TYPE, envelope, event_record
from worker.rollout.findings import ShadowEvent, TakenBack
from worker.settings import TopicSettings

Finding = Drift | SensorFault | ShadowEvent | TakenBack


@singledispatch
def records_of(finding: Finding, topics: TopicSettings, source: str) -> list[Output]:
    """Return the records of a finding, keyed by its entity, or else by its model."""
    raise TypeError(type(finding))


@records_of.register
def _(drift: Drift, topics: TopicSettings, source: str) -> list[Output]:
    data = {
        "kind": "shift",
        "model": {"name": drift.model, "version": drift.version},
        "entity": drift.entity,
        "since": iso(drift.since),
        "noticed": iso(drift.noticed),
        "detectors": drift.detectors,
        "mean_p_value": drift.p_value,
        "share_over_budget": drift.over,
        "features": [shift._asdict() for shift in drift.features],
        "asks_for_training": drift.asks,
    }
    id = f"drift/{drift.model}/{drift.version}/{drift.entity or ''}/{drift.noticed}"
    event = envelope(DRIFT_TYPE, id, source, iso(drift.noticed), data)
    records = [event_record(topics.drift, drift.entity or drift.model, event)]
    return [*records, _training_request(drift, topics, source)] if drift.asks else records


@records_of.register
def _(fault: SensorFault, topics: TopicSettings, source: str) -> list[Output]:
    state = "open" if fault.until is None else "closed"
    topic, partition = fault.topics.place(fault.partition)
    data = {
        "kind": "sensor",
        "model": {"name": fault.model, "version": fault.version},
        "entity": fault.entity,
        "topic": topic,
        "partition": partition,
        "feature": fault.feature,
        "fault": fault.fault,
        "state": state,
        "since": iso(fault.since),
        "latest": iso(fault.latest),
        "until": None if fault.until is None else iso(fault.until),
        "before": fault.before,
        "now": fault.now,
    }
    event = envelope(DRIFT_TYPE, f"{fault.id}#{fault.latest}:{state}", source, iso(fault.latest), data)
    return [event_record(topics.drift, fault.entity or fault.model, event)]


@records_of.register
def _(rollback: TakenBack, topics: TopicSettings, source: str) -> list[Output]:
    data = {
        "kind": "taken_back",
        "model": {"name": rollback.model, "version": rollback.version},
        "back_to": rollback.back_to,
        "when": iso(rollback.when),
        **rollback.figures,
    }
    event = envelope(DRIFT_TYPE, f"taken_back/{rollback.model}/{rollback.version}", source, iso(rollback.when), data)
    return [event_record(topics.drift, rollback.model, event)]


@records_of.register
def _(event: ShadowEvent, topics: TopicSettings, source: str) -> list[Output]:
    data = {
        "entity": event.entity,
        "time": iso(event.time),
        "score": event.score,
        "p_value": event.p_value,
        "threshold": event.threshold,
        "model": {"name": event.model, "version": event.version},
        "champion": event.champion,
        "named_by_champion": event.named,
    }
    key = event.entity or event.model
    return [event_record(topics.shadow, key, envelope(SHADOW_TYPE, event.id, source, iso(event.time), data))]


def _training_request(drift: Drift, topics: TopicSettings, source: str) -> Output:
    reason = f"drift: {', '.join(drift.detectors)}" + (f" of {drift.entity}" if drift.entity else "")
    value = orjson.dumps({"model": drift.model, "reason": reason, "since": iso(drift.since), "who": source})
    content_type = [("content-type", b"application/json")]
    return Output(topics.training_requests, value, drift.model.encode(), content_type)
