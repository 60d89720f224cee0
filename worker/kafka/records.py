"""The plain way to read: kafka-python's records -> a block of columns."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from kafka import TopicPartition

from worker.blocks import BytesColumn, RecordBlock, TopicSet


def int64(value: int | None) -> int:
    """Return `value` bounded to 64 bits; -1 for None, since the oldest batches have no time.

    The values of a malformed batch may exceed 64 bits, since they are sums of two numbers of 64 bits.
    """
    return -1 if value is None else min(max(value, -(1 << 63)), (1 << 63) - 1)


def first_offset(fetched: Sequence[Any]) -> int:
    """Return the first offset of what a poll returned of one partition."""
    offset: int = fetched[0].offset
    return offset


def block_of(topics: TopicSet, fetched: Mapping[TopicPartition, Sequence[Any]]) -> RecordBlock:
    """Return one block of a poll's result."""
    records = list(chain.from_iterable(fetched.values()))
    n = len(records)
    sizes = [len(part) for part in fetched.values()]
    return RecordBlock(
        topics=topics,
        partition=np.repeat(np.array([topics.number(*place) for place in fetched], np.int64), sizes),
        offset=np.fromiter((int64(r.offset) for r in records), np.int64, n),
        timestamp=np.fromiter((int64(r.timestamp) for r in records), np.int64, n),
        keys=BytesColumn.of([r.key for r in records]),
        values=BytesColumn.of([r.value for r in records]),
        headers={i: r.headers for i, r in enumerate(records) if r.headers},
    )
