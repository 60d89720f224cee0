"""`python -m worker replay`: puts dead letters back where they came from, once each, after the cause is fixed.

Its progress is committed in one transaction with the records that it sends. A record that still does not parse becomes
a new dead letter, for the next replay.
"""

import json
from argparse import Namespace
from collections import Counter
from typing import Any, NamedTuple

from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition, errors

from worker.blocks import TopicSet
from worker.blocks.limits import REPLAYED
from worker.decoding.dead_letter_reasons import UNREADABLE
from worker.errors import KafkaUnavailable
from worker.kafka import connection, waits
from worker.kafka.client.produce import sendable
from worker.kafka.errors import FENCED, cause_in, readable_errors
from worker.kafka.topics import record_limits, require
from worker.kafka.unreadable import Patience, Unreadable, guard
from worker.settings import Settings

OURS = "offnormal-"
LEFT_OUT = "offnormal-left-out"
RECORDS_AT_ONCE = 200
TRANSACTION = 10.0  # seconds


def run(settings: Settings, arguments: Namespace) -> int:
    """Put dead letters back, and print how many; return the exit code."""
    topics = settings.topics
    require(settings, reads=[topics.dead_letters, topics.sensors], writes=TopicSet.of(topics.sensors).names)
    with readable_errors("replaying dead letters", settings.kafka.bootstrap):
        counts = _dry_run(settings) if arguments.dry_run else _replay(settings)
    verb = "would be put back" if arguments.dry_run else "put back"
    passed = {name: n for name, n in counts.items() if name != "put back"}
    print(f"{counts['put back']:,} dead letters {verb} into {topics.sensors}")
    for reason, n in passed.items():
        print(f"{n:,} passed over: {reason}")
    if arguments.json:
        print(json.dumps({"put_back": counts["put back"], "passed_over": passed}))
    return 0


def _dry_run(settings: Settings) -> Counter[str]:
    with _Letters(settings) as letters:
        counts: Counter[str] = Counter()
        while letters.poll():
            for letter in letters.found:
                counts[_passed_over(settings, letter) or "put back"] += 1
        return counts


def _replay(settings: Settings) -> Counter[str]:
    # A second replay ends the first one's transaction before it reads how far the first one has come.
    client = connection.producer(
        settings.kafka,
        transactional_id=_group(settings),
        # If the replay is killed, the workers are blocked for this long, and until the broker next checks for timeouts.
        transaction_timeout_ms=int(TRANSACTION * 1000),
        retry_backoff_ms=5,
    )
    try:
        client.init_transactions()
        counts: Counter[str] = Counter()
        with _Letters(settings) as letters, _Originals(settings) as originals:
            while letters.poll():
                # Look up all records before the transaction begins, since its time is limited.
                records = [_restored(settings, letter, originals) for letter in letters.found]
                client.begin_transaction()
                for record in records:
                    if not isinstance(record, str):
                        _send(client, record)
                    counts[record if isinstance(record, str) else "put back"] += 1
                waits.send_offsets(client, letters.offsets(), _group(settings), TRANSACTION)
                waits.commit_transaction(client, TRANSACTION)
        return counts
    except errors.KafkaError as error:
        if cause_in(error, FENCED) is None:
            raise
        raise KafkaUnavailable(
            "another replay of this group has started, and continues from where this one stopped"
        ) from error
    finally:
        client.close(timeout=5)


def _group(settings: Settings) -> str:
    return f"{settings.kafka.group}-replay"


class _Restored(NamedTuple):
    """A record as it was, and where."""

    topic: str

    value: bytes | None
    key: bytes | None
    headers: list[tuple[str, bytes | None]]
    partition: int
    timestamp: int


def _restored(settings: Settings, letter: Any, originals: "_Originals") -> "_Restored | str":
    """Return the record of a letter, or why it is passed over. Raises KafkaUnavailable."""
    passed_over = _passed_over(settings, letter)
    if passed_over:
        return passed_over
    headers = _headers(letter)
    place = TopicPartition(headers["offnormal-topic"], int(headers["offnormal-partition"]))
    original = letter
    if place.topic not in originals.topics:
        return "its topic is gone"
    if LEFT_OUT in headers:
        original = originals.find(place, int(headers["offnormal-offset"]))
        if original is None:
            return "its bytes were left out, and the record is gone"
    if originals.is_too_large(original, place.topic):
        return f"larger than {place.topic} takes, uncompressed"
    replayed = (REPLAYED, f"{letter.topic}/{letter.partition}/{letter.offset}".encode())
    more = [header for header in original.headers if not header[0].startswith(OURS)]
    timestamp = max(int(headers["offnormal-timestamp"]), 0)
    return _Restored(place.topic, original.value, original.key, [*more, replayed], place.partition, timestamp)


def _send(client: KafkaProducer, record: _Restored) -> None:
    # Send it to its original partition, since its order relative to its neighbours may matter.
    has_partition = record.partition in client.partitions_for(record.topic)
    client.send(
        record.topic,
        *sendable(record.value, record.key, record.headers),
        partition=record.partition if has_partition else None,
        timestamp_ms=record.timestamp,
    )


def _passed_over(settings: Settings, letter: Any) -> str | None:
    headers = _headers(letter)
    if headers.get("offnormal-reason") == UNREADABLE:
        return "a batch that cannot be read is no record"
    try:
        for name in ("partition", "offset", "timestamp"):
            int(headers[f"offnormal-{name}"])
    except (KeyError, ValueError):
        return "not by a worker"
    if headers.get("offnormal-topic") not in TopicSet.of(settings.topics.sensors):
        return "of another topic"
    if letter.value is None and LEFT_OUT not in headers:
        return "without a value"
    return None


def _headers(letter: Any) -> dict[str, str]:
    return {name: (value or b"").decode("utf-8", "replace") for name, value in letter.headers if name.startswith(OURS)}


class _Letters:
    """The dead letters that no replay has handled yet, up to the topic's current end."""

    def __init__(self, settings: Settings):
        topic = settings.topics.dead_letters
        self._consumer = connection.consumer(settings.kafka, group_id=_group(settings))
        guard(self._consumer, settings.kafka.unpacked_bytes)
        self._patience = Patience(self._consumer)
        self._places = [TopicPartition(topic, p) for p in waits.partitions_of(self._consumer, topic)]
        self._consumer.assign(self._places)
        self._ends = waits.end_offsets(self._consumer, self._places)
        first = waits.beginning_offsets(self._consumer, self._places)
        committed = waits.committed_offsets(self._consumer, self._places, settings.kafka.startup_timeout)
        for place in self._places:
            begin = committed[place].offset if place in committed else 0
            self._consumer.seek(place, max(begin, first[place]))
        self.found: list[Any] = []

    def poll(self) -> bool:
        """Append more letters to `found`; return False at the end."""
        while any(waits.position(self._consumer, place) < end for place, end in self._ends.items()):
            try:
                records = self._consumer.poll(timeout_ms=500, max_records=RECORDS_AT_ONCE)
            except Unreadable as bad:
                self._patience.gives_up(bad)
                continue
            self.found = [r for place, part in records.items() for r in part if r.offset < self._ends[place]]
            if self.found:
                return True
        return False

    def offsets(self) -> dict[TopicPartition, OffsetAndMetadata]:
        """Return the offsets after what was read."""
        ends: dict[TopicPartition, int] = {}
        for record in self.found:
            ends[TopicPartition(record.topic, record.partition)] = record.offset + 1
        return {place: OffsetAndMetadata(end, "", -1) for place, end in ends.items()}

    def __enter__(self) -> "_Letters":
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close(autocommit=False, timeout_ms=waits.CLOSE * 1000)


class _Originals:
    """Reads records that were too large for a dead letter from their original place."""

    def __init__(self, settings: Settings):
        self._settings = settings.kafka
        self._consumer: KafkaConsumer = connection.consumer(settings.kafka)
        self._limits: dict[str, int] = {}  # bytes of a record, by topic
        self.topics = waits.topics_of(self._consumer)

    def is_too_large(self, record: Any, topic: str) -> bool:
        """Return whether the record is larger than its topic takes: it may have come compressed."""
        if topic not in self._limits:
            self._limits |= record_limits(self._settings, [topic])
        headers = sum(len(name) + len(value or b"") + 10 for name, value in record.headers)
        return len(record.value or b"") + len(record.key or b"") + headers + 200 > self._limits[topic]

    def find(self, place: TopicPartition, offset: int) -> Any:
        """Return the original; None if retention has deleted it. Raises what the client raises."""
        self._consumer.assign([place])
        first, end = (ask(self._consumer, [place])[place] for ask in (waits.beginning_offsets, waits.end_offsets))
        if not first <= offset < end:
            return None
        self._consumer.seek(place, offset)
        for _ in range(20):
            for record in self._consumer.poll(timeout_ms=500, max_records=1).get(place, ()):
                return record if record.offset == offset else None
        raise errors.KafkaTimeoutError(f"{place}: there is no record at offset {offset}, although there should be one")

    def __enter__(self) -> "_Originals":
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close(autocommit=False, timeout_ms=waits.CLOSE * 1000)
