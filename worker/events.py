"""What is published: anomaly events as CloudEvents 1.0, scores, latents, reconstructions, dead letters. The JSON Schema
of an event lies beside this file.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final, Literal

import numpy as np
import orjson

from worker.detection import Anomaly
from worker.detection.judge import Scorer
from worker.kafka import Output
from worker.settings import Settings
from worker.vectors import Reject, VectorBlock
from worker.vectors.block import Float32s

PerVector = Literal["scores", "latents", "reconstructions"]  # what OFFNORMAL_OUTPUTS may name

ANOMALY_TYPE: Final = "offnormal.anomaly.v1"
_CLOUDEVENT: Final = [("content-type", b"application/cloudevents+json; charset=UTF-8")]


def anomaly_schema() -> dict[str, Any]:
    """The JSON Schema of an anomaly event."""
    schema: dict[str, Any] = json.loads(files("worker").joinpath("anomaly.schema.json").read_text())
    return schema


class EventEncoder:
    """Makes outputs of what the judge has found and of what did not parse."""

    def __init__(self, settings: Settings):
        self._topics = settings.topics
        self._source = f"urn:offnormal:{settings.kafka.group}"
        self._model = settings.model.name
        self._f32 = settings.input.format == "f32"

    def anomalies(self, found: Sequence[Anomaly], block: VectorBlock, scorer: Scorer) -> list[Output]:
        """One CloudEvent for each; keyed by entity, its id the place of the vector in Kafka."""
        return [self._anomaly(anomaly, block, scorer) for anomaly in found]

    def _anomaly(self, anomaly: Anomaly, block: VectorBlock, scorer: Scorer) -> Output:
        i, records = anomaly.index, block.records
        record = int(block.record[i])
        entity, time = block.entity(i), iso(int(block.time[i]))
        place = f"{records.topic}/{records.partition[record]}/{records.offset[record]}/{block.row[i]}"
        event = {
            "specversion": "1.0",
            "id": place,
            "source": self._source,
            "type": ANOMALY_TYPE,
            "time": time,
            "datacontenttype": "application/json",
            "data": {
                "entity": entity,
                "time": time,
                "score": anomaly.score,
                "p_value": anomaly.p_value,
                "severity": anomaly.severity,
                "threshold": scorer.threshold,
                "model": {"name": self._model, "version": scorer.version},
                "features": anomaly.features,
                "imputed": anomaly.imputed,
            },
        }
        if entity:  # CloudEvents allows no empty subject
            event["subject"] = entity
        key = None if entity is None else entity.encode()
        return Output(self._topics.anomalies, orjson.dumps(event), key, _CLOUDEVENT)

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
        model = f"{self._model}/{scorer.version}".encode()
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


_LAST_MS: Final = 253_402_300_799_999  # the end of the year 9999: RFC 3339 ends there


def iso(time_ms: int) -> str:
    """Milliseconds since the epoch as RFC 3339, held within the years that it can say."""
    held = min(max(time_ms, 0), _LAST_MS)
    moment = datetime.fromtimestamp(held // 1000, UTC).replace(microsecond=held % 1000 * 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
