"""What is said of each vector, as the value of one record for each input record: `rows` [n, k], those of a record from
`first` to `ends`.
"""

from collections.abc import Sequence

import numpy as np

from worker.template import Number, Template, Text
from worker.vectors import BytesColumn
from worker.vectors.block import Float32s, Int64s


def f32(rows: Float32s, first: Int64s, ends: Int64s) -> BytesColumn:
    size = rows.itemsize * rows.shape[1]
    return BytesColumn(memoryview(rows.tobytes()), first * size, (ends - first) * size)


def json(rows: Float32s, first: Int64s, ends: Int64s) -> BytesColumn:
    """{"rows": [[...], ...]} of each record's rows."""
    n, k = rows.shape
    is_first, is_last = np.zeros(n, bool), np.zeros(n, bool)
    is_first[first], is_last[ends - 1] = True, True
    numbers = [part for j in range(k) for part in (",", Number(j))][1:]
    texts = [BytesColumn.choice(b",", b'{"rows":[', is_first), BytesColumn.choice(b"", b"]}", is_last)]
    told = Template(Text(0), "[", *numbers, "]", Text(1)).render(n, texts, list(rows.T))
    start = told.start[first]
    return BytesColumn(told.buffer, start, told.start[ends - 1] + told.length[ends - 1] - start)


def arrow(rows: Float32s, first: Int64s, ends: Int64s, columns: Sequence[str]) -> BytesColumn:
    """An IPC stream for each record, a column for each of the k."""
    import pyarrow as pa

    batch = pa.RecordBatch.from_arrays([pa.array(column) for column in rows.T.copy()], list(columns))
    told = []
    for begin, end in zip(first.tolist(), ends.tolist(), strict=True):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch.slice(begin, end - begin))
        told.append(sink.getvalue().to_pybytes())
    return BytesColumn.of(told)
