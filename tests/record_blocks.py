"""Blocks by hand."""

from collections.abc import Mapping, Sequence

import numpy as np

from worker.blocks import BytesColumn, Headers, RecordBlock, TopicSet, VectorBlock
from worker.kafka import Output
from worker.publishing.encoder import EventEncoder
from worker.runtime.pipeline import per_vector
from worker.serving.loaded_model import LoadedModel
from worker.settings import PerVectorOutput


def block_of(
    values: Sequence[bytes | None],
    keys: Sequence[bytes | None] | None = None,
    headers: Mapping[int, Headers] | None = None,
    time: int = 1_700_000_000_000,
) -> RecordBlock:
    n = len(values)
    return RecordBlock(
        TopicSet.of("t"),
        np.zeros(n, np.int64),
        np.arange(n, dtype=np.int64),
        np.full(n, time, np.int64),
        BytesColumn.of(keys or [None] * n),
        BytesColumn.of(values),
        headers or {},
    )


def published(
    encoder: EventEncoder, output: PerVectorOutput, vectors: VectorBlock, resident: LoadedModel
) -> list[Output]:
    """What the worker sends to the topic of `output`."""
    scores = resident.score(vectors.x)
    return encoder.vectors(output, scores, per_vector(output, resident, vectors.x, scores), vectors, resident)
