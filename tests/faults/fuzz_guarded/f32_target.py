"""Raw float32: numpy is the slow way."""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.faults.fuzz_guarded.format_target import ZERO, FormatTarget, told
from tests.faults.fuzz_guarded.mutations import VARINTS, mutated
from tests.faults.fuzz_guarded.target import LARGEST
from tests.faults.guarded import Guarded
from worker.blocks import BytesColumn
from worker.blocks.vector_block import Reject
from worker.decoding import f32
from worker.decoding.dead_letter_reasons import INFINITE, WRONG_LENGTH
from worker.decoding.f32 import F32
from worker.decoding.format import Parsed


class F32Target(FormatTarget):
    def prepare(self) -> None:
        self.width = self.rng.randrange(1, 5)
        self.form = F32([f"x{j}" for j in range(self.width)])
        self._out = Guarded(LARGEST)

    def value(self) -> bytes:
        rng = self.rng
        data = rng.randbytes(4 * self.width * rng.randrange(1, 5))
        if rng.random() < 0.3:
            data = data[:-4] + struct.pack("<I", rng.choice([0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 1]))
        return mutated(data, rng, VARINTS) if rng.random() < 0.5 else data

    def slowly(self, column: BytesColumn, records: Any) -> list[Parsed]:
        found = []
        for r in records.tolist():
            data = bytes(column.view(r))
            if not data or len(data) % (4 * self.width):
                found.append(self._refused(r, WRONG_LENGTH))
                continue
            x = np.frombuffer(data, "<f4").reshape(-1, self.width)
            one = Parsed(np.array([r]), np.array([len(x)]), x)
            found.append(self._refused(r, INFINITE) if np.isinf(x).any() else one)
        return found

    def _refused(self, r: int, reason: str) -> Parsed:
        nothing = np.zeros(0, np.int64)
        return Parsed(nothing, nothing, np.zeros((0, self.width), np.float32), [Reject(r, reason, "")])

    def alone(self, values: Sequence[bytes]) -> dict[int, Any]:
        found: dict[int, Any] = {}
        for i, value in enumerate(values):
            if value and not len(value) % (4 * self.width):
                out = self._out.last(len(value))
                infinite = f32._rows(self.placed_alone(value), ZERO, np.array([len(value)]), out, out.view(np.uint32))
                assert bytes(out) == value
                if not infinite:
                    x = out.view(np.float32).reshape(-1, self.width)
                    found |= told([Parsed(np.array([i]), np.array([len(x)]), x)])
        return found
