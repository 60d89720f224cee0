"""Format `arrow`: an IPC stream of Arrow, many rows a record.

It has a column for each feature, by name, or one column `values` whose lists are the rows. Other columns are ignored.
No Python object and no copy is made of a row.

Most records of a topic begin with the same schema, byte for byte, and hold one batch of plain columns. They are read by
compiled loops (loop.py) that know where the columns lie. Everything else is left to pyarrow.
"""

import struct
from datetime import tzinfo
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from worker.blocks.bytes_column import BytesColumn
from worker.blocks.limits import MAX_ENTITY_BYTES
from worker.blocks.vector_block import Reject
from worker.decoding.arrow import loop
from worker.decoding.arrow.flatbuffer import is_little, prefix_of, refuse_compressed
from worker.decoding.dead_letter_reasons import (
    BAD_ENTITY,
    BAD_TIME,
    UNKNOWN_KEY,
    UNPARSEABLE,
    WRONG_LENGTH,
    WRONG_TYPE,
    Refused,
)
from worker.decoding.event_time import FIRST_MS, LAST_MS, NO_TIME, milliseconds, times_ms_of
from worker.decoding.format import FeatureSchema, Parsed, without_infinite
from worker.decoding.loop_output import ENTITY, TIME, VALUES, named
from worker.native.arrays import Bytes, Float32s, Int64s
from worker.native.jit import read_only

_VALUES: Final = "values"
_TO_MS: Final = {"s": (1000, 1), "ms": (1, 1), "us": (1, 1000), "ns": (1, 1_000_000)}  # times, and by
_ERRORS: Final = (pa.ArrowException, ValueError, TypeError, ArithmeticError, OSError, EOFError)
_MOST_PLANS: Final = 8  # schemas whose records the compiled loop reads


class _Plan(NamedTuple):
    """A plan by which the compiled loop reads the streams of one schema.

    `prefix` is how such a stream begins, `n_nodes` and `n_buffers` are the counts of a batch, and `columns` are the
    wanted columns.
    """

    prefix: Bytes
    n_nodes: int
    n_buffers: int
    columns: Int64s
    whole: bool  # every feature is there


class Arrow:
    """Reads `arrow`: records of a known schema by compiled loops, others by pyarrow."""

    def __init__(self, schema: FeatureSchema):
        self._features, self._zone = tuple(schema.features), schema.zone
        self._known = {*self._features, schema.entity_field, schema.time_field}
        self._entity_field, self._time_field, self._strict = schema.entity_field, schema.time_field, schema.strict
        self._plans: dict[bytes, _Plan | None] = {}  # how a stream begins -> None where the loop cannot read it
        loop.warm_up()

    @classmethod
    def of(cls, schema: FeatureSchema) -> "Arrow":
        """Return a reader for the feature schema."""
        return cls(schema)

    def decode(self, values: BytesColumn, records: Int64s) -> list[Parsed]:
        """Parse the values of `records`, as Format says."""
        parsed = []
        for plan in filter(None, list(self._plans.values())):
            decoded, records = self._fast(plan, values, records)
            parsed.append(decoded)
        while len(records) and (learned := self._learn(values.view(int(records[0])))) is not None:
            decoded, records = self._fast(learned, values, records)
            parsed.append(decoded)
        return [*parsed, *self._slowly(values, records)] if len(records) or not parsed else parsed

    def _learn(self, value: memoryview) -> _Plan | None:
        """Return a plan for the schema of this record; None where there is one already, or none can be made."""
        prefix = prefix_of(value)
        if prefix is None or prefix in self._plans:
            return None
        if len(self._plans) >= _MOST_PLANS:
            del self._plans[next(iter(self._plans))]  # the oldest
        self._plans[prefix] = plan = self._plan(prefix)
        return plan

    def _plan(self, prefix: bytes) -> _Plan | None:
        try:
            schema = pa.ipc.read_schema(pa.py_buffer(prefix))
            names = schema.names
        except _ERRORS:
            return None
        nested = _VALUES in names and _VALUES not in self._features
        columns = {} if nested else {name: j for j, name in enumerate(self._features)}
        plan_columns, node, buffer = [], 0, 0
        for name, kind in zip(names, schema.types, strict=True):
            roles = [columns[name]] if name in columns else [VALUES] if nested and name == _VALUES else []
            roles += [TIME] if name == self._time_field else []
            roles += [ENTITY] if name == self._entity_field else []
            takes = _takes(kind)
            if takes is None or len(roles) > 1 or names.count(name) > 1 or (self._strict and not roles):
                return None
            if roles:
                written = _written(kind, roles[0], len(self._features))
                if written is None:
                    return None
                plan_columns.append((written[0], written[1], roles[0], node, buffer, written[2]))
            node, buffer = node + takes[0], buffer + takes[1]
        if not any(role == VALUES or role >= 0 for _, _, role, *_ in plan_columns) or not is_little(prefix):
            return None
        wanted = np.array(plan_columns, np.int64)
        whole = nested or set(self._features) <= set(names)
        return _Plan(np.frombuffer(prefix, np.uint8), node, buffer, wanted, whole)

    def _fast(self, plan: _Plan, values: BytesColumn, records: Int64s) -> tuple[Parsed, Int64s]:
        """Return what the compiled loop has parsed, and the records that it has refused."""
        n, width = len(records), len(self._features)
        buffer = read_only(np.frombuffer(values.buffer, np.uint8))
        rows, places, names = np.zeros(n, np.int64), np.zeros((n, 3), np.int64), np.zeros((n, 2), np.int64)
        loop.measure(
            buffer,
            values.start[records],
            values.length[records],
            read_only(plan.prefix),
            plan.n_nodes,
            plan.n_buffers,
            plan.columns,
            width,
            rows,
            places,
        )
        x = np.empty((int(rows.sum()), width), np.float32)
        if not plan.whole:
            x[:] = np.nan
        times = np.full(len(x), NO_TIME)
        good = loop.fill(rows, places, plan.columns, x, times, names)
        good &= names[:, 1] - names[:, 0] <= MAX_ENTITY_BYTES
        accepted, counts = records[good], rows[good]
        if not good.all():
            kept = np.repeat(good, rows)
            x, times = x[kept], times[kept]
        names = np.where(names > 0, names - buffer.ctypes.data, 0)[good]
        row_times = times if (times != NO_TIME).any() else None
        return Parsed(accepted, counts, x, (), named(values, accepted, names), row_times=row_times), records[~good]

    def _slowly(self, values: BytesColumn, records: Int64s) -> list[Parsed]:
        """Read the records by pyarrow, those of one schema together."""
        rejects: list[Reject] = []
        tables: dict[pa.Schema, list[tuple[int, pa.Table]]] = {}
        for r in records.tolist():
            try:
                table = read(values.view(r))
                if not 0 < table.num_rows * len(self._features) <= loop.MOST_READINGS * int(values.length[r]):
                    error_text = f"{table.num_rows} rows of {len(self._features)} readings in {values.length[r]} bytes"
                    raise Refused(WRONG_LENGTH, error_text)
                tables.setdefault(table.schema, []).append((r, table))
            except Refused as error:
                rejects.append(Reject(r, error.reason, str(error)))
        parsed = [part for alike in tables.values() for part in self._of_schema(alike, rejects)]
        return [*parsed, Parsed(records[:0], records[:0], np.empty((0, len(self._features)), np.float32), rejects)]

    def document(self, value: memoryview) -> Any:
        """Return the first rows as JSON would have them. Raises Refused."""
        table = read(value).slice(0, 100)
        telling = [i for i, kind in enumerate(table.schema.types) if _is_number(kind) or hasattr(kind, "value_type")]
        try:
            return table.select(telling).to_pylist()
        except _ERRORS as error:
            raise Refused(UNPARSEABLE, str(error)) from None

    def _of_schema(self, alike: list[tuple[int, pa.Table]], rejects: list[Reject]) -> list[Parsed]:
        """Read the tables at once; if something is wrong with any of them, one by one."""
        try:
            return [self._parse(alike)]
        except (Refused, *_ERRORS) as error:
            if len(alike) > 1:
                return [part for member in alike for part in self._of_schema([member], rejects)]
            rejects.append(Reject(alike[0][0], getattr(error, "reason", UNPARSEABLE), str(error)))
            return []

    def _parse(self, alike: list[tuple[int, pa.Table]]) -> Parsed:
        """Parse tables of one schema. Raises Refused."""
        table = pa.concat_tables([table for _, table in alike])
        x = self._matrix(table)
        times = None
        if self._time_field is not None and (column := _column(table, self._time_field)) is not None:
            times = _times(column, self._time_field, self._zone)
        entities: dict[int, str] = {}
        if self._entity_field is not None and _column(table, self._entity_field) is not None:
            for r, parsed_table in alike:
                if (name := _entity(parsed_table.column(self._entity_field), self._entity_field)) is not None:
                    entities[r] = name
        counts = np.array([parsed_table.num_rows for _, parsed_table in alike], np.int64)
        parsed = Parsed(np.array([r for r, _ in alike], np.int64), counts, x, (), entities, row_times=times)
        return without_infinite(parsed, self._features)

    def _matrix(self, table: pa.Table) -> Float32s:
        """Return the readings [n, d]. Raises Refused."""
        inner = _column(table, _VALUES) if _VALUES not in self._features else None
        if self._strict:
            extra = [name for name in table.column_names if name not in self._known and name != _VALUES]
            if extra:
                raise Refused(UNKNOWN_KEY, f"not a feature: {', '.join(extra[:5])}")
        if inner is not None:
            return _rows(inner, len(self._features))
        x = np.full((table.num_rows, len(self._features)), np.nan, np.float32)
        has_feature = False
        for j, name in enumerate(self._features):
            column = _column(table, name)
            if column is not None and not pa.types.is_null(column.type):
                x[:, j] = _numbers(column, name)
                has_feature = True
        if not has_feature:  # such a stream may claim any number of rows
            raise Refused(UNKNOWN_KEY, f"none of its columns is a feature: {', '.join(table.column_names[:5])}")
        return x


def read(value: memoryview) -> pa.Table:
    """Return the rows of one record, checked; they are views of its bytes. Raises Refused."""
    buffer = pa.py_buffer(value)
    try:
        refuse_compressed(buffer)
        source = pa.BufferReader(buffer)
        reader = pa.ipc.open_stream(source)
        batches = list(reader)
        for batch in batches:
            batch.validate(full=True)
        if source.tell() < len(value):
            raise Refused(UNPARSEABLE, f"{len(value) - source.tell()} bytes after the end of the stream")
        table = pa.Table.from_batches(batches, reader.schema)
        list(table.column_names)  # raises where they are no UTF-8
        return table
    except (*_ERRORS, struct.error, IndexError) as error:
        raise Refused(UNPARSEABLE, f"no Arrow IPC stream: {' '.join(str(error).split())}") from None


def _column(table: pa.Table, name: str) -> pa.ChunkedArray | None:
    """Return the column of this name; None if there is none. Raises Refused if there are two."""
    indices = table.schema.get_all_field_indices(name)
    if len(indices) > 1:
        raise Refused(WRONG_TYPE, f"{len(indices)} columns are called {name[:100]!r}")
    return table.column(indices[0]) if indices else None


def _numbers(column: pa.ChunkedArray, name: str) -> Float32s:
    """Return the numbers [n], NaN where null. Raises Refused."""
    if not _is_number(column.type):
        raise Refused(WRONG_TYPE, f"column {name[:100]!r} holds no numbers, but {str(column.type)[:100]}")
    numbers: np.ndarray[Any, Any] = column.to_numpy()
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes infinite, and a reject
        return numbers.astype(np.float64, copy=False).astype(np.float32)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _rows(column: pa.ChunkedArray, width: int) -> Float32s:
    """Return the rows [n, width] of n lists. Raises Refused."""
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise Refused(WRONG_TYPE, f"column {_VALUES!r} holds no lists, but {str(kind)[:100]}")
    if column.null_count:
        raise Refused(WRONG_TYPE, f"a row of {_VALUES!r} is null")
    lengths = {kind.list_size} if pa.types.is_fixed_size_list(kind) else set()
    for chunk in column.chunks if not lengths else ():
        lengths.update(np.unique(np.diff(chunk.offsets.to_numpy())).tolist())
    if lengths != {width}:
        raise Refused(WRONG_LENGTH, f"{', '.join(map(str, sorted(lengths - {width})[:5]))} readings, not {width}")
    return _numbers(pa.chunked_array([c.flatten() for c in column.chunks], kind.value_type), _VALUES).reshape(-1, width)


def _times(column: pa.ChunkedArray, name: str, zone: tzinfo) -> Int64s:
    """Return the times [n] in milliseconds, NO_TIME where null. Raises Refused."""
    kind = column.type
    missing = column.is_null().to_numpy()
    if pa.types.is_timestamp(kind):
        times, by = _TO_MS[kind.unit]
        raw_times = column.cast(pa.int64()).fill_null(0).to_numpy()
        is_valid = (raw_times // by >= FIRST_MS // times) & (raw_times // by < LAST_MS // times)
        times_ms = np.where(is_valid, raw_times // by * times, NO_TIME)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        raw_times = column.fill_null(0).to_numpy()
        times_ms = times_ms_of(raw_times)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array([NO_TIME if v is None else milliseconds(v, zone) for v in column.to_pylist()], np.int64)
    else:
        raise Refused(BAD_TIME, f"column {name!r} holds no times, but {str(kind)[:100]}")
    bad = (times_ms == NO_TIME) & ~missing
    if bad.any():
        raise Refused(BAD_TIME, f"column {name!r}: {raw_times[bad][0]} is not a valid time (1990 to 2100)")
    return np.where(missing, NO_TIME, times_ms)


def _entity(column: pa.ChunkedArray, name: str) -> str | None:
    """Return the one entity of a record. Raises Refused."""
    names = column.unique().to_pylist()
    if len(names) > 1:
        raise Refused(BAD_ENTITY, f"{len(names)} values of {name} in one record: all rows must belong to one entity")
    if names[0] is None:
        return None
    if type(names[0]) not in (str, int):
        raise Refused(BAD_ENTITY, f"{name} is neither a string nor an integer")
    entity = str(names[0])
    if len(entity.encode()) > MAX_ENTITY_BYTES:
        raise Refused(BAD_ENTITY, f"{name} is longer than {MAX_ENTITY_BYTES} bytes")
    return entity


_NUMBERS: Final = {
    pa.float32(): loop.FLOAT,
    pa.float64(): loop.DOUBLE,
    pa.int8(): loop.INT8,
    pa.int16(): loop.INT16,
    pa.int32(): loop.INT32,
    pa.int64(): loop.INT64,
    pa.uint8(): loop.UINT8,
    pa.uint16(): loop.UINT16,
    pa.uint32(): loop.UINT32,
    pa.uint64(): loop.UINT64,
}


def _takes(kind: pa.DataType) -> tuple[int, int] | None:
    """Return how many nodes and buffers a column has; None if its type is not a plain one."""
    if pa.types.is_null(kind):
        return 1, 0
    if pa.types.is_primitive(kind):  # numbers, booleans, times
        return 1, 2
    if kind in (pa.string(), pa.binary(), pa.large_string(), pa.large_binary()):
        return 1, 3
    own = 1 if pa.types.is_fixed_size_list(kind) else 2 if pa.types.is_list(kind) else 0
    inner = _takes(kind.value_type) if own else None
    return None if inner is None else (1 + inner[0], own + inner[1])


def _written(kind: pa.DataType, role: int, width: int) -> tuple[int, int, int] | None:
    """Return kind, shape and unit of a wanted column; None if the loop cannot read it."""
    if role == ENTITY:
        return (loop.TEXT, loop.PLAIN, 0) if kind == pa.string() else None
    if role == TIME and pa.types.is_timestamp(kind):
        times, by = _TO_MS[kind.unit]
        return loop.INT64, loop.PLAIN, -times if times > 1 else by
    if role == TIME:
        return (_NUMBERS[kind], loop.PLAIN, 0) if kind in (pa.int64(), pa.float64()) else None
    if role == VALUES:
        shape = loop.FIXED if pa.types.is_fixed_size_list(kind) else loop.LIST if pa.types.is_list(kind) else None
        if shape is None or kind.value_type not in (pa.float32(), pa.float64()):
            return None
        return None if shape == loop.FIXED and kind.list_size != width else (_NUMBERS[kind.value_type], shape, 0)
    return (_NUMBERS[kind], loop.PLAIN, 0) if kind in _NUMBERS else None
