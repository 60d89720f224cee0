"""Kafka's record batches, as a fetch brings them: kafka-python is the slow way."""

import random
import struct
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from tests.faults.fuzz_guarded.mutations import EXTREMES, VARINTS, mutated
from tests.faults.fuzz_guarded.target import Target
from worker.blocks import BytesColumn
from worker.kafka.client import record_batch
from worker.kafka.client.record_batch import Batch


class BatchesTarget(Target):
    _pool: ClassVar[list[tuple[bytes, int]]] = []

    def prepare(self) -> None:
        if not self._pool:
            self._pool.extend(_record_batches(random.Random(0)))

    def step(self) -> int:
        rng, count, parts = self.rng, 0, []
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            data, n = self._pool[rng.randrange(len(self._pool))]
            count += n
            kind = rng.random()
            data = mutated(data, rng, VARINTS, begin=record_batch.HEADER if kind < 0.9 else 0)
            if (
                kind < 0.8 and len(data) >= record_batch.HEADER
            ):  # else the loop that reads records would see few of these
                made = bytearray(data)
                struct.pack_into(">i", made, 8, len(data) - 12)
                if kind < 0.1:
                    struct.pack_into(">I", made, 57, (EXTREMES[rng.randrange(len(EXTREMES))] + n) & 0xFFFFFFFF)
                data = bytes(made)
            parts.append(data)
        column = self.placed(b"".join(parts))
        buffer = np.frombuffer(column.buffer, np.uint8)
        found, end = record_batch.batches(buffer)
        assert 0 <= end <= len(buffer)
        places = [batch._replace(begin=batch.begin + record_batch.HEADER) for batch in found]
        columns, sound = record_batch.records(buffer, places)
        assert sound <= len(found) and len(columns) <= sum(batch.n for batch in found[:sound])
        if len(columns):
            assert columns.starts.min() >= 0 and columns.lengths.min() >= -1
            assert (columns.starts + np.maximum(columns.lengths, 0)).max() <= len(buffer)
            parts_of = [BytesColumn(column.buffer, columns.starts[:, k], columns.lengths[:, k]) for k in range(3)]
            for part in parts_of:
                assert list(part.compact()) == list(part)
            if rng.random() < 0.2:
                self._as_kafka_python(column.buffer, found[:sound], parts_of)
        return count

    def _as_kafka_python(self, data: memoryview, sound: Sequence[Batch], parts: Sequence[BytesColumn]) -> None:
        at = 0
        for batch in sound:
            # kafka-python reads the keys of control records, which nobody here does.
            if not batch.attributes & (record_batch.CODEC | record_batch.CONTROL):
                try:
                    told = [(each.key, each.value) for each in DefaultRecordBatch(bytes(data[batch.begin : batch.end]))]
                except CorruptRecordError as error:
                    if "UnicodeDecodeError" not in str(error):  # an odd name of a header costs nobody anything here
                        raise
                    told = []
                for k, (key, value) in enumerate(told):
                    assert (parts[0][at + k], parts[1][at + k]) == (key, value)
            at += batch.n


def _record_batches(rng: random.Random) -> Iterator[tuple[bytes, int]]:
    for _ in range(400):
        builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 20)
        n = rng.choice([1, 1, 2, 3, 8])
        for k in range(n):
            key, value = (rng.choice([None, b"", rng.randbytes(rng.choice([1, 5, 63, 64, 200]))]) for _ in range(2))
            headers = [(f"h{j}", rng.choice([None, b"", rng.randbytes(9)])) for j in range(rng.choice([0, 0, 0, 1, 3]))]
            builder.append(k * rng.choice([1, 1, 100]), 1_700_000_000_000 + k, key, value, headers)
        yield bytes(builder.build()), n
