"""Format `protobuf`: Confluent's wire format, in which the place of the message in its schema precedes the message.

A message becomes a document as JSON would have it (worker/decoding/documents.py), whose fields have the names of the
schema. A field that can tell that it is not set (`optional`, a message, a member of a `oneof`) is then missing. Others
have their default, such as 0, since Protobuf does not transmit it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from worker.blocks.bytes_column import BytesColumn
from worker.blocks.vector_block import Reject
from worker.decoding.by_schema import HEADER, BySchema
from worker.decoding.dead_letter_reasons import UNKNOWN_SCHEMA, UNPARSEABLE, Refused
from worker.decoding.documents import Documents
from worker.decoding.event_time import FIRST_MS, LAST_MS, moment
from worker.decoding.format import FeatureSchema, Parsed
from worker.decoding.protobuf.descriptors import MessageTypes
from worker.native.arrays import Int64s

_MOST_INDICES: Final = 100  # messages in messages
_WRAPPERS: Final = frozenset(
    f"google.protobuf.{kind}Value"
    for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)
# A type of the registry may only be named as Google's, and a field as a method of messages.
_ODD: Final = (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError)
_SOME_FIELDS, _FIELDS_PER_BYTE = 10_000, 2  # that a record may have: fields that are 0 take no bytes
_MESSAGE: Final = (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_GROUP)
Convert = Callable[[Any], Any]


def _value(message: Any) -> Any:
    """Return a google.protobuf.Value, also one that JSON could not have, such as NaN."""
    match message.WhichOneof("kind"):
        case "struct_value":
            return _struct(message.struct_value)
        case "list_value":
            return _list(message.list_value)
        case None | "null_value":
            return None
        case kind:
            return getattr(message, kind)


def _struct(message: Any) -> dict[str, Any]:
    return {key: _value(value) for key, value in message.fields.items()}


def _list(message: Any) -> list[Any]:
    return [_value(value) for value in message.values]


_AS_JSON: Final = {
    "google.protobuf.Value": _value,
    "google.protobuf.Struct": _struct,
    "google.protobuf.ListValue": _list,
}


class Protobuf:
    """Reads `protobuf`. `decode` raises SchemaRegistryError if it needs a schema and the registry is unavailable."""

    def __init__(self, schema: FeatureSchema):
        """Read for this schema, whose registry must be there."""
        assert schema.registry is not None
        self._documents, self._registry = Documents(schema), schema.registry
        self._width = len(schema.features)
        self._readers = BySchema(lambda id: _Reader(MessageTypes(self._registry.text(id, "PROTOBUF"))))

    @classmethod
    def of(cls, schema: FeatureSchema) -> "Protobuf":
        """Return a reader for the feature schema, whose registry must be there."""
        return cls(schema)

    def decode(self, values: BytesColumn, records: Int64s) -> list[Parsed]:
        """Parse the values of `records`, as Format says."""
        rejects: list[Reject] = []
        parsed = [Parsed(records[:0], records[:0], np.empty((0, self._width), np.float32), rejects)]
        for reader, same_schema in self._readers.groups(values, records, rejects):
            parsed.extend(self._documents.decode(values, same_schema, reader.load))
        return parsed

    def document(self, value: memoryview) -> Any:
        """Return the record as JSON would have it. Raises Refused, SchemaRegistryError."""
        text = bytes(value)
        return self._readers.reader(text).load(text)[0]


class _Reader:
    """Reads the records of one schema."""

    def __init__(self, types: MessageTypes):
        self._types = types
        self._messages: dict[tuple[int, ...], tuple[Any, Convert]] = {}
        self._converts: dict[str, Convert] = {}
        self._left = 0  # fields that the record may still have

    def load(self, text: bytes) -> tuple[Any, bool]:
        """Return one record as a document, and that there may be a boolean in it. Raises Refused."""
        indices, begin = _indices(text)
        if indices not in self._messages:
            try:
                kind = self._types.at(indices)
            except LookupError as error:
                raise Refused(UNKNOWN_SCHEMA, str(error)) from None
            self._messages[indices] = kind, self._of(kind.DESCRIPTOR)
        kind, convert = self._messages[indices]
        self._left = _SOME_FIELDS + _FIELDS_PER_BYTE * len(text)
        try:
            return convert(kind.FromString(text[begin:])), True
        except (DecodeError, *_ODD) as error:
            raise Refused(UNPARSEABLE, f"it does not match its schema: {error!r}"[:300]) from None

    def _of(self, kind: Descriptor) -> Convert:
        """Return what makes a document of messages of this type. It may be a type that contains itself."""
        name = kind.full_name
        if name not in self._converts:
            if name in _WRAPPERS:
                self._converts[name] = lambda message: message.value
            elif name == "google.protobuf.Timestamp":
                self._converts[name] = _moment
            elif name == "google.protobuf.Duration":
                self._converts[name] = lambda message: message.seconds + message.nanos / 1e9
            elif name in _AS_JSON:
                self._converts[name] = _AS_JSON[name]
            else:
                self._converts[name] = lambda message: self._converts[name](message)
                self._converts[name] = self._of_fields(kind)
        return self._converts[name]

    def _of_fields(self, kind: Descriptor) -> Convert:
        """Return what makes an object of a message, of its fields."""
        always, if_set = list[tuple[str, Convert | None]](), list[tuple[str, Convert | None]]()
        for field in kind.fields:
            (if_set if field.has_presence else always).append((field.name, self._of_field(field)))

        size = len(kind.fields)

        def convert(message: Any) -> dict[str, Any]:
            self._left -= size
            if self._left < 0:  # each of many empty messages has all its fields
                raise Refused(UNPARSEABLE, "more fields than its bytes can tell")
            document = {}
            for name, change in always:
                value = getattr(message, name)
                document[name] = value if change is None else change(value)
            for name, change in if_set:
                if message.HasField(name):
                    value = getattr(message, name)
                    document[name] = value if change is None else change(value)
            return document

        return convert

    def _of_field(self, field: FieldDescriptor) -> Convert | None:
        """Return what makes a document of a field's value; None if it is one."""
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            change = self._of_field(field.message_type.fields_by_name["value"])
            return lambda value: _object(value, change)
        one: Convert | None = None
        if field.type in _MESSAGE:
            one = self._of(field.message_type)
        elif field.type == FieldDescriptor.TYPE_ENUM:
            names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
            one = lambda number: names.get(number, number)  # noqa: E731
        if not field.is_repeated:
            return one
        each = one
        return list if each is None else lambda values: [each(value) for value in values]


def _object(value: Mapping[Any, Any], change: Convert | None) -> dict[str, Any]:
    return {str(key): item if change is None else change(item) for key, item in value.items()}


def _moment(message: Any) -> Any:
    time = message.seconds * 1000 + message.nanos // 1_000_000
    return moment(time) if FIRST_MS <= time < LAST_MS else -1  # that is no time


def _indices(text: bytes) -> tuple[tuple[int, ...], int]:
    """Return the place of the message in its schema, and where it begins. Raises Refused.

    The place is a count and so many indices, as zigzag varints. The commonest, [0], is written as a zero byte.
    """
    try:
        if text[HEADER] == 0:
            return (0,), HEADER + 1
        count, at = _varint(text, HEADER)
        if not 0 < count <= _MOST_INDICES:
            raise IndexError
        indices = []
        for _ in range(count):
            index, at = _varint(text, at)
            indices.append(index)
        return tuple(indices), at
    except IndexError:
        raise Refused(
            UNPARSEABLE, "not in Confluent's wire format: no place of a message after the schema id"
        ) from None


def _varint(text: bytes, at: int) -> tuple[int, int]:
    """Return a zigzag varint of at most 35 bits, and where it ends. Raises IndexError if there is none."""
    value = 0
    for shift in range(0, 35, 7):
        byte = text[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return (value >> 1) ^ -(value & 1), at
    raise IndexError
