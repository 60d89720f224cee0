"""What a consumer's poll gives, made to a block: as OFFNORMAL_KAFKA__CLIENT says."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from kafka import KafkaConsumer, TopicPartition

from worker.kafka import records
from worker.kafka.connection import is_columnar
from worker.kafka.unreadable import guard
from worker.settings import KafkaSettings
from worker.vectors import RecordBlock


class _BlockOf(Protocol):
    def __call__(self, topic: str, fetched: Mapping[TopicPartition, Sequence[Any]]) -> RecordBlock: ...


class _FirstOffset(Protocol):
    def __call__(self, fetched: Sequence[Any]) -> int: ...


class Blocks(NamedTuple):
    """`block_of` what a poll has given, and the `first_offset` of what it has given of one partition; `of` records what
    a poll would have given of them.
    """

    block_of: _BlockOf
    first_offset: _FirstOffset
    of: Callable[[Sequence[Any]], Sequence[Any]]


def blocks(consumer: KafkaConsumer, settings: KafkaSettings) -> Blocks:
    """For this consumer, from its first poll on."""
    if is_columnar(settings):
        from worker.kafka import columns

        columns.install(consumer, settings.unpacked_bytes)
        return Blocks(columns.block_of, columns.first_offset, columns.chunks)
    guard(consumer, settings.unpacked_bytes)
    return Blocks(records.block_of, records.first_offset, list)
