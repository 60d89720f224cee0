"""Format `arrow`: an IPC stream of Arrow, many rows a record. A column for each feature, by name, or one column
`values` whose lists are the rows; other columns are let be. Records of one schema are read together, a column at a
time: no Python object and no copy is made of a row.
"""

import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from worker.vectors.block import BytesColumn, Float32s, Int64s, Reject
from worker.vectors.formats import (
    BAD_ENTITY,
    BAD_TIME,
    LAST_SECOND,
    LAST_TIME,
    LONGEST_ENTITY,
    NO_TIME,
    UNKNOWN_KEY,
    UNPARSEABLE,
    WRONG_LENGTH,
    WRONG_TYPE,
    Parsed,
    Refused,
    milliseconds,
    without_infinite,
)

_VALUES: Final = "values"
_TO_MS: Final = {"s": (1000, 1), "ms": (1, 1), "us": (1, 1000), "ns": (1, 1_000_000)}  # times, and by


class Arrow:
    def __init__(self, features: Sequence[str], entity_field: str | None, time_field: str | None, strict: bool):
        self._features = tuple(features)
        self._known = {*self._features, entity_field, time_field}
        self._entity_field, self._time_field, self._strict = entity_field, time_field, strict

    def decode(self, values: BytesColumn, records: Int64s) -> list[Parsed]:
        rejects: list[Reject] = []
        tables: dict[pa.Schema, list[tuple[int, pa.Table]]] = {}
        for r in records.tolist():
            try:
                table = read(values.view(r))
                if not table.num_rows:
                    raise Refused(WRONG_LENGTH, "no rows")
                tables.setdefault(table.schema, []).append((r, table))
            except Refused as error:
                rejects.append(Reject(r, error.reason, str(error)))
        parsed = [part for alike in tables.values() for part in self._of_schema(alike, rejects)]
        return [*parsed, Parsed(records[:0], records[:0], np.empty((0, len(self._features)), np.float32), rejects)]

    def document(self, value: memoryview) -> Any:
        return read(value).slice(0, 100).to_pylist()

    def _of_schema(self, alike: list[tuple[int, pa.Table]], rejects: list[Reject]) -> list[Parsed]:
        """All at once; where something is wrong with any of them, one by one."""
        try:
            return [self._parse(alike)]
        except Refused as error:
            if len(alike) > 1:
                return [part for each in alike for part in self._of_schema([each], rejects)]
            rejects.append(Reject(alike[0][0], error.reason, str(error)))
            return []

    def _parse(self, alike: list[tuple[int, pa.Table]]) -> Parsed:
        """Raises Refused."""
        table = pa.concat_tables([table for _, table in alike])
        x = self._matrix(table)
        times = None
        if self._time_field is not None and (column := _column(table, self._time_field)) is not None:
            times = _times(column, self._time_field)
        entities: dict[int, str] = {}
        if self._entity_field is not None and _column(table, self._entity_field) is not None:
            for r, each in alike:
                if (name := _entity(each.column(self._entity_field), self._entity_field)) is not None:
                    entities[r] = name
        counts = np.array([each.num_rows for _, each in alike], np.int64)
        parsed = Parsed(np.array([r for r, _ in alike], np.int64), counts, x, (), entities, row_times=times)
        return without_infinite(parsed)

    def _matrix(self, table: pa.Table) -> Float32s:
        """[n, d]. Raises Refused."""
        inner = _column(table, _VALUES) if _VALUES not in self._features else None
        if self._strict:
            extra = [name for name in table.column_names if name not in self._known and name != _VALUES]
            if extra:
                raise Refused(UNKNOWN_KEY, f"no feature: {', '.join(extra[:5])}")
        if inner is not None:
            return _rows(inner, len(self._features))
        x = np.full((table.num_rows, len(self._features)), np.nan, np.float32)
        found = False
        for j, name in enumerate(self._features):
            column = _column(table, name)
            if column is not None and not pa.types.is_null(column.type):
                x[:, j] = _numbers(column, name)
                found = True
        if not found:  # such a stream may claim any number of rows
            raise Refused(UNKNOWN_KEY, f"no column is a feature: {', '.join(table.column_names[:5])}")
        return x


def read(value: memoryview) -> pa.Table:
    """The rows of one record, checked; they lie in its bytes. Raises Refused."""
    buffer = pa.py_buffer(value)
    try:
        _refuse_compressed(buffer)
        source = pa.BufferReader(buffer)
        reader = pa.ipc.open_stream(source)
        batches = list(reader)
        for batch in batches:
            batch.validate(full=True)
        if source.tell() < len(value):
            raise Refused(UNPARSEABLE, f"{len(value) - source.tell()} bytes after the end of the stream")
        return pa.Table.from_batches(batches, reader.schema)
    except (pa.ArrowException, ValueError, OSError, EOFError, struct.error, IndexError) as error:
        raise Refused(UNPARSEABLE, f"no Arrow IPC stream: {' '.join(str(error).split())}") from None


def _column(table: pa.Table, name: str) -> pa.ChunkedArray | None:
    """None where there is no such column. Raises Refused where there are two."""
    indices = table.schema.get_all_field_indices(name)
    if len(indices) > 1:
        raise Refused(WRONG_TYPE, f"{len(indices)} columns are called {name[:100]!r}")
    return table.column(indices[0]) if indices else None


def _numbers(column: pa.ChunkedArray, name: str) -> Float32s:
    """[n] NaN where it is null. Raises Refused."""
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise Refused(WRONG_TYPE, f"column {name[:100]!r} holds no numbers, but {str(column.type)[:100]}")
    found: np.ndarray[Any, Any] = column.to_numpy()
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and a reject
        return found.astype(np.float32, copy=False)


def _rows(column: pa.ChunkedArray, width: int) -> Float32s:
    """[n, width] of n lists. Raises Refused."""
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


def _times(column: pa.ChunkedArray, name: str) -> Int64s:
    """[n] In milliseconds, NO_TIME where it is null. Raises Refused."""
    kind = column.type
    missing = column.is_null().to_numpy()
    if pa.types.is_timestamp(kind):
        times, by = _TO_MS[kind.unit]
        told = column.cast(pa.int64()).fill_null(0).to_numpy()
        bad = (told < 0) | (told // by >= LAST_TIME // times)
        found = told // by * times
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        told = column.fill_null(0).to_numpy().astype(np.float64)
        bad = ~((told >= 0) & (told < LAST_TIME))
        told = np.where(bad, 0, told)
        found = np.where(told < LAST_SECOND, told * 1000, told).astype(np.int64)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array([NO_TIME if v is None else milliseconds(v) for v in column.to_pylist()], np.int64)
    else:
        raise Refused(BAD_TIME, f"column {name!r} holds no times, but {str(kind)[:100]}")
    if bad.any():
        raise Refused(BAD_TIME, f"column {name!r}: {told[bad][0]} is no time")
    return np.where(missing, NO_TIME, found)


def _entity(column: pa.ChunkedArray, name: str) -> str | None:
    """The one entity of a record. Raises Refused."""
    found = column.unique().to_pylist()
    if len(found) > 1:
        raise Refused(BAD_ENTITY, f"{len(found)} values of {name} in one record: the rows of a record are one entity's")
    if found[0] is None:
        return None
    if type(found[0]) not in (str, int):
        raise Refused(BAD_ENTITY, f"{name} is neither a string nor an integer")
    told = str(found[0])
    if len(told.encode()) > LONGEST_ENTITY:
        raise Refused(BAD_ENTITY, f"{name} is longer than {LONGEST_ENTITY} bytes")
    return told


def _refuse_compressed(buffer: pa.Buffer) -> None:
    """What a compressed body unpacks to is the sender's to say, and memory is taken for it before it is known to be
    true. Kafka compresses as well.
    """
    messages = pa.ipc.MessageReader.open_stream(pa.BufferReader(buffer))
    while True:
        try:
            message = messages.read_next_message()
        except StopIteration:
            return
        if message.type != "schema" and _is_compressed(bytes(message.metadata)):
            raise Refused(UNPARSEABLE, "its buffers are compressed: leave that to Kafka")


_KIND, _HEADER, _DATA, _COMPRESSION = 1, 2, 1, 3  # fields in Arrow's Message.fbs: of a message, dictionary, batch
_DICTIONARY: Final = 2


def _is_compressed(message: bytes) -> bool:
    """Whether a batch's metadata, a flatbuffer, name a compression: pyarrow does not tell."""
    header = _table(message, _field(message, _table(message, 0), _HEADER))
    if message[_field(message, _table(message, 0), _KIND)] == _DICTIONARY:
        header = _table(message, _field(message, header, _DATA))
    return _field(message, header, _COMPRESSION) != 0


def _table(message: bytes, at: int) -> int:
    found: int = at + struct.unpack_from("<I", message, at)[0]
    return found


def _field(message: bytes, table: int, number: int) -> int:
    """Where it lies; 0 where it is left out."""
    fields = table - struct.unpack_from("<i", message, table)[0]
    if 4 + 2 * number >= struct.unpack_from("<H", message, fields)[0]:
        return 0
    offset: int = struct.unpack_from("<H", message, fields + 4 + 2 * number)[0]
    return table + offset if offset else 0
