"""What is published: anomaly events and incidents as CloudEvents 1.0, scores, latents, reconstructions, dead letters.
The JSON Schemas of the events lie beside this file.
"""

import json
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import orjson

from worker import rows
from worker.compiled import compiled, read_only
from worker.detection.incident import Incident
from worker.detection.judge import Anomalies, Scorer
from worker.drift.found import Drift, SensorFault
from worker.kafka import Output, Outputs
from worker.kafka.outputs import encode_headers, headers_with, same_for_all
from worker.settings import Settings
from worker.template import Integer, Number, Template, Text
from worker.traces import context
from worker.trials.found import ShadowEvent, TakenBack
from worker.vectors import BytesColumn, Headers, Reject, VectorBlock
from worker.vectors.block import Float32s, Int64s

if TYPE_CHECKING:
    from worker.avro_out import AvroOut

PerVector = Literal["scores", "latents", "reconstructions"]  # what OFFNORMAL_OUTPUTS may name

ANOMALY_TYPE: Final = "offnormal.anomaly.v1"
INCIDENT_TYPE: Final = "offnormal.incident.v1"
DRIFT_TYPE: Final = "offnormal.drift.v1"
SHADOW_TYPE: Final = "offnormal.shadow.v1"
_CLOUDEVENT: Final = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
_CLOUDEVENT_HEADERS: Final = encode_headers(_CLOUDEVENT)


SchemaName = Literal["anomaly", "drift", "incident", "label", "shadow", "training-request"]


def schema(name: SchemaName) -> dict[str, Any]:
    """The JSON Schema of such an event."""
    found: dict[str, Any] = json.loads(files("worker").joinpath(f"{name}.schema.json").read_text())
    return found


def avro_schema(name: Literal["anomaly", "rows"]) -> dict[str, Any]:
    """The Avro schema of an anomaly event, or of what is said of each vector."""
    found: dict[str, Any] = json.loads(files("worker").joinpath(f"{name}.avsc").read_text())
    return found


class EventEncoder:
    """Makes outputs of what the judge has found and of what did not parse."""

    def __init__(self, settings: Settings):
        self._topics = settings.topics
        self._source = settings.source
        self._events, self._vectors = settings.event_format, settings.vector_format
        self._avro = _avro_out(settings)
        self._template: tuple[tuple[Scorer, str, int, int], AnomalyTemplate] | None = None

    def register(self) -> None:
        """Gives the schema registry what Avro records are written by. Raises SchemaRegistryError."""
        if self._avro is not None:
            self._avro.register()

    def anomalies(self, found: Anomalies, block: VectorBlock, scorer: Scorer, span: Headers = ()) -> Outputs:
        """One CloudEvent for each; keyed by entity, its id the place of the vector in Kafka. Its trace context is its
        record's, or else that of the batch's span.
        """
        n, topic = len(found), block.records.topic
        lags = 0 if found.lags is None else found.lags.shape[1]
        made_for = (scorer, topic, found.top.shape[1], lags)
        if self._template is None or self._template[0] != made_for:
            self._template = (made_for, AnomalyTemplate(self._source, *made_for))
        keys, values = self._template[1].render(found, block)
        if self._events == "avro":
            assert self._avro is not None
            return Outputs(self._topics.anomalies, keys, *self._avro.anomalies(values, _contexts(found, block, span)))
        headers = same_for_all(_CLOUDEVENT_HEADERS, n)
        if (span or block.records.headers) and any(contexts := _contexts(found, block, span)):
            headers = BytesColumn.of([encode_headers([*_CLOUDEVENT, *each]) for each in contexts])
        return Outputs(self._topics.anomalies, keys, values, headers)

    def incidents(self, found: Sequence[Incident]) -> Outputs:
        """Each as it now stands; keyed by entity, without one by the partition."""
        return Outputs.of(self._topics.incidents, [self._incident(incident) for incident in found])

    def found(self, found: Sequence[Drift | SensorFault | ShadowEvent | TakenBack]) -> list[Outputs]:
        """Each as an event, keyed by entity, without one by the model; and what asks for a training as a request."""
        topics = self._topics
        records: dict[str, list[Output]] = {topics.drift: [], topics.shadow: [], topics.training_requests: []}
        for each in found:
            if isinstance(each, Drift):
                records[topics.drift].append(self._drift(each))
                if each.asks:
                    records[topics.training_requests].append(self._request(each))
            elif isinstance(each, SensorFault):
                records[topics.drift].append(self._sensor(each))
            elif isinstance(each, TakenBack):
                records[topics.drift].append(self._taken_back(each))
            else:
                records[topics.shadow].append(self._shadow(each))
        return [Outputs.of(topic, told) for topic, told in records.items() if told]

    def _drift(self, drift: Drift) -> Output:
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
        told = self._cloudevent(DRIFT_TYPE, id, drift.entity, data["noticed"], data)
        return Output(self._topics.drift, told, (drift.entity or drift.model).encode(), _CLOUDEVENT)

    def _sensor(self, fault: SensorFault) -> Output:
        state = "open" if fault.until is None else "closed"
        data = {
            "kind": "sensor",
            "model": {"name": fault.model, "version": fault.version},
            "entity": fault.entity,
            "topic": self._topics.sensors,
            "partition": fault.partition,
            "feature": fault.feature,
            "fault": fault.fault,
            "state": state,
            "since": iso(fault.since),
            "latest": iso(fault.latest),
            "until": None if fault.until is None else iso(fault.until),
            "before": fault.before,
            "now": fault.now,
        }
        place = f"{fault.model}/{fault.partition}/{fault.entity or ''}/{fault.feature}"
        id = f"sensor/{place}/{fault.since}#{fault.latest}:{state}"
        told = self._cloudevent(DRIFT_TYPE, id, fault.entity, data["latest"], data)
        return Output(self._topics.drift, told, (fault.entity or fault.model).encode(), _CLOUDEVENT)

    def _taken_back(self, taken: TakenBack) -> Output:
        data = {
            "kind": "taken_back",
            "model": {"name": taken.model, "version": taken.version},
            "back_to": taken.back_to,
            "when": iso(taken.when),
            **taken.figures,
        }
        told = self._cloudevent(DRIFT_TYPE, f"taken_back/{taken.model}/{taken.version}", None, data["when"], data)
        return Output(self._topics.drift, told, taken.model.encode(), _CLOUDEVENT)

    def _shadow(self, event: ShadowEvent) -> Output:
        partition, offset, row = event.place
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
        id = f"{event.topic}/{partition}/{offset}/{row}"
        told = self._cloudevent(SHADOW_TYPE, id, event.entity, data["time"], data)
        return Output(self._topics.shadow, told, (event.entity or event.model).encode(), _CLOUDEVENT)

    def _request(self, drift: Drift) -> Output:
        reason = f"drift: {', '.join(drift.detectors)}" + (f" of {drift.entity}" if drift.entity else "")
        told = orjson.dumps({"model": drift.model, "reason": reason, "since": iso(drift.since), "who": self._source})
        kind = [("content-type", b"application/json")]
        return Output(self._topics.training_requests, told, drift.model.encode(), kind)

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
    ) -> Outputs:
        """One record for each input record, under its key: `values` [n, k] of its rows, in the vectors' format.

        NaN for a row without a score.
        """
        records, n = block.records, len(block)
        known = np.where(np.isnan(scores)[:, None], np.float32(np.nan), values).astype("<f4")
        first = np.flatnonzero(block.row == 0)
        ends = np.append(first, n)[1:]
        record = block.record[first]
        topic = getattr(self._topics, output)
        told, kind = self._rows(topic, known, first, ends, _columns(output, scorer, known.shape[1]))
        source = Template(f"{records.topic}/", Integer(0), "/", Integer(1)).render(
            len(record), integers=[records.partition[record], records.offset[record]]
        )
        model = f"{scorer.name}/{scorer.version}".encode()
        headers = headers_with("offnormal-source", source, [("offnormal-model", model), ("content-type", kind)])
        return Outputs(topic, records.keys.take(record), told, headers)

    def _rows(
        self, topic: str, values: Float32s, first: Int64s, ends: Int64s, columns: Sequence[str]
    ) -> tuple[BytesColumn, bytes]:
        """The values of the records, and their content type."""
        if self._vectors == "f32":
            return rows.f32(values, first, ends), b"f32"
        if self._vectors == "arrow":
            return rows.arrow(values, first, ends, columns), b"application/vnd.apache.arrow.stream"
        if self._vectors == "avro":
            assert self._avro is not None
            return self._avro.rows(topic, values, first, ends), b"application/avro"
        return rows.json(values, first, ends), b"application/json"

    def dead_letters(self, rejects: Sequence[Reject], block: VectorBlock) -> Outputs:
        """The original bytes, key and headers, untouched; where from and why in headers of our own."""
        records = block.records
        at = np.array([reject.record for reject in rejects], np.int64)
        headers = [
            encode_headers(
                [
                    ("offnormal-topic", records.topic.encode()),
                    ("offnormal-partition", b"%d" % records.partition[reject.record]),
                    ("offnormal-offset", b"%d" % records.offset[reject.record]),
                    ("offnormal-timestamp", b"%d" % records.timestamp[reject.record]),
                    ("offnormal-reason", reject.reason.encode()),
                    ("offnormal-error", reject.error[:500].encode("utf-8", "replace")),
                    *(each for each in records.headers.get(reject.record, ()) if not each[0].startswith("offnormal-")),
                ]
            )
            for reject in rejects
        ]
        return Outputs(
            self._topics.dead_letters, records.keys.take(at), records.values.take(at), BytesColumn.of(headers)
        )


class AnomalyTemplate:
    """The events of one model's anomalies, with t features and w lags each."""

    def __init__(self, source: str, scorer: Scorer, topic: str, t: int, w: int):
        names = [_quoted(name) for name in scorer.features]
        self._names = BytesColumn.of(names)
        self._features = scorer.features
        features: list[Any] = []
        for k in range(t):
            features += [
                ',{"name":' if k else '{"name":',
                *(Text(_FEATURES + 2 * k), ',"actual":', Number(2 + 3 * k), ',"expected":', Number(3 + 3 * k)),
                *(',"contribution":', Number(4 + 3 * k), ',"missing":', Text(_FEATURES + 2 * k + 1), "}"),
            ]
        lags: list[Any] = []
        for k in range(w):
            lags += [',"lags":[' if k == 0 else ",", Number(2 + 3 * t + k)]
        model = orjson.dumps({"name": scorer.name, "version": scorer.version})
        self._template = Template(
            f'{{"specversion":"1.0","id":"{topic}/',
            *(Integer(0), "/", Integer(1), "/", Integer(2), '","source":', _quoted(source)),
            *(f',"type":"{ANOMALY_TYPE}","time":"', Text(_TIME), '","datacontenttype":"application/json"'),
            *(Text(_SUBJECT), ',"data":{"entity":', Text(_ENTITY), ',"time":"', Text(_TIME)),
            *('","score":', Number(0), ',"p_value":', Number(1), ',"severity":"', Text(_SEVERITY)),
            *(f'","threshold":{scorer.threshold!r},"model":', model, ',"features":[', *features),
            *('],"imputed":', Text(_IMPUTED), ',"incident":', Text(_INCIDENT), *lags, "]}}" if w else "}}"),
        )

    def render(self, found: Anomalies, block: VectorBlock) -> tuple[BytesColumn, BytesColumn]:
        """Keys and values."""
        n, records = len(found), block.records
        record = block.record[found.index]
        keys, entities, subjects = self._entities(block, record)
        texts = [
            _iso(block.time[found.index]),
            entities,
            subjects,
            BytesColumn.choice(b"warning", b"alarm", found.alarm),
        ]
        texts += [self._imputed(found.missing), _memoised(found.incident, _quoted_or_null)]
        numbers: list[Any] = [found.score, found.p_value]
        for k in range(found.top.shape[1]):
            actual = found.actual[:, k]
            numbers += [actual, found.expected[:, k], found.contribution[:, k]]
            texts += [self._names.take(found.top[:, k]), BytesColumn.choice(b"false", b"true", np.isnan(actual))]
        if found.lags is not None:
            numbers += list(found.lags.T.round(4))
        place = [records.partition[record], records.offset[record], block.row[found.index]]
        return keys, self._template.render(n, texts, numbers, place)

    @staticmethod
    def _entities(block: VectorBlock, record: Int64s) -> tuple[BytesColumn, BytesColumn, BytesColumn]:
        """The entities' names as keys, as JSON, and as the member `subject`, which CloudEvents allows no empty."""
        keys = block.records.keys.take(record)
        if not block.entities and (keys.length < 0).all():
            return keys, same_for_all(b"null", len(keys)), same_for_all(b"", len(keys))
        keys = keys.compact()
        if not block.entities and _is_plain(read_only(np.frombuffer(keys.buffer, np.uint8)), keys.length):
            subjects = _SUBJECTS.render(len(keys), [keys])
            return keys, BytesColumn(subjects.buffer, subjects.start + 11, subjects.length - 11), subjects
        told = [block.entity_of_record(r) for r in record.tolist()]
        return (
            _memoised(told, lambda name: None if name is None else name.encode()),
            _memoised(told, _quoted_or_null),
            _memoised(told, lambda name: b',"subject":' + _quoted(name) if name else b""),
        )

    def _imputed(self, missing: npt.NDArray[np.bool_]) -> BytesColumn:
        if not missing.any():
            return same_for_all(b"[]", len(missing))
        return BytesColumn.of(
            [orjson.dumps([self._features[j] for j in np.flatnonzero(row).tolist()]) for row in missing]
        )


_SUBJECTS: Final = Template(',"subject":"', Text(0), '"')


@compiled
def _is_plain(text, lengths):  # type: ignore[no-untyped-def]
    """Whether these are texts, none of them empty, that JSON has as they are."""
    plain = True
    for n in lengths:
        plain &= n > 0
    for byte in text:
        plain &= 32 <= byte < 127 and byte != 34 and byte != 92
    return plain


_TIME, _ENTITY, _SUBJECT, _SEVERITY, _IMPUTED, _INCIDENT, _FEATURES = range(7)  # text columns; two for each feature


def _avro_out(settings: Settings) -> "AvroOut | None":
    """None where nothing is written as Avro: then fastavro need not be there."""
    if not settings.avro_topics:
        return None
    from worker.avro_out import AvroOut

    return AvroOut(settings)


def _contexts(found: Anomalies, block: VectorBlock, span: Headers) -> list[Headers]:
    """The trace context of each."""
    headers = block.records.headers
    return [context(headers.get(record, ())) or span for record in block.record[found.index].tolist()]


def _columns(output: PerVector, scorer: Scorer, k: int) -> Sequence[str]:
    """What each of the k values of a vector is called."""
    if output == "scores":
        return "score", "p_value"
    return scorer.features if output == "reconstructions" else [f"z{j}" for j in range(k)]


def _quoted(text: str) -> bytes:
    return orjson.dumps(text)


def _quoted_or_null(text: str | None) -> bytes:
    return orjson.dumps(text)


def _memoised(items: Sequence[str | None], of: Callable[[str | None], bytes | None]) -> BytesColumn:
    """`of` each item, made once for each that differs."""
    made = {item: of(item) for item in set(items)}
    return BytesColumn.of([made[item] for item in items])


def _iso(times: Int64s) -> BytesColumn:
    """As `iso`, of each."""
    held = np.clip(times, 0, _LAST_MS).astype("datetime64[ms]")
    told = np.datetime_as_string(held, unit="ms", timezone="UTC").astype("S24")
    return BytesColumn(memoryview(told.tobytes()), np.arange(len(times)) * 24, np.full(len(times), 24))


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
