"""Makes outputs of what the judge has found and of what did not parse."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, assert_never

import numpy as np

from worker.blocks import BytesColumn, Headers, RecordBlock, Reject, TopicSet, VectorBlock
from worker.blocks.json_template import Integer, Template, Text
from worker.decoding.sparkplug.births import Birth
from worker.detection.incident import Incident
from worker.detection.judge import Anomalies, Scorer
from worker.kafka import Output, Outputs
from worker.kafka.outputs import encode_headers, headers_with, same_for_all
from worker.native.arrays import Float32s, Int64s
from worker.observability.tracing import context
from worker.publishing import vector_values
from worker.publishing.vector_values import VectorRows
from worker.settings import PerVectorOutput, Settings

if TYPE_CHECKING:
    from worker.publishing.avro import AvroOut
from worker.publishing.anomaly_template import AnomalyTemplate
from worker.publishing.cloudevents import STRUCTURED, STRUCTURED_HEADERS
from worker.publishing.dead_letters import dead_letters
from worker.publishing.findings import Finding, records_of
from worker.publishing.incident_event import incident_record


class EventEncoder:
    """Makes outputs of what the judge has found and of what did not parse."""

    def __init__(self, settings: Settings):
        self._topics = settings.topics
        self._source = settings.source
        self._events, self._vectors = settings.event_format, settings.vector_format
        self._avro = _avro_out(settings)
        self._template: tuple[tuple[Scorer, int, int], AnomalyTemplate] | None = None

    def register(self) -> None:
        """Register the Avro schemas of what is written. Raises SchemaRegistryError."""
        if self._avro is not None:
            self._avro.register()

    def anomalies(self, anomalies: Anomalies, block: VectorBlock, scorer: Scorer, span: Headers = ()) -> Outputs:
        """Return one CloudEvent for each anomaly, keyed by entity. Its id is the vector's place in Kafka.

        Its trace context is its record's, or else that of the batch's span.
        """
        n = len(anomalies)
        lags = 0 if anomalies.lags is None else anomalies.lags.shape[1]
        made_for = (scorer, anomalies.top.shape[1], lags)
        if self._template is None or self._template[0] != made_for:
            self._template = (made_for, AnomalyTemplate(self._source, *made_for))
        keys, values = self._template[1].render(anomalies, block)
        if self._events == "avro":
            assert self._avro is not None
            return Outputs(
                self._topics.anomalies, keys, *self._avro.anomalies(values, _contexts(anomalies, block, span))
            )
        headers = same_for_all(STRUCTURED_HEADERS, n)
        if (span or block.records.headers) and any(contexts := _contexts(anomalies, block, span)):
            headers = BytesColumn.of([encode_headers([*STRUCTURED, *trace]) for trace in contexts])
        return Outputs(self._topics.anomalies, keys, values, headers)

    def births(self, births: Sequence[Birth]) -> Outputs:
        """Return what birth certificates of Sparkplug have told, keyed by machine."""
        sensors, content_type = TopicSet.of(self._topics.sensors), [("content-type", b"application/json")]
        records = [birth.record(sensors) for birth in births]
        outputs = [Output(self._topics.births, value, key, content_type) for key, value in records]
        return Outputs.of(self._topics.births, outputs)

    def incidents(self, incidents: Sequence[Incident]) -> Outputs:
        """Return each incident as it now stands, keyed by its entity, without one by its partition."""
        topic = self._topics.incidents
        return Outputs.of(topic, [incident_record(incident, topic, self._source) for incident in incidents])

    def findings(self, findings: Sequence[Finding]) -> list[Outputs]:
        """Return each finding as an event, and what asks for a training as a request."""
        by_topic: dict[str, list[Output]] = {}
        for finding in findings:
            for record in records_of(finding, self._topics, self._source):
                by_topic.setdefault(record.topic, []).append(record)
        return [Outputs.of(topic, records) for topic, records in by_topic.items()]

    def dead_letters(self, rejects: Sequence[Reject], block: VectorBlock) -> Outputs:
        """Return the records that do not parse, as dead letters."""
        return dead_letters(self._topics.dead_letters, rejects, block.records)

    def vectors(
        self, output: PerVectorOutput, scores: Float32s, values: Float32s, block: VectorBlock, scorer: Scorer
    ) -> Outputs:
        """Return one record for each input record, under its key: `values` [n, k] of its rows, in the vectors' format.

        A row without a score has NaN. Vectors of aligned readings have a record each.
        """
        records, n = block.records, len(block)
        scored_values = np.where(np.isnan(scores)[:, None], np.float32(np.nan), values).astype("<f4")
        # Vectors of aligned readings have a record each: their rows do not begin at 0, and have gaps.
        first = np.flatnonzero(block.row == 0) if block.since is None else np.arange(n)
        ends = np.append(first, n)[1:]
        record = block.record[first]
        topic = getattr(self._topics, output)
        columns = _columns(output, scorer, scored_values.shape[1])
        head = None if self._avro is None else self._avro.head(topic)
        rows = VectorRows(values=scored_values, first=first, ends=ends, columns=columns, avro_head=head)
        encoded, content_type = vector_values.write(rows, self._vectors)
        source = _sources(records, record, None if block.since is None else block.row[first])
        model = f"{scorer.name}/{scorer.scored_by}".encode()
        headers = headers_with("offnormal-source", source, [("offnormal-model", model), ("content-type", content_type)])
        return Outputs(topic, records.keys.take(record), encoded, headers)


def _sources(records: RecordBlock, record: Int64s, row: Int64s | None) -> BytesColumn:
    """Return where each output comes from: topic/partition/offset of the record, and the row if that is told."""
    numbers = records.partition[record]
    integers = [records.topics.partitions(numbers), records.offset[record], *([] if row is None else [row])]
    place = (Integer(0), "/", Integer(1), *(() if row is None else ("/", Integer(2))))
    if records.topics.is_one:
        return Template(f"{records.topics}/", *place).render(len(record), integers=integers)
    return Template(Text(0), "/", *place).render(len(record), [records.topics.topics(numbers)], integers=integers)


def _avro_out(settings: Settings) -> "AvroOut | None":
    """Return the Avro encoder; None if nothing is written as Avro, so that fastavro need not be installed."""
    if not settings.avro_topics:
        return None
    from worker.publishing.avro import AvroOut

    return AvroOut(settings)


def _contexts(anomalies: Anomalies, block: VectorBlock, span: Headers) -> list[Headers]:
    """Return the trace context of each anomaly."""
    headers = block.records.headers
    return [context(headers.get(record, ())) or span for record in block.record[anomalies.index].tolist()]


def _columns(output: PerVectorOutput, scorer: Scorer, k: int) -> Sequence[str]:
    """Return the names of the k values of a vector."""
    match output:
        case "scores":
            return "score", "p_value"
        case "latents":
            return [f"z{j}" for j in range(k)]
        case "reconstructions":
            return scorer.features
        case _:
            assert_never(output)
