"""Arrow streams, of columns or lists of all kinds: pyarrow is the slow way."""

import random
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa

from tests.faults.fuzz_guarded.format_target import FEATURES, OPTIONS, ZERO, FormatTarget, told
from tests.faults.fuzz_guarded.mutations import VARINTS, mutated
from worker.blocks import BytesColumn
from worker.decoding.arrow import loop as arrow_loop
from worker.decoding.arrow.flatbuffer import prefix_of
from worker.decoding.arrow.format import Arrow
from worker.decoding.event_time import NO_TIME
from worker.decoding.format import FeatureSchema, Parsed
from worker.native.jit import read_only


class ArrowTarget(FormatTarget):
    width = len(FEATURES)
    _pool: ClassVar[list[tuple[bytes, int]]] = []

    def prepare(self) -> None:
        if not self._pool:
            self._pool.extend(_arrow_records(random.Random(0)))
        options = OPTIONS[self.rng.randrange(3)]
        self.form, self.reference = (Arrow(FeatureSchema(FEATURES, *options)) for _ in range(2))
        self.reference._plan = lambda prefix: None
        # Few schemas a chunk: as many are known at a time as a worker knows.
        self._mine = self.rng.sample(self._pool, 6)
        seeds = BytesColumn.of([seed for seed, _ in self._mine])
        self.form.decode(seeds, np.arange(len(seeds)))

    def value(self) -> bytes:
        seed, prefix = self._mine[self.rng.randrange(len(self._mine))]
        return mutated(seed, self.rng, VARINTS, begin=prefix if self.rng.random() < 0.97 else 0)

    def compared(self, column: BytesColumn) -> dict[int, Any] | None:
        return super().compared(column) if self.rng.random() < 0.05 else None  # pyarrow takes its time

    def alike(self, got: Any, want: Any) -> bool:
        """Of a damaged stream the loop does not look at all."""
        return bool(got == want) or (isinstance(want, str) and not isinstance(got, str))

    def alone(self, values: Sequence[bytes]) -> dict[int, Any]:
        found: dict[int, Any] = {}
        for i, value in enumerate(values):
            plan = self.form._plans.get(prefix_of(memoryview(value)))
            if plan is None:
                continue
            buffer = self.placed_alone(value)
            rows, places, names = np.zeros(1, np.int64), np.zeros((1, 3), np.int64), np.zeros((1, 2), np.int64)
            more = plan.n_nodes, plan.n_buffers, plan.columns, self.width, rows, places
            arrow_loop.measure(buffer, ZERO, np.array([len(value)]), read_only(plan.prefix), *more)
            x = np.full((int(rows[0]), self.width), np.nan, np.float32)
            times = np.full(len(x), NO_TIME)
            if rows[0] and arrow_loop.fill(rows, places, plan.columns, x, times, names)[0]:
                begin, end = (names[0] - buffer.ctypes.data if names[0, 0] else _NO_NAME).tolist()
                entities = {} if end == 0 else {i: value[begin:end].decode("ascii")}
                parsed = Parsed(np.array([i]), rows, x, (), entities, row_times=times)
                found |= told([parsed])
        return found


_NO_NAME: Final = np.zeros(2, np.int64)


def _arrow_records(rng: random.Random) -> Iterator[tuple[bytes, int]]:
    """-> the stream, and where its schema ends."""
    kinds = [pa.float32(), pa.float64(), pa.int8(), pa.int16(), pa.int32(), pa.int64()]
    kinds += [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
    times = [pa.int64(), pa.float64(), *(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns"))]
    lists = [pa.list_(pa.float32()), pa.list_(pa.float64()), pa.list_(pa.float32(), 3), pa.list_(pa.float64(), 3)]
    for k in range(300):
        n = rng.randrange(1, 7)
        columns: dict[str, Any] = {}
        if k % 3 == 0:
            rows = [[rng.gauss(0, 1) for _ in FEATURES] for _ in range(n)]
            columns["values"] = pa.array(rows, rng.choice(lists))
        else:
            same = pa.float32() if k % 3 == 1 else None
            for name in FEATURES:
                missing = rng.random() < 0.2
                numbers = [None if missing and rng.random() < 0.4 else rng.randrange(100) for _ in range(n)]
                columns[name] = pa.array(numbers, same or rng.choice(kinds))
        if rng.random() < 0.5:
            columns["ts"] = pa.array([1_700_000_000 + j for j in range(n)], rng.choice(times))
        if rng.random() < 0.5:
            columns["id"] = pa.array([rng.choice(["m1", "", "machine"])] * n)
        if rng.random() < 0.3:
            columns["other"] = pa.array(["x", None, "yz"][: min(n, 3)] + ["w"] * (n - 3))
        batch = pa.record_batch(columns)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        stream = sink.getvalue().to_pybytes()
        yield stream, 8 + int.from_bytes(stream[4:8], "little")
