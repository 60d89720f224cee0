"""What is published: anomaly events and incidents as CloudEvents 1.0, scores, latents, reconstructions, dead letters.
The JSON Schemas of the events lie beside this file.
"""

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final, Literal

import numpy as np
import orjson

from worker.detection import Anomaly
from worker.detection.incident import Incident
from worker.detection.judge import Scorer
from worker.kafka import Output
from worker.settings import Settings
from worker.vectors import Reject, VectorBlock
from worker.vectors.block import Float32s

PerVector = Literal["scores", "latents", "reconstructions"]  # what OFFNORMAL_OUTPUTS may name

ANOMALY_TYPE: Final = "offnormal.anomaly.v1"
INCIDENT_TYPE: Final = "offnormal.incident.v1"
_CLOUDEVENT: Final = [("content-type", b"application/cloudevents+json; charset=UTF-8")]


def schema(name: Literal["anomaly", "incident"]) -> dict[str, Any]:
    """The JSON Schema of such an event."""
    found: dict[str, Any] = json.loads(files("worker").joinpath(f"{name}.schema.json").read_text())
    return found


def source_of(settings: Settings) -> str:
    """Who publishes: the consumer group."""
    return f"urn:offnormal:{settings.kafka.group}"


class EventEncoder:
    """Makes outputs of what the judge has found and of what did not parse."""

    def __init__(self, settings: Settings):
        self._topics = settings.topics
        self._source = source_of(settings)
        self._f32 = settings.input.format == "f32"

    def anomalies(self, found: Sequence[Anomaly], block: VectorBlock, scorer: Scorer) -> list[Output]:
        """One CloudEvent for each; keyed by entity, its id the place of the vector in Kafka."""
        return [self._anomaly(anomaly, block, scorer) for anomaly in found]

    def _anomaly(self, anomaly: Anomaly, block: VectorBlock, scorer: Scorer) -> Output:
        i, records = anomaly.index, block.records
        record = int(block.record[i])
        entity, time = block.entity(i), iso(int(block.time[i]))
        place = f"{records.topic}/{records.partition[record]}/{records.offset[record]}/{block.row[i]}"
        data: dict[str, Any] = {
            "entity": entity,
            "time": time,
            "score": anomaly.score,
            "p_value": anomaly.p_value,
            "severity": anomaly.severity,
            "threshold": scorer.threshold,
            "model": {"name": scorer.name, "version": scorer.version},
            "features": anomaly.features,
            "imputed": anomaly.imputed,
            "incident": anomaly.incident,
        }
        if anomaly.lags:
            data["lags"] = anomaly.lags
        key = None if entity is None else entity.encode()
        return Output(
            self._topics.anomalies, self._cloudevent(ANOMALY_TYPE, place, entity, time, data), key, _CLOUDEVENT
        )

    def incidents(self, found: Sequence[Incident]) -> list[Output]:
        """Each as it now stands; keyed by entity, without one by the partition."""
        return [self._incident(incident) for incident in found]

    def _incident(self, incident: Incident) -> Output:
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
        told = self._cloudevent(INCIDENT_TYPE, f"{incident.id}#{last}:{state}", incident.entity, data["latest"], data)
        key = place if incident.entity is None else incident.entity
        return Output(self._topics.incidents, told, key.encode(), _CLOUDEVENT)

    def _cloudevent(self, kind: str, id: str, entity: str | None, time: Any, data: dict[str, Any]) -> bytes:
        event = {
            "specversion": "1.0",
            "id": id,
            "source": self._source,
            "type": kind,
            "time": time,
            "datacontenttype": "application/json",
            "data": data,
        }
        if entity:  # CloudEvents allows no empty subject
            event["subject"] = entity
        return orjson.dumps(event)

    def vectors(
        self, output: PerVector, scores: Float32s, values: Float32s, block: VectorBlock, scorer: Scorer
    ) -> list[Output]:
        """One record for each input record, under its key: `values` [n, k] of its rows, in the input's format.

        NaN for a row without a score.
        """
        if not len(block):
            return []
        records = block.records
        topic: str = getattr(self._topics, output)
        rows = np.where(np.isnan(scores)[:, None], np.float32(np.nan), values).astype("<f4")
        first = np.flatnonzero(block.row == 0)
        ends = np.append(first[1:], len(block))
        model = f"{scorer.name}/{scorer.version}".encode()
        kind = b"f32" if self._f32 else b"application/json"
        outputs = []
        for begin, end in zip(first.tolist(), ends.tolist(), strict=True):
            record = int(block.record[begin])
            part = rows[begin:end]
            value = part.tobytes() if self._f32 else orjson.dumps({"rows": part}, option=orjson.OPT_SERIALIZE_NUMPY)
            source = f"{records.topic}/{records.partition[record]}/{records.offset[record]}".encode()
            headers = [("offnormal-source", source), ("offnormal-model", model), ("content-type", kind)]
            outputs.append(Output(topic, value, records.keys[record], headers))
        return outputs

    def dead_letters(self, rejects: Sequence[Reject], block: VectorBlock) -> list[Output]:
        """The original bytes and key, untouched; where from and why in the headers."""
        records = block.records
        return [
            Output(
                self._topics.dead_letters,
                records.values[reject.record] or b"",
                records.keys[reject.record],
                [
                    ("offnormal-topic", records.topic.encode()),
                    ("offnormal-partition", b"%d" % records.partition[reject.record]),
                    ("offnormal-offset", b"%d" % records.offset[reject.record]),
                    ("offnormal-timestamp", b"%d" % records.timestamp[reject.record]),
                    ("offnormal-reason", reject.reason.encode()),
                    ("offnormal-error", reject.error[:500].encode("utf-8", "replace")),
                ],
            )
            for reject in rejects
        ]


def read_incident(value: bytes | None, source: str) -> Incident | None:
    """An incident as this group has published it; None for anybody else's, and for what is none."""
    try:
        event = orjson.loads(value or b"")
        if event["type"] != INCIDENT_TYPE or event["source"] != source:
            return None
        data = event["data"]
        topic, partition, *first = data["incident"].rsplit("/", 3)
        evidence = {str(f["name"]): float(f["contribution"]) * float(data["evidence"]) for f in data["features"]}
        incident = Incident(
            topic=topic,
            partition=int(partition),
            entity=None if data["entity"] is None else str(data["entity"]),
            identity=int(data["identity"], 16),
            first=_place(first),
            opened=_place(data["opened_by"].rsplit("/", 2)[1:]),
            last=_place(data["last_vector"].rsplit("/", 2)[1:]),
            started=_milliseconds(data["started"]),
            latest=_milliseconds(data["latest"]),
            vectors=int(data["vectors"]),
            peak=float(data["peak_p_value"]),
            severity="alarm" if data["severity"] == "alarm" else "warning",
            evidence=evidence,
            models=[(str(m["name"]), str(m["version"])) for m in data["models"]],
            notify=False,
            notified=_milliseconds(data["notified"]),
            closed=data["state"] == "closed",
        )
        sound = 0 < incident.identity < 2**64 and 0 <= incident.partition < 2**31 and 0 < incident.vectors < 2**63
        return incident if sound and 0 < incident.peak <= 1 and all(map(math.isfinite, evidence.values())) else None
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _place(told: Sequence[str]) -> tuple[int, int]:
    offset, row = map(int, told)
    if not 0 <= offset < 2**63 or not 0 <= row < 2**63:
        raise ValueError("no place")
    return offset, row


def _milliseconds(told: str) -> int:
    return round(datetime.fromisoformat(told).timestamp() * 1000)


_LAST_MS: Final = 253_402_300_799_999  # the end of the year 9999: RFC 3339 ends there


def iso(time_ms: int) -> str:
    """Milliseconds since the epoch as RFC 3339, held within the years that it can say."""
    held = min(max(time_ms, 0), _LAST_MS)
    moment = datetime.fromtimestamp(held // 1000, UTC).replace(microsecond=held % 1000 * 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
