"""Encodes values of each vector: one record for each input record, with its `rows` [n, k].

The catalogue of formats (worker/settings/formats.py) names the function of each format.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

import numpy as np

from worker.blocks import BytesColumn
from worker.blocks.json_template import Number, Template, Text
from worker.native.arrays import Float32s, Int64s
from worker.settings.formats import FORMATS


class VectorRows(NamedTuple):
    """The values [n, k] of n vectors, for one output topic.

    Record i has the rows from first[i] to ends[i]; `columns` names the k values.
    """

    values: Float32s
    first: Int64s
    ends: Int64s
    columns: Sequence[str]
    avro_head: bytes | None = None  # how each record begins, if they are written as Avro


def write(rows: VectorRows, format: str) -> tuple[BytesColumn, bytes]:
    """Return the records' values in a format, and the content type that says so."""
    spec = FORMATS[format]
    assert spec.writer is not None
    module, _, name = spec.writer.partition(":")
    values: BytesColumn = getattr(import_module(module), name)(rows)
    return values, spec.content_types[0].encode()


def f32(rows: VectorRows) -> BytesColumn:
    """Return the rows as raw little-endian float32."""
    size = rows.values.itemsize * rows.values.shape[1]
    return BytesColumn(memoryview(rows.values.tobytes()), rows.first * size, (rows.ends - rows.first) * size)


def json(rows: VectorRows) -> BytesColumn:
    """Return {"rows": [[...], ...]} of each record's rows."""
    first, ends = rows.first, rows.ends
    n, k = rows.values.shape
    is_first, is_last = np.zeros(n, bool), np.zeros(n, bool)
    is_first[first], is_last[ends - 1] = True, True
    numbers = [part for j in range(k) for part in (",", Number(j))][1:]
    texts = [BytesColumn.choice(b",", b'{"rows":[', is_first), BytesColumn.choice(b"", b"]}", is_last)]
    written = Template(Text(0), "[", *numbers, "]", Text(1)).render(n, texts, list(rows.values.T))
    start = written.start[first]
    return BytesColumn(written.buffer, start, written.start[ends - 1] + written.length[ends - 1] - start)


def arrow(rows: VectorRows) -> BytesColumn:
    """Return an IPC stream for each record, with a column for each of the k values."""
    import pyarrow as pa

    batch = pa.RecordBatch.from_arrays([pa.array(column) for column in rows.values.T.copy()], list(rows.columns))
    streams = []
    for begin, end in zip(rows.first.tolist(), rows.ends.tolist(), strict=True):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch.slice(begin, end - begin))
        streams.append(sink.getvalue().to_pybytes())
    return BytesColumn.of(streams)
