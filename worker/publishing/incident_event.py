"""Incidents as events, and read back."""

import math
from typing import TYPE_CHECKING

import orjson

from worker.blocks.timestamps import iso, milliseconds
from worker.blocks.vector_id import VectorId
from worker.detection.incident import Incident
from worker.kafka import Output
from worker.publishing.cloudevents import INCIDENT_TYPE, envelope, event_record

if TYPE_CHECKING:
    pass


def incident_record(incident: Incident, topic: str, source: str) -> Output:
    """Return the record of an incident as it now stands, keyed by its entity, without one by its partition."""
    state, place = "closed" if incident.closed else "open", f"{incident.topic}/{incident.partition}"
    last = f"{place}/{incident.last[0]}/{incident.last[1]}"
    data = {
        "incident": incident.id,
        "entity": incident.entity,
        "identity": f"{incident.identity:016x}",
        "state": state,
        "severity": incident.severity,
        "started": iso(incident.started),
        "ended": iso(incident.latest) if incident.closed else None,
        "latest": iso(incident.latest),
        "vectors": incident.vectors,
        "peak_p_value": incident.peak,
        "features": [{"name": name, "contribution": share} for name, share in incident.leading()],
        "evidence": sum(incident.evidence.values()),
        "models": [{"name": name, "version": version} for name, version in incident.models],
        "notify": incident.notify,
        "notified": iso(incident.notified),
        "opened_by": f"{place}/{incident.opened[0]}/{incident.opened[1]}",
        "last_vector": last,
    }
    event = envelope(INCIDENT_TYPE, f"{incident.id}#{last}:{state}", source, iso(incident.latest), data)
    return event_record(topic, place if incident.entity is None else incident.entity, event)


def read_incident(value: bytes | None, source: str) -> Incident | None:
    """Parse an incident that this group has published; return None for any other record."""
    try:
        event = orjson.loads(value or b"")
        if event["type"] != INCIDENT_TYPE or event["source"] != source:
            return None
        data = event["data"]
        first, opened, last = (_vector(data[name]) for name in ("incident", "opened_by", "last_vector"))
        evidence = {str(f["name"]): float(f["contribution"]) * float(data["evidence"]) for f in data["features"]}
        incident = Incident(
            topic=first.topic,
            partition=first.partition,
            entity=None if data["entity"] is None else str(data["entity"]),
            identity=int(data["identity"], 16),
            first=first[2:],
            opened=opened[2:],
            last=last[2:],
            started=_time(data["started"]),
            latest=_time(data["latest"]),
            vectors=int(data["vectors"]),
            peak=float(data["peak_p_value"]),
            severity="alarm" if data["severity"] == "alarm" else "warning",
            evidence=evidence,
            models=[(str(m["name"]), str(m["version"])) for m in data["models"]],
            notify=False,
            notified=_time(data["notified"]),
            closed=data["state"] == "closed",
        )
        is_valid = 0 < incident.identity < 2**64 and 0 < incident.vectors < 2**63
        return incident if is_valid and 0 < incident.peak <= 1 and all(map(math.isfinite, evidence.values())) else None
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _vector(id: str) -> VectorId:
    vector = VectorId.parse(id)
    if vector is None:
        raise ValueError("no vector's id")
    return vector


def _time(text: str) -> int:
    time = milliseconds(text)
    if time is None:
        raise ValueError("no time")
    return time
