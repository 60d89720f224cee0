"""The encoder of Kafka's record batches: what it writes is read back."""

from typing import Final

import numpy as np

from tests.faults.fuzz_guarded.target import LARGEST, Target, column_of
from tests.faults.guarded import Guarded
from worker.blocks import BytesColumn
from worker.kafka.client import record_batch
from worker.kafka.client.produce import _encode, _murmur2
from worker.kafka.client.record_batch import Batch
from worker.kafka.outputs import Outputs, encode_headers

_SIZES: Final = (-1, 0, 1, 2, 3, 4, 5, 30, 62, 63, 64, 65, 127, 128, 300)


class ProduceTarget(Target):
    """The encoder of record batches: keys, values and headers each end at a forbidden page, and so does what it writes:
    once in as many bytes as it asks for, once in as many as it takes.
    """

    def prepare(self) -> None:
        self._memories = [self.memory, Guarded(LARGEST), Guarded(LARGEST)]
        self._noise = self.rng.randbytes(20_000)

    def step(self) -> int:
        rng = self.rng
        # The number of a record within its batch takes two bytes from the 65th on, three from the 8193rd on.
        n = rng.choice([1, 1, 2, 3, 5, 8, 70]) if rng.random() < 0.9998 else 8200
        usual = _SIZES if n < 100 else _SIZES[:3]
        sizes = [[usual[rng.randrange(len(usual))] for _ in range(n)] for _ in range(2)]
        if n < 8 and rng.random() < 0.01:
            sizes[rng.randrange(2)][rng.randrange(n)] = rng.choice([8191, 8192, 16_383, 16_384])
        headers = [self._headers() for _ in range(n)]
        sizes.append([-1 if each is None else len(each) for each in headers])
        texts = [self._noise[: sum(max(size, 0) for size in of)] for of in sizes[:2]]
        if max(map(len, texts)) == len(self._noise):  # it has no more
            return 0
        texts.append(b"".join(each or b"" for each in headers))
        keys, values, told = (
            column_of(memory.ending(text), of) for memory, text, of in zip(self._memories, texts, sizes, strict=True)
        )
        outputs = Outputs("t", keys, values, told)
        hashes = np.empty(n, np.int64)
        _murmur2(np.frombuffer(keys.buffer, np.uint8), keys.start, keys.length, hashes)
        rows = np.arange(n) if rng.random() < 0.5 else np.array(sorted(rng.sample(range(n), rng.randrange(1, n + 1))))
        encoded = bytes(_encode(outputs, rows))
        with self.exactly(len(encoded)):
            assert bytes(_encode(outputs, rows)) == encoded
        batch = Batch(0, len(encoded), 0, 0, 0, 0, len(rows) - 1, 0, 0, -1, len(rows))
        columns, sound = record_batch.records(np.frombuffer(encoded, np.uint8), [batch])
        assert sound == 1 and columns.offset.tolist() == list(range(len(rows)))
        for k, given in enumerate((keys, values, told)):
            column = BytesColumn(columns.buffer.data, columns.starts[:, k], columns.lengths[:, k])
            assert list(column) == [given[i] for i in rows.tolist()]
        return len(rows)

    def _headers(self) -> bytes | None:
        rng = self.rng
        if rng.random() < 0.5:
            return None
        return encode_headers([("h" * rng.randrange(9), rng.choice([None, b"", b"value"]))] * rng.choice([0, 1, 3]))
