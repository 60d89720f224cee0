"""Turns records of Sparkplug B into what the rest of the worker reads: JSON, keyed by the machine.

    spBv1.0/plant/DDATA/line-3/press-7, protobuf   ->   plant/line-3/press-7, {"metrics": [{"name": "temperature", ...

The MQTT topic is the record's key, or a header (OFFNORMAL_INPUT__MQTT_TOPIC_HEADER). A record of which an alias is not
known is refused, since it would otherwise be a vector with readings missing.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from worker.blocks import BytesColumn, Headers, RecordBlock
from worker.blocks.limits import BY_US, REFUSED
from worker.decoding.dead_letter_reasons import UNKNOWN_ALIAS, Refused
from worker.decoding.sparkplug.births import Birth, Births, Meaning, Source
from worker.decoding.sparkplug.payload import Metric, Payload, parse
from worker.settings import InputSettings

_PREFIX: Final = "spBv1.0/"
_WITH_METRICS: Final = ("NBIRTH", "DBIRTH", "NDATA", "DDATA")
_CONTROL: Final = ("Node Control/", "Device Control/")
_BIRTH_SEQUENCE: Final = "bdSeq"  # counts the births of a node


class Translator:
    """Translates blocks of records, each partition in the order of its offsets."""

    def __init__(self, inputs: InputSettings, births: Births):
        self._header, self._births = inputs.mqtt_topic_header, births
        self.told: list[Birth] = []  # by the records that were translated last

    def translate(self, records: RecordBlock) -> RecordBlock:
        """Return the records in JSON; what a message that is no reading says is null. `told` are new births."""
        keys, values = list(records.keys), list(records.values)
        headers: dict[int, Headers] = {}
        self.told = []
        for r, value in enumerate(values):
            own = records.headers.get(r, ())
            if value is None or BY_US in own:
                headers[r] = own
                continue
            headers[r] = [header for header in own if header[0].lower() != "content-type"]
            topic = self._topic(keys[r], own)
            kind, node, device = _parts(topic)
            source = Source(int(records.partition[r]), node, device)
            keys[r] = source.entity.encode() if topic is not None else keys[r]
            if kind not in _WITH_METRICS and kind is not None:
                values[r] = None
                continue
            try:
                values[r] = self._json(parse(value), source, int(records.offset[r]), kind)
            except Refused as error:
                headers[r] = [("content-type", REFUSED.encode()), BY_US, *_why(error), *headers[r]]
        told = {r: each for r, each in headers.items() if each}
        return replace(records, keys=BytesColumn.of(keys), values=BytesColumn.of(values), headers=told, origin=records)

    def _topic(self, key: bytes | None, headers: Headers) -> str | None:
        """Return the MQTT topic of a record; None if it is not told, so that the record's key is the machine."""
        named = dict(headers).get(self._header) if self._header is not None else key
        return None if named is None else named.decode("utf-8", "replace")

    def _json(self, payload: Payload, source: Source, offset: int, kind: str | None) -> bytes | None:
        """Return the message's readings as JSON; None if it has none."""
        told = {m.alias: Meaning(m.name, m.datatype) for m in payload.metrics if m.alias is not None and m.name}
        if kind in ("NBIRTH", "DBIRTH") or (kind is None and told):
            if kind is None:  # it may tell some of its metrics only
                told = {**(self._births.aliases(source, offset) or {}), **told}
            birth = Birth(source, offset, told)
            self._births.take(birth)
            self.told.append(birth)
        known = told or self._births.aliases(source, offset) or {}
        metrics = []
        for metric in payload.metrics:
            name, datatype = self._meaning(metric, known, source)
            if name == _BIRTH_SEQUENCE or name.startswith(_CONTROL):
                continue
            time = payload.time if metric.time is None else metric.time
            at: Mapping[str, Any] = {} if time is None else {"timestamp": time}
            metrics.append({"name": name, "value": metric.value(datatype), **at})
        return orjson.dumps({"metrics": metrics}) if metrics else None

    def _meaning(self, metric: Metric, known: Mapping[int, Meaning], source: Source) -> Meaning:
        if metric.name:
            return Meaning(metric.name, metric.datatype)
        meaning = known.get(metric.alias) if metric.alias is not None else None
        if meaning is None:
            where = (
                "its birth certificate lies in another partition: the record's key has to be the edge node, and the"
                " MQTT topic a header (OFFNORMAL_INPUT__MQTT_TOPIC_HEADER)"
                if self._births.elsewhere(source)
                else "no birth certificate has told it: request a rebirth, and put the record back (`worker replay`)"
            )
            raise Refused(UNKNOWN_ALIAS, f"{source.entity} names a metric by alias {metric.alias}; {where}")
        return Meaning(meaning.name, metric.datatype or meaning.datatype)


def _parts(topic: str | None) -> tuple[str | None, str, str]:
    """Return the kind of a message, its edge node with its group, and its device; None for an unknown kind."""
    parts = (topic or "").split("/")
    if (topic or "").startswith(f"{_PREFIX}STATE/"):  # of a host application, in JSON
        return "STATE", "", ""
    if not (topic or "").startswith(_PREFIX) or len(parts) < 4:
        return None, topic or "", ""
    _, group, kind, node, *device = parts
    return kind, f"{group}/{node}", "/".join(device)


def _why(error: Refused) -> Headers:
    return [("offnormal-reason", error.reason.encode()), ("offnormal-error", str(error).encode("utf-8", "replace"))]
