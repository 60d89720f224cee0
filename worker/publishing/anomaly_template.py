"""Anomaly events in JSON, many at a time, written from columns by a compiled loop."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from worker.blocks import BytesColumn, VectorBlock
from worker.blocks.json_template import Integer, Number, Template, Text
from worker.detection.judge import Anomalies, Scorer
from worker.kafka.outputs import same_for_all
from worker.native.arrays import Bools, Int64s
from worker.native.jit import compiled, read_only

if TYPE_CHECKING:
    pass
from worker.blocks.timestamps import iso_column
from worker.publishing.cloudevents import ANOMALY_TYPE


class AnomalyTemplate:
    """The events of one model's anomalies, with t features and w lags each."""

    def __init__(self, source: str, scorer: Scorer, t: int, w: int):
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
        model = orjson.dumps({"name": scorer.name, "version": scorer.scored_by})
        self._template = Template(
            '{"specversion":"1.0","id":"',
            *(Text(_TOPIC), "/", Integer(0), "/", Integer(1), "/", Integer(2), '","source":', _quoted(source)),
            *(f',"type":"{ANOMALY_TYPE}","time":"', Text(_TIME), '","datacontenttype":"application/json"'),
            *(Text(_SUBJECT), ',"data":{"entity":', Text(_ENTITY), ',"time":"', Text(_TIME)),
            *('","score":', Number(0), ',"p_value":', Number(1), ',"severity":"', Text(_SEVERITY)),
            *(f'","threshold":{scorer.threshold!r},"model":', model, ',"features":[', *features),
            *('],"imputed":', Text(_IMPUTED), ',"incident":', Text(_INCIDENT), *lags, "]}}" if w else "}}"),
        )

    def render(self, anomalies: Anomalies, block: VectorBlock) -> tuple[BytesColumn, BytesColumn]:
        """Return the events' keys and values."""
        n, records = len(anomalies), block.records
        record = block.record[anomalies.index]
        keys, entities, subjects = self._entities(block, record)
        texts = [
            iso_column(block.time[anomalies.index]),
            entities,
            subjects,
            BytesColumn.choice(b"warning", b"alarm", anomalies.alarm),
        ]
        topics, partition = records.topics, records.partition[record]
        texts += [self._imputed(anomalies.missing), _memoised(anomalies.incident, _quoted_or_null)]
        texts.append(same_for_all(topics.text.encode(), n) if topics.is_one else topics.topics(partition))
        numbers: list[Any] = [anomalies.score, anomalies.p_value]
        for k in range(anomalies.top.shape[1]):
            actual = anomalies.actual[:, k]
            numbers += [actual, anomalies.expected[:, k], anomalies.contribution[:, k]]
            texts += [self._names.take(anomalies.top[:, k]), BytesColumn.choice(b"false", b"true", np.isnan(actual))]
        if anomalies.lags is not None:
            numbers += list(anomalies.lags.T.round(4))
        place = [topics.partitions(partition), records.offset[record], block.row[anomalies.index]]
        return keys, self._template.render(n, texts, numbers, place)

    @staticmethod
    def _entities(block: VectorBlock, record: Int64s) -> tuple[BytesColumn, BytesColumn, BytesColumn]:
        """Return the entities' names as keys, as JSON, and as the member `subject`, which must not be empty."""
        keys = block.records.keys.take(record)
        if not block.entities and (keys.length < 0).all():
            return keys, same_for_all(b"null", len(keys)), same_for_all(b"", len(keys))
        keys = keys.compact()
        if not block.entities and _is_plain(read_only(np.frombuffer(keys.buffer, np.uint8)), keys.length):
            subjects = _SUBJECTS.render(len(keys), [keys])
            return keys, BytesColumn(subjects.buffer, subjects.start + 11, subjects.length - 11), subjects
        entity_names = [block.entity_of_record(r) for r in record.tolist()]
        return (
            _memoised(entity_names, lambda name: None if name is None else name.encode()),
            _memoised(entity_names, _quoted_or_null),
            _memoised(entity_names, lambda name: b',"subject":' + _quoted(name) if name else b""),
        )

    def _imputed(self, missing: Bools) -> BytesColumn:
        if not missing.any():
            return same_for_all(b"[]", len(missing))
        return BytesColumn.of(
            [orjson.dumps([self._features[j] for j in np.flatnonzero(row).tolist()]) for row in missing]
        )


_SUBJECTS: Final = Template(',"subject":"', Text(0), '"')


@compiled
def _is_plain(text, lengths):  # type: ignore[no-untyped-def]
    """Return whether all texts are non-empty, and the same in JSON."""
    plain = True
    for n in lengths:
        plain &= n > 0
    for byte in text:
        plain &= 32 <= byte < 127 and byte != 34 and byte != 92
    return plain


# The text columns; from the last on there are two for each feature.
_TIME, _ENTITY, _SUBJECT, _SEVERITY, _IMPUTED, _INCIDENT, _TOPIC, _FEATURES = range(8)


def _quoted(text: str) -> bytes:
    return orjson.dumps(text)


def _quoted_or_null(text: str | None) -> bytes:
    return orjson.dumps(text)


def _memoised(items: Sequence[str | None], encode: Callable[[str | None], bytes | None]) -> BytesColumn:
    """Encode each item; equal items once."""
    encoded = {item: encode(item) for item in set(items)}
    return BytesColumn.of([encoded[item] for item in items])
