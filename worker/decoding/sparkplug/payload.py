"""The payload of a Sparkplug B message: its metrics, with their values as JSON would have them.

The fields and data types are those of Eclipse Sparkplug 3.0, "Sparkplug B Payload". Data sets, templates, arrays and
bytes are no readings, and are left out.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from worker.decoding.dead_letter_reasons import UNPARSEABLE, Refused

_Field = descriptor_pb2.FieldDescriptorProto
_PAYLOAD: Final = {
    "timestamp": (1, _Field.TYPE_UINT64),
    "metrics": (2, _Field.TYPE_MESSAGE),
    "seq": (3, _Field.TYPE_UINT64),
}
_METRIC: Final = {
    "name": (1, _Field.TYPE_STRING),
    "alias": (2, _Field.TYPE_UINT64),
    "timestamp": (3, _Field.TYPE_UINT64),
    "datatype": (4, _Field.TYPE_UINT32),
    "is_null": (7, _Field.TYPE_BOOL),
    "int_value": (10, _Field.TYPE_UINT32),
    "long_value": (11, _Field.TYPE_UINT64),
    "float_value": (12, _Field.TYPE_FLOAT),
    "double_value": (13, _Field.TYPE_DOUBLE),
    "boolean_value": (14, _Field.TYPE_BOOL),
    "string_value": (15, _Field.TYPE_STRING),
}
_VALUES: Final = tuple(name for name in _METRIC if name.endswith("_value"))
# Int8 to Int64 are transmitted as unsigned numbers of 32 or 64 bits, in two's complement.
_SIGNED: Final = {1: 8, 2: 16, 3: 32, 4: 64}
_DATE_TIME: Final = 13  # it tells a time, and not how a machine is


class Metric(NamedTuple):
    """A metric of a message. `alias` stands for the name; each may be None. Times in ms, None where not told.

    `datatype` is Sparkplug's number of it, 0 where it is not told. `raw` is the value as it was transmitted, None for
    no value.
    """

    name: str | None
    alias: int | None
    time: int | None
    datatype: int
    raw: Any

    def value(self, datatype: int) -> Any:
        """Return the value, of this data type."""
        if datatype == _DATE_TIME:
            return None
        bits = _SIGNED.get(datatype)
        if bits is None or type(self.raw) is not int:
            return self.raw
        number = self.raw & ((1 << bits) - 1)
        return number - (1 << bits) if number >> (bits - 1) else number


class Payload(NamedTuple):
    """A message: when it was sent (ms, None where it is not told), and its metrics."""

    time: int | None
    metrics: list[Metric]


def parse(data: bytes) -> Payload:
    """Parse a message. Raises Refused."""
    try:
        message = _Payload.FromString(data)
        time = message.timestamp if message.HasField("timestamp") else None
        return Payload(time, list(_metrics(message)))
    except (DecodeError, ValueError) as error:
        raise Refused(UNPARSEABLE, f"no payload of Sparkplug B: {error}"[:300]) from None


def _metrics(message: Any) -> Iterator[Metric]:
    for metric in message.metrics:
        kind = next((name for name in _VALUES if metric.HasField(name)), None)
        if type(metric.name) is bytes or type(metric.string_value) is bytes:  # protobuf does not refuse it by itself
            raise ValueError("a text that is not UTF-8")
        yield Metric(
            name=metric.name if metric.HasField("name") else None,
            alias=metric.alias if metric.HasField("alias") else None,
            time=metric.timestamp if metric.HasField("timestamp") else None,
            datatype=metric.datatype,
            raw=None if kind is None or metric.is_null else getattr(metric, kind),
        )


def _payload_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="offnormal/sparkplug_b.proto", package="offnormal", syntax="proto2")
    for name, fields in (("Metric", _METRIC), ("Payload", _PAYLOAD)):
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            is_message = kind == _Field.TYPE_MESSAGE
            message.field.add(
                name=field,
                number=number,
                type=kind,
                label=_Field.LABEL_REPEATED if is_message else _Field.LABEL_OPTIONAL,
                type_name=".offnormal.Metric" if is_message else None,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("offnormal.Payload"))


_Payload: Final = _payload_class()
