"""How long a reading holds: learned from the times at which each tag reports."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np

from worker.blocks.reading_block import ReadingBlock
from worker.native.arrays import Float64s, Int64s
from worker.settings import InputSettings

INTERVALS: Final = 3  # a tag that is silent for so many of its longer intervals has no reading any more
_LONGER: Final = 0.99  # quantile of the intervals
LEAST_INTERVALS: Final = 4  # to know a tag's rhythm
UNKNOWN: Final = 86_400.0  # seconds that the reading of a tag holds whose rhythm is not known: it reports rarely
LONGEST: Final = 7 * 86_400.0  # seconds


def hold_times(inputs: InputSettings, learned: Sequence[float], width: int) -> Float64s:
    """Return how long a reading of each feature holds [width], in seconds: as set, as learned, or as by default."""
    if inputs.hold is not None:
        return np.full(width, inputs.hold)
    known = learned if len(learned) else [UNKNOWN] * width
    return np.array([max(hold, inputs.step or 0.0) for hold in known])  # the step may have become longer


def holds_of(stretches: Sequence[Sequence[ReadingBlock]], width: int, step: float) -> Float64s:
    """Return how long a reading of each tag holds [width], in seconds; never less than `step`.

    `stretches` are parts of the topic. It is a multiple of the tag's longer intervals, rounded up to a power of two
    times the step: it is measured, and a little difference must not make another value.
    """
    intervals: list[list[Int64s]] = [[] for _ in range(width)]
    for blocks in stretches:
        parts: dict[tuple[int, int], list[Int64s]] = defaultdict(list)
        for block in blocks:
            entity = block.entity_hash[block.record].astype(np.int64)
            order = np.lexsort((block.time, block.column, entity))
            entities, columns, times = entity[order], block.column[order], block.time[order]
            begins = np.flatnonzero((np.diff(entities, prepend=0) != 0) | (np.diff(columns, prepend=-2) != 0))
            for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), len(order)], strict=True):
                if columns[begin] >= 0:
                    parts[int(entities[begin]), int(columns[begin])].append(times[begin:end])
        for (_, column), times_of in parts.items():
            in_order = np.sort(np.concatenate(times_of))
            apart = in_order[1:] - in_order[:-1]
            intervals[column].append(apart[apart > 0])
    return np.array([_hold(np.concatenate(parts) if parts else np.empty(0, np.int64), step) for parts in intervals])


def _hold(intervals: Int64s, step: float) -> float:
    if len(intervals) < LEAST_INTERVALS:
        return max(UNKNOWN, step)
    longer = float(np.quantile(intervals, _LONGER)) / 1000
    return min(step * 2.0 ** math.ceil(math.log2(max(INTERVALS * longer / step, 1))), max(LONGEST, step))
