"""The even sample of the training window."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings as budget, strategies as st

from tests.record_blocks import block_of
from training.data.window import _EvenSample, _interval
from worker.blocks import VectorBlock
from worker.decoding import Decoder
from worker.settings import InputSettings


def rows(begin: int, end: int) -> VectorBlock:
    data = np.arange(begin, end, dtype="<f4")
    return Decoder(InputSettings(format="f32"), ["a"]).decode(block_of([data.tobytes() or None], time=begin))


@budget(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.lists(st.integers(0, 90), min_size=1, max_size=12))
def test_a_sample_is_bounded_even_and_in_order(limit: int, sizes: list[int]) -> None:
    sample, total = _EvenSample(limit), 0
    for size in sizes:
        block = rows(total, total + size)
        sample.add((block.x, block.time, block.x[:, 0].astype(int) % 3 == 0))
        total += size
    x, times, flags = sample.rows(())
    kept = x[:, 0].astype(int)
    assert sample.seen == total
    assert len(kept) == len(times) == len(flags) <= limit
    assert min(total, max(limit // 2, 1)) <= len(kept)
    assert kept.tolist() == list(range(0, total, sample._stride))
    assert flags.tolist() == (kept % 3 == 0).tolist()


def test_a_sample_below_its_limit_is_everything() -> None:
    sample = _EvenSample(100)
    for begin in (0, 40):
        block = rows(begin, begin + 40)
        sample.add((block.x, block.time, np.ones(40, bool)))
    x, times, flags = sample.rows(())
    assert x[:, 0].tolist() == list(range(80))
    assert times.tolist() == [0] * 40 + [40] * 40
    assert flags.all()


def test_the_interval_is_that_of_the_slowest_entity_that_is_known() -> None:
    def block(key: bytes, times: list[int]) -> VectorBlock:
        data = [np.float32(1).tobytes()] * len(times)
        records = block_of(data, keys=[key] * len(times))
        return Decoder(InputSettings(format="f32"), ["a"]).decode(replace(records, timestamp=np.array(times, np.int64)))

    fast = block(b"fast", [1000 * i for i in range(50)])
    slow = [block(b"slow", [3_600_000 * i for i in part]) for part in (range(2, 5), range(8, 12))]
    once = block(b"once", [0, 9_000_000_000])
    assert _interval([[fast]]) == 1
    assert _interval([[fast, *slow, once]]) == 3600
    assert _interval([[once]]) == _interval([]) == 0
    few = [block(b"m%d" % i, [3_600_000 * k + i for k in range(2)]) for i in range(5)]
    assert _interval([few]) == 3600, "each is seen too rarely, together they are not"
    wrong = block(b"wrong", [10**11 * i for i in range(10)])
    assert _interval([[fast, wrong]]) == 7 * 86_400
    assert _interval([[wrong, *(block(b"f%d" % i, [1000 * k for k in range(9)]) for i in range(12))]]) == 1


def test_a_sample_of_nothing_is_what_stands_for_nothing() -> None:
    nothing = (np.empty((0, 3)),)
    assert _EvenSample(10).rows(nothing) is nothing
