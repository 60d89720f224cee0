"""What a consumer's poll gives, made to a block: as OFFNORMAL_KAFKA__READER says."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import kafka
import structlog
from kafka import KafkaConsumer, TopicPartition

from worker.kafka import records
from worker.settings import KafkaSettings
from worker.vectors import RecordBlock

log = structlog.get_logger()

# What worker/kafka/columns.py takes the place of is not public: it was compared with these versions of kafka-python.
KNOWN: Final = ("3.0.12",)


class _BlockOf(Protocol):
    def __call__(self, topic: str, fetched: Mapping[TopicPartition, Sequence[Any]]) -> RecordBlock: ...


class _FirstOffset(Protocol):
    def __call__(self, fetched: Sequence[Any]) -> int: ...


class Blocks(NamedTuple):
    """`block_of` what a poll has given, and the `first_offset` of what it has given of one partition."""

    block_of: _BlockOf
    first_offset: _FirstOffset


def blocks(consumer: KafkaConsumer, settings: KafkaSettings) -> Blocks:
    """For this consumer, from its first poll on."""
    if settings.reader == "columns":
        if kafka.__version__ in KNOWN:
            from worker.kafka import columns

            columns.install(consumer)
            return Blocks(columns.block_of, columns.first_offset)
        log.warning("columns_not_used", kafka_python=kafka.__version__, known=KNOWN, consequence="reading is slow")
    return Blocks(records.block_of, records.first_offset)
