"""Format `avro`, in Confluent's wire format.

Fields are matched by name, so that records of older and newer schemas can be mixed. A compiled loop (loop.py) reads
plain fields. Unusual schemas and records are left to fastavro, and the resulting document is then handled like a JSON
document.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, NamedTuple

import fastavro
import numpy as np
from fastavro.schema import SchemaParseException, UnknownType

from worker.blocks.bytes_column import BytesColumn
from worker.blocks.vector_block import Reject
from worker.decoding.avro import loop
from worker.decoding.by_schema import HEADER, BySchema
from worker.decoding.dead_letter_reasons import UNPARSEABLE, Refused
from worker.decoding.documents import Documents
from worker.decoding.event_time import FIRST_MS, LAST_MS, moment
from worker.decoding.format import FeatureSchema, Parsed
from worker.decoding.loop_output import ENTITY, SKIP, TIME, VALUES, Taken
from worker.native.arrays import Int64s
from worker.native.jit import read_only
from worker.schema_registry import Schema, UnknownSchema

_KINDS: Final = {
    "null": loop.NULL,
    "boolean": loop.BOOLEAN,
    "int": loop.LONG,
    "long": loop.LONG,
    "float": loop.FLOAT,
    "double": loop.DOUBLE,
    "string": loop.TEXT,
    "bytes": loop.BYTES,
}
_ARRAYS: Final = {"float": loop.FLOATS, "double": loop.DOUBLES}
_MOST_PARTS: Final = 10_000
_UNITS: Final = {
    f"{local}timestamp-{unit}": divisor
    for local in ("", "local-")
    for unit, divisor in (("millis", 1), ("micros", 1000), ("nanos", 1_000_000))
}
_AS_WRITTEN: Final = ("decimal", "uuid", *_UNITS)  # logical types that need not be converted to Python objects


class _Plan(NamedTuple):
    """What the compiled loop has to know of each field."""

    kinds: Int64s
    roles: Int64s
    nulls: Int64s
    units: Int64s
    whole: bool  # every feature is there


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads the records of one schema."""

    schema: Schema  # parsed by fastavro
    has_booleans: bool
    plan: _Plan | None
    time_field: str | None  # a timestamp if `unit`, the number of its ticks per millisecond, is not 0
    unit: int

    def load(self, text: bytes) -> tuple[Any, bool]:
        """Return one record as a document, and whether there may be a boolean in it. Raises Refused."""
        source = BytesIO(text)
        source.seek(HEADER)
        try:
            document = fastavro.schemaless_reader(source, self.schema, None)
        except EOFError:
            raise Refused(UNPARSEABLE, "it does not match its schema: it ends too early") from None
        except (ValueError, IndexError, KeyError, TypeError, ArithmeticError) as error:
            raise Refused(UNPARSEABLE, f"it does not match its schema: {error!r}"[:300]) from None
        if source.tell() < len(text):
            raise Refused(UNPARSEABLE, f"{len(text) - source.tell()} bytes more than its schema describes")
        if self.unit and type(time := document[self.time_field]) is int:
            time //= self.unit
            document[self.time_field] = moment(time) if FIRST_MS <= time < LAST_MS else -1  # that is no time
        return document, self.has_booleans


class Avro:
    """Reads `avro`. `decode` raises SchemaRegistryError if it needs a schema and the registry is unavailable."""

    def __init__(self, schema: FeatureSchema):
        """Read for this schema, whose registry must be there."""
        assert schema.registry is not None
        self._documents, self._is_plain = Documents(schema), not (schema.values_field or schema.tag_field)
        self._features, self._registry = tuple(schema.features), schema.registry
        self._entity_field, self._time_field, self._strict = schema.entity_field, schema.time_field, schema.strict
        self._readers = BySchema(self._prepare)
        loop.warm_up()

    @classmethod
    def of(cls, schema: FeatureSchema) -> "Avro":
        """Return a reader for the feature schema, whose registry must be there."""
        return cls(schema)

    def decode(self, values: BytesColumn, records: Int64s) -> list[Parsed]:
        """Parse the values of `records`, as Format says."""
        rejects: list[Reject] = []
        parsed = [Parsed(records[:0], records[:0], np.empty((0, len(self._features)), np.float32), rejects)]
        for reader, same_schema in self._readers.groups(values, records, rejects):
            if reader.plan is not None:
                decoded, same_schema = self._fast(reader.plan, values, same_schema)
                parsed.append(decoded)
            if len(same_schema):
                parsed.extend(self._documents.decode(values, same_schema, reader.load))
        return parsed

    def document(self, value: memoryview) -> Any:
        """Return the record as JSON would have it. Raises Refused, SchemaRegistryError."""
        text = bytes(value)
        return self._readers.reader(text).load(text)[0]

    def _prepare(self, id: int) -> _Reader:
        """Make a reader of a schema. Raises SchemaRegistryError.

        Raises UnknownSchema if there is none, if it is invalid, or if a few bytes could decode to very much under it.
        """
        schema, references = self._registry.schema(id)
        named: dict[str, Any] = {}
        try:
            for reference in references.values():
                fastavro.parse_schema(reference, named_schemas=named)
            parsed = fastavro.parse_schema(schema, named_schemas=named)
            plan, unit = self._plan(parsed), self._unit(parsed)
            shape = Shape(named)
            shape.look(parsed)
        except (SchemaParseException, UnknownType, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnknownSchema(f"the schema is not valid: {error!r}") from None
        except RecursionError:
            raise UnknownSchema("a schema too deep") from None
        return _Reader(parsed, shape.has_booleans, plan, self._time_field, unit)

    def _unit(self, schema: Schema) -> int:
        """Return the unit of the time field; 0 if it is no timestamp."""
        fields = schema["fields"] if isinstance(schema, dict) and schema.get("type") == "record" else ()
        kinds = [field["type"] for field in fields if field["name"] == self._time_field]
        branches = [branch for kind in kinds for branch in (kind if isinstance(kind, list) else [kind])]
        units = (_UNITS.get(str(branch.get("logicalType")), 0) for branch in branches if isinstance(branch, dict))
        return next(filter(None, units), 0)

    def _fast(self, plan: _Plan, values: BytesColumn, records: Int64s) -> tuple[Parsed, Int64s]:
        """Return what the compiled loop has parsed, and the records that it has refused."""
        output = Taken(len(records), len(self._features), plan.whole)
        good = loop.parse(
            read_only(np.frombuffer(values.buffer, np.uint8)),
            values.start[records] + HEADER,
            values.length[records] - HEADER,
            plan.kinds,
            plan.roles,
            plan.nulls,
            plan.units,
            output.x,
            output.times,
            output.names,
        )
        return output.parsed(values, records, good)

    def _plan(self, schema: Schema) -> _Plan | None:
        """Return how the loop reads the schema; None if it cannot."""
        if not self._is_plain or not isinstance(schema, dict) or schema.get("type") != "record":
            return None
        fields = schema["fields"]
        names = [field["name"] for field in fields]
        nested = "values" in names and "values" not in self._features
        columns = {} if nested else {name: j for j, name in enumerate(self._features)}
        steps = []  # of each field kind, role, branch of null, unit
        for field in fields:
            name = field["name"]
            roles = [columns[name]] if name in columns else [VALUES] if nested and name == "values" else []
            roles += [TIME] if name == self._time_field else []
            roles += [ENTITY] if name == self._entity_field else []
            plain = _plain(field["type"])
            if plain is None or len(roles) > 1 or (self._strict and not roles):
                return None
            kind, null, unit = plain
            role = roles[0] if roles else SKIP
            if not _fits(kind, role) or (unit < 0 and role != SKIP):  # an enum is a text
                return None
            steps.append((kind, role, null, unit))
        kinds, roles_of, nulls, units = np.array(steps, np.int64).reshape(-1, 4).T.copy()
        return _Plan(kinds, roles_of, nulls, units, nested or set(self._features) <= set(names))


def _plain(kind: Any) -> tuple[int, int, int] | None:
    """Return how a type is written: its kind, the branch that is null (-1 without one), its unit. None if unusual."""
    null = -1
    if isinstance(kind, list):
        if len(kind) != 2 or kind.count("null") != 1:
            return None
        null = kind.index("null")
        kind = kind[1 - null]
    unit = 0
    if isinstance(kind, dict):
        if kind["type"] == "array":
            items = kind["items"]
            return (_ARRAYS[items], null, 0) if isinstance(items, str) and items in _ARRAYS else None
        if kind["type"] == "enum":
            return loop.LONG, null, -len(kind["symbols"])
        logical = kind.get("logicalType")
        unit = _UNITS.get(logical, 0) if logical is not None else 0
        if logical is not None and not unit:
            return None
        kind = kind["type"]
    return (_KINDS[kind], null, unit) if isinstance(kind, str) and kind in _KINDS else None


def _fits(kind: int, role: int) -> bool:
    """Return whether the loop can read the field."""
    numbers = (loop.NULL, loop.LONG, loop.FLOAT, loop.DOUBLE)
    if role >= 0 or role == TIME:
        return kind in numbers
    if role == ENTITY:
        return kind in (loop.NULL, loop.TEXT)
    if role == VALUES:
        return kind in _ARRAYS.values()
    return kind not in _ARRAYS.values()


class Shape:
    """Refuses parsed schemas under which a few bytes could decode to very much.

    A schema that refers to itself can nest to any depth. An array whose items take no bytes can claim any number of
    them. Records of records of records grow exponentially.
    """

    def __init__(self, named: Mapping[str, Any]):
        self._named = named
        self._within: list[str] = []
        self._looks = 0
        self.has_booleans = False

    def look(self, schema: Any) -> bool:
        """Return whether the type always takes some bytes. Raises UnknownSchema."""
        self._looks += 1
        if self._looks > _MOST_PARTS:
            raise UnknownSchema(f"a schema of more than {_MOST_PARTS} parts")
        if isinstance(schema, dict) and schema.get("logicalType") in _AS_WRITTEN:
            del schema["logicalType"]
        if isinstance(schema, list):
            for branch in schema:
                self.look(branch)
            return True
        kind = schema["type"] if isinstance(schema, dict) else schema
        if isinstance(kind, list | dict):
            return self.look(kind)
        if kind == "boolean":
            self.has_booleans = True
        if kind in ("array", "map"):
            some = self.look(schema["items" if kind == "array" else "values"])
            if not some and kind == "array":
                raise UnknownSchema("a schema with an array whose items take no bytes")
            return True
        if kind in ("record", "error"):
            return self._record(schema)
        if kind == "fixed":
            return int(schema["size"]) > 0
        if kind in _KINDS:
            return bool(kind != "null")
        if kind == "enum":
            return True
        if kind in self._within:
            raise UnknownSchema("a schema that refers to itself")
        return self.look(self._named[kind])

    def _record(self, schema: Any) -> bool:
        name = schema["name"]
        if name in self._within:
            raise UnknownSchema("a schema that refers to itself")
        self._within.append(name)
        some = [self.look(field["type"]) for field in schema["fields"]]
        self._within.pop()
        return any(some)
