"""The templates of JSON documents, and the numbers in them."""

import struct
from typing import Any

import numpy as np

from tests.faults.fuzz_guarded.target import Target
from worker.blocks import BytesColumn
from worker.blocks.json_template import Integer, Number, Template, Text


class TemplateTarget(Target):
    """Documents from columns: what is written ends at a forbidden page, likewise twice."""

    def prepare(self) -> None:
        rng = self.rng
        self._parts: list[Any] = []
        for _ in range(rng.randrange(1, 9)):
            kind = rng.randrange(4)
            constant = rng.choice(["x", '{"id":', "", "☃"])
            self._parts += [constant] if kind == 0 else [(Text, Number, Integer)[kind - 1](rng.randrange(2)), ","]
        if len(self._parts) > 1 and rng.random() < 0.5:  # a number is the last that is written
            del self._parts[-1]
        self._template = Template(*self._parts)

    def step(self) -> int:
        rng = self.rng
        n = rng.choice([1, 1, 2, 9, 40])
        texts = [[b"t" * rng.choice([0, 1, 5, 40]) for _ in range(n)] for _ in range(2)]
        numbers = [[self._number() for _ in range(n)] for _ in range(2)]
        integers = [[rng.choice([0, 9, 10, 2**63 - 1, 10**18, rng.randrange(10**9)]) for _ in range(n)] for _ in "xy"]
        columns = [BytesColumn.of(column) for column in texts]
        made = self._template.render(n, columns, numbers, integers)
        with self.exactly(len(made.buffer)):
            again = self._template.render(n, columns, numbers, integers)
        assert bytes(again.buffer) == bytes(made.buffer)
        for i, document in enumerate(made):
            rest = document or b""
            for part in self._parts:
                if isinstance(part, Number):
                    spelled, _, _ = rest.partition(b",")
                    assert _is_spelled(numbers[part.column][i], spelled), (numbers[part.column][i], spelled)
                elif isinstance(part, Integer):
                    spelled = b"%d" % integers[part.column][i]
                else:
                    spelled = texts[part.column][i] if isinstance(part, Text) else part.encode()
                assert rest.startswith(spelled), (rest, spelled)
                rest = rest[len(spelled) :]
            assert not rest
        return n

    def _number(self) -> float:
        rng = self.rng
        kind = rng.randrange(6)
        if kind == 0:
            return float(struct.unpack("<d", rng.randbytes(8))[0])
        if kind == 1:
            return float(struct.unpack("<f", rng.randbytes(4))[0])
        if kind == 2:
            near = 10.0 ** rng.randrange(-320, 309)
            return float(rng.choice([near, -near, np.nextafter(near, 0), np.nextafter(near, np.inf), near * 9.9999999]))
        if kind == 3:
            return rng.choice([0.0, -0.0, float("nan"), float("inf"), 5e-324, 1.7976931348623157e308, -2.2e-308])
        return rng.gauss(0, 10 ** rng.randrange(-7, 18))


def _is_spelled(value: float, spelled: bytes) -> bool:
    if not np.isfinite(value):
        return spelled == b"null"
    back = float(spelled)
    return abs(back - value) <= max(6e-7 * abs(value), 1e-307)
