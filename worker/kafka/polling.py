"""Turns the result of a consumer's poll into a block, by the client that OFFNORMAL_KAFKA__CLIENT selects."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from kafka import KafkaConsumer, TopicPartition

from worker.blocks import RecordBlock, TopicSet
from worker.kafka import records
from worker.kafka.connection import is_columnar
from worker.kafka.unreadable import guard
from worker.settings import KafkaSettings


class _BlockOf(Protocol):
    def __call__(self, topics: TopicSet, fetched: Mapping[TopicPartition, Sequence[Any]]) -> RecordBlock: ...


class _FirstOffset(Protocol):
    def __call__(self, fetched: Sequence[Any]) -> int: ...


class BlockMaker(NamedTuple):
    """Makes blocks of what a poll returns, whichever client it is.

    `block_of` makes one block of a poll's result. `first_offset` returns the first offset of one partition in that
    result. `of` turns records into what a poll would have returned.
    """

    block_of: _BlockOf
    first_offset: _FirstOffset
    of: Callable[[Sequence[Any]], Sequence[Any]]


def block_maker(consumer: KafkaConsumer, settings: KafkaSettings) -> BlockMaker:
    """Prepare the consumer before its first poll, and return the maker of blocks for its polls."""
    if is_columnar(settings):
        from worker.kafka.client import fetch

        fetch.install(consumer, settings.unpacked_bytes)
        return BlockMaker(fetch.block_of, fetch.first_offset, fetch.chunks)
    guard(consumer, settings.unpacked_bytes)
    return BlockMaker(records.block_of, records.first_offset, list)
