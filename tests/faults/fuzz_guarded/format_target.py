"""What the targets of formats share: records are decoded as the worker does, the slow way, and by the loop alone."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from tests.faults.fuzz_guarded.target import Target, column_of
from worker.blocks import BytesColumn
from worker.decoding.event_time import NO_TIME
from worker.decoding.format import Parsed
from worker.decoding.loop_output import Taken

BLOCK: Final = 40  # records that are decoded together
FEATURES: Final = ("a", "b", "c")
NAMED: Final = ("id", "ts")  # entity, time
OPTIONS: Final = ((None, None, False), (*NAMED, False), (*NAMED, True), ("a", None, False))
ZERO: Final = np.zeros(1, np.int64)


def told(parts: Sequence[Parsed]) -> dict[int, Any]:
    """What became of each record: the bits of its rows, its entity and its times; or why it was refused."""
    found: dict[int, Any] = {}
    for part in parts:
        x = np.where(np.isnan(part.x), np.float32(np.nan), part.x)  # there is more than one NaN
        end = 0
        for r, count in zip(part.records.tolist(), part.counts.tolist(), strict=True):
            end += count
            times = [] if part.row_times is None else part.row_times[end - count : end].tolist()
            if times and set(times) == {NO_TIME}:
                times = []
            found[r] = (x[end - count : end].tobytes(), part.entities.get(r), part.times.get(r), times)
        found.update((reject.record, reject.reason) for reject in part.rejects)
    return found


class FormatTarget(Target):
    """A block of records, the last of which ends where memory does, as the worker decodes it and the slow way: both
    give the same. Then the loop has each record alone, most of them at the end of memory: it may leave it, else it
    gives the same again.
    """

    width: int
    form: Any
    reference: Any

    def step(self) -> int:
        values = [self.value() for _ in range(BLOCK)]
        whole = b"".join(values)
        self.journal.note(whole)
        column = column_of(self.memory.ending(whole), list(map(len, values)))
        want = self.compared(column)
        alone = self.alone(values)
        if want is not None:
            for r, each in alone.items():
                assert self.alike(each, want[r]), (values[r], each, want[r])
        return BLOCK

    def value(self) -> bytes:
        raise NotImplementedError

    def compared(self, column: BytesColumn) -> dict[int, Any] | None:
        """What the slow way gives; None where it was not asked."""
        records = np.arange(len(column))
        got, want = told(self.form.decode(column, records)), told(self.slowly(column, records))
        for r in records.tolist():
            assert self.alike(got[r], want[r]), (column[r], got[r], want[r])
        return want

    def slowly(self, column: BytesColumn, records: Any) -> list[Parsed]:
        found: list[Parsed] = self.reference.decode(column, records)
        return found

    def alike(self, got: Any, want: Any) -> bool:
        return bool(got == want)

    def alone(self, values: Sequence[bytes]) -> dict[int, Any]:
        """What the loop takes."""
        taken, good = Taken(len(values), self.width, False), np.zeros(len(values), np.bool_)
        for i, value in enumerate(values):
            mine = slice(i, i + 1)
            if (found := self.parse(value, taken.x[mine], taken.times[mine], taken.names[mine])) is not None:
                good[i] = found[0]
        column = BytesColumn.of(values)
        taken.names += np.where(taken.names > 0, column.start[:, None], 0)
        return told([taken.parsed(column, np.arange(len(values)), good)[0]])

    def parse(self, value: bytes, x: Any, times: Any, names: Any) -> Any:
        """Whether the loop takes it [1]; None where it does not come to it."""
        raise NotImplementedError

    def placed_alone(self, value: bytes) -> Any:
        self.journal.note(value)
        place = self.memory.ending if self.rng.random() < 0.85 else self.memory.beginning
        return np.frombuffer(place(value), np.uint8)
