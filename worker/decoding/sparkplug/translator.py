"""Turns records of Sparkplug B into what the rest of the worker reads: JSON, keyed by the machine.

    spBv1.0/plant/DDATA/line-3/press-7, protobuf   ->   plant/line-3/press-7, {"metrics": [{"name": "temperature", ...

The MQTT topic is the record's key, or a header (OFFNORMAL_INPUT__MQTT_TOPIC_HEADER). A record of which an alias is not
known is refused, since it would otherwise be a vector with readings missing.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from worker.blocks import BytesColumn, Headers, RecordBlock
from worker.blocks.limits import BY_US, MAX_ENTITY_BYTES, REFUSED, REPLAYED
from worker.decoding.dead_letter_reasons import UNKNOWN_ALIAS, UNPARSEABLE, Refused
from worker.decoding.sparkplug.births import MOST_BYTES, Birth, Births, Source, Table
from worker.decoding.sparkplug.payload import Metric, Payload, parse
from worker.settings import InputSettings

_PREFIX: Final = "spBv1.0/"
_BIRTHS: Final = ("NBIRTH", "DBIRTH")
_WITH_METRICS: Final = (*_BIRTHS, "NDATA", "DDATA")
_CONTROL: Final = ("Node Control/", "Device Control/")
_INFINITE: Final = orjson.Fragment(b"Infinity")  # the decoder refuses it of a feature
_BIRTH_SEQUENCE: Final = "bdSeq"  # counts the births of a node


class Translator:
    """Translates blocks of records, each partition in the order of its offsets."""

    def __init__(self, inputs: InputSettings, births: Births):
        self._header, self._births = inputs.mqtt_topic_header, births
        self.new_births: list[Birth] = []  # among the records that were translated last

    def translate(self, records: RecordBlock) -> RecordBlock:
        """Return the records as JSON, and null for messages without readings. Collects their births in `new_births`."""
        keys, values = list(records.keys), list(records.values)
        headers: dict[int, Headers] = {}
        self.new_births = []
        for r, value in enumerate(values):
            own = records.headers.get(r, ())
            if value is None or BY_US in own:
                headers[r] = own
                continue
            headers[r] = [header for header in own if header[0].lower() != "content-type"]
            topic = self._topic(keys[r], own)
            kind, node, device = _parts(topic)
            if topic is None:
                node = (keys[r] or b"").decode("utf-8", "replace")
            source = Source(int(records.partition[r]), node, device)
            if kind is not None:
                keys[r] = source.entity.encode()
            if len(keys[r] or b"") > MAX_ENTITY_BYTES:  # the decoder refuses it
                continue
            if kind is not None and kind not in _WITH_METRICS:
                values[r] = None
                continue
            try:
                values[r] = self._json(parse(value), source, int(records.offset[r]), kind, REPLAYED in dict(own))
            except Refused as error:
                headers[r] = [("content-type", REFUSED.encode()), BY_US, *_why(error), *headers[r]]
        headers = {r: record_headers for r, record_headers in headers.items() if record_headers}
        new_keys, new_values = BytesColumn.of(keys), BytesColumn.of(values)
        return replace(records, keys=new_keys, values=new_values, headers=headers, origin=records)

    def _topic(self, key: bytes | None, headers: Headers) -> str | None:
        """Return the MQTT topic of a record; None if it is not told, so that the record's key is the machine."""
        named = dict(headers).get(self._header) if self._header is not None else key
        return None if named is None else named.decode("utf-8", "replace")

    def _json(self, payload: Payload, source: Source, offset: int, kind: str | None, is_replayed: bool) -> bytes | None:
        """Return the message's readings as JSON; None if it has none. Raises Refused."""
        own = _own_table(payload.metrics)
        earlier = Table() if kind in _BIRTHS else self._births.table(source, offset)
        if not is_replayed:  # it may be older than the last birth certificate
            if kind in _BIRTHS:
                self._take(Birth(source, offset, own))
            elif kind is None and own.names and (merged := earlier.with_more(own)) != earlier:
                self._take(Birth(source, offset, merged))
        metrics = []
        for metric in payload.metrics:
            name = metric.name or _name(metric, own, earlier, source)
            if name == _BIRTH_SEQUENCE or name.startswith(_CONTROL):
                continue
            time = payload.time if metric.time is None else metric.time
            timestamp: Mapping[str, Any] = {} if time is None else {"timestamp": time}
            value = metric.value(metric.datatype or earlier.types.get(name, 0))
            if type(value) is float and math.isinf(value):
                value = _INFINITE
            metrics.append({"name": name, "value": value, **timestamp})
        return orjson.dumps({"metrics": metrics}) if metrics else None

    def _take(self, birth: Birth) -> None:
        """Take note of what a birth certificate tells. Raises Refused."""
        if birth.table.most_json > MOST_BYTES:
            raise Refused(
                UNPARSEABLE, f"the names of its {len(birth.table.types)} metrics may take {birth.table.most_json} bytes"
            )
        if not self._births.take(birth):
            raise Refused(UNKNOWN_ALIAS, f"{birth.source.entity} is one machine too many to remember its aliases")
        self.new_births.append(birth)


def _own_table(metrics: list[Metric]) -> Table:
    """Return what a message tells of its metrics by itself."""
    named = [(metric.name, metric) for metric in metrics if metric.name]
    names = {metric.alias: name for name, metric in named if metric.alias is not None}
    return Table(names, {name: metric.datatype for name, metric in named})


def _name(metric: Metric, own: Table, earlier: Table, source: Source) -> str:
    """Return the name that a metric's alias stands for. Raises Refused."""
    alias = -1 if metric.alias is None else metric.alias
    name = own.names.get(alias) or earlier.names.get(alias)
    if name is None:
        raise Refused(
            UNKNOWN_ALIAS,
            f"{source.entity} names a metric by alias {metric.alias}, and no birth certificate before it in its"
            " partition has told what that is: see `python -m worker explain unknown-alias`",
        )
    return name


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
