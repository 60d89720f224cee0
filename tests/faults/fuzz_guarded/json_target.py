"""JSON, as several programs write it; and its numbers by themselves."""

import random
import struct
from collections import deque
from typing import Any

import numpy as np

from tests.faults.fuzz_guarded.format_target import OPTIONS, ZERO, FormatTarget
from tests.faults.fuzz_guarded.mutations import TEXTS, mutated
from worker.blocks import BytesColumn
from worker.decoding.documents import Documents
from worker.decoding.format import FeatureSchema, Parsed
from worker.decoding.json import loop as json_loop
from worker.decoding.json.format import Json, load


class JsonTarget(FormatTarget):
    def prepare(self) -> None:
        self.width = self.rng.choice([1, 2, 3, 3, 4, 9])
        self._features = tuple("abcdefghi"[: self.width])
        options = OPTIONS[self.rng.randrange(len(OPTIONS))]
        schema = FeatureSchema(self._features, *options)
        self.form, self.reference = Json(schema), Documents(schema)
        # Each is written by one of few programs, whose layout the loop is told of: it would else leave most.
        programs = [self.rng.random() for _ in range(3)]
        self._seeds = [self._seed(random.Random(program)) for program in programs * 20]
        self._layouts = []
        for seed in self._seeds[: len(programs)]:
            learner = Json(schema)
            learner._learn(BytesColumn.of([seed]), ZERO)
            self._layouts.append(learner._layout)
        self._written_by: deque[int] = deque()

    def value(self) -> bytes:
        k = self.rng.randrange(len(self._seeds))
        self._written_by.append(k % len(self._layouts))
        return mutated(self._seeds[k], self.rng, TEXTS)

    def slowly(self, column: BytesColumn, records: Any) -> list[Parsed]:
        return self.reference.decode(column, records, load)  # type: ignore[no-any-return]

    def parse(self, value: bytes, x: Any, times: Any, names: Any) -> Any:
        how, buffer = self._layouts[self._written_by.popleft()], self.placed_alone(value)
        length = np.array([len(value)])
        more = how.words, how.masks, how.ends, how.sizes, how.roles, how.closers
        return json_loop.parse(buffer, ZERO, length, *more, x, times, names)

    def _seed(self, program: random.Random) -> bytes:
        """`program` chooses how it is written, and self.rng what."""
        rng = self.rng
        comma, colon = ((",", ":"), (",", ":"), (", ", ": "))[program.randrange(3)]
        numbers = [self.number() for _ in range(self.width)]
        if rng.random() < 0.05:
            numbers[rng.randrange(self.width)] = "null"
        array = f"[{comma.join(numbers)}]"
        kind = program.randrange(8)
        if kind < 3:
            return array.encode()
        if kind == 3:
            return f"[{array}{comma}{array}]".encode()
        named = [f'"id"{colon}"m{rng.randrange(99)}"', f'"ts"{colon}{rng.choice([1, 1.5, 170e10, 1700000000])}']
        parts = named if program.random() < 0.7 else []
        if kind == 4:
            parts.append(f'"values"{colon}{array}')
        else:
            parts += [f'"{name}"{colon}{number}' for name, number in zip(self._features, numbers, strict=True)]
        if program.random() < 0.5:  # a field that nobody wants, the last one too
            odd = rng.choice(["true", "false", "null", "1e5", '"x"'])
            parts.insert(program.randrange(len(parts) + 1), f'"ok"{colon}{odd}')
        return f"{{{comma.join(parts)}}}".encode()

    def number(self) -> str:
        rng = self.rng
        kind = rng.randrange(6)
        if kind == 0:
            return str(rng.randrange(-100, 10 ** rng.randrange(2, 21)))
        if kind == 1:
            return repr(struct.unpack("<f", rng.randbytes(4))[0])
        if kind == 2:
            return f"{rng.gauss(0, 1):.{rng.randrange(20)}e}"
        return f"{rng.gauss(0, 10):.{rng.randrange(1, 8)}f}"


class DigitsTarget(JsonTarget):
    """Short numbers and what looks like them, which are read eight bytes at a time."""

    def number(self) -> str:
        rng = self.rng
        if rng.random() < 0.2:
            return "".join(rng.choices("-+.eE0123456789 ,]}", k=rng.randrange(11)))
        whole = str(rng.randrange(10 ** rng.randrange(1, 9)))
        point = "." + str(rng.randrange(10 ** rng.randrange(1, 8))) if rng.random() < 0.6 else ""
        return "-" * (rng.random() < 0.3) + whole + point
