"""All waits on the brokers, with their limits: a request to a broker goes through this module or is listed here.

    what                                      limit, seconds                             then
    connecting, first topics' metadata        OFFNORMAL_KAFKA__STARTUP_TIMEOUT           the process ends (exit code 4)
    a poll                                    as its caller says, at most 1              the loop turns
    offsets of a log: ends, beginnings, times ASK, or as the caller says                 KafkaTimeoutError
    committed offsets                         as the caller says, at most 1 in the loop  asked again by the next turn
    topics, and partitions of a topic         ASK                                        KafkaTimeoutError
    a position                                POSITION                                   KafkaTimeoutError
    outputs, offsets, the end of a commit     half of the session timeout, at most 5     Rewind
    a decision in the registry                DECISION                                   an error that can be read
    a record with trims                       following.WRITE, for each step             written with the next ones
    an admin client's question                kafka-python's 30                          an error that can be read
    topics that another process creates       ASK                                        an error that can be read
    closing a client                          CLOSE                                      it is left to its own end
    a token for OAUTHBEARER                   oauth.TIMEOUT                              a new connection is tried
    a request for AWS's credentials           msk_iam.TIMEOUT                            a new connection is tried
    a ticket of Kerberos                      as krb5.conf says                          a new connection is tried

kafka-python waits without any limit for a topic's metadata and for the end of a transaction, and 30 s for offsets. It
also relies on outdated information. A client that is not polled keeps asking a broker that no longer leads a partition.
The late response to a request for committed offsets is given to the next caller. So here, metadata is refreshed after a
missing response, and old requests are dropped before a new one is made.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition, errors
from kafka.structs import OffsetAndTimestamp

from worker.blocks import TopicSet

ASK: Final = 10.0
POSITION: Final = 1.0
CLOSE: Final = 2.0
DECISION: Final = 30.0
_FIRST: Final = 0.25  # seconds of the first try within a limit; each further try takes twice as long
_PAUSE: Final = 0.05  # between two of them


def end_offsets(
    consumer: KafkaConsumer, places: Iterable[TopicPartition], timeout: float = ASK
) -> dict[TopicPartition, int]:
    """Return the end offset of each: for a read_committed consumer, the offset after the last decided record.

    Raises KafkaTimeoutError, also where a partition has no leader.
    """
    return _offsets(consumer, consumer.end_offsets, list(places), timeout)


def beginning_offsets(
    consumer: KafkaConsumer, places: Iterable[TopicPartition], timeout: float = ASK
) -> dict[TopicPartition, int]:
    """Return the first offset of each that is still there. Raises KafkaTimeoutError."""
    return _offsets(consumer, consumer.beginning_offsets, list(places), timeout)


def offsets_for_times(
    consumer: KafkaConsumer, places: Iterable[TopicPartition], time_ms: int, timeout: float = ASK
) -> dict[TopicPartition, OffsetAndTimestamp | None]:
    """Return the first record of each that is not before `time_ms`; None where there is none. Raises KafkaTimeoutError.

    Each one is asked for separately. Asked for several, kafka-python also returns None for one without a leader.
    """
    deadline = time.monotonic() + timeout
    offsets: dict[TopicPartition, OffsetAndTimestamp | None] = {}
    for place in places:

        def ask(timeout_ms: float, place: TopicPartition = place) -> Any:
            return consumer.offsets_for_times({place: time_ms}, timeout_ms=timeout_ms)

        offsets |= _persistently(consumer._cluster, ask, deadline - time.monotonic(), place.topic)
    return offsets


def committed_offsets(
    consumer: KafkaConsumer, places: Iterable[TopicPartition], timeout: float
) -> dict[TopicPartition, OffsetAndMetadata]:
    """Return what the group has committed, as of now, for those partitions that have a commit.

    Raises KafkaTimeoutError, also while an open transaction holds them in doubt.
    """
    coordinator = consumer._coordinator
    # kafka-python keeps an unanswered request by its set of partitions, and gives the response, however old, to the
    # next request for the same set. An offset of an hour ago would be taken for the current one.
    coordinator._offset_fetch_futures.clear()
    committed: Mapping[TopicPartition, OffsetAndMetadata] = coordinator.fetch_committed_offsets(
        list(places), timeout_ms=max(timeout, 0.001) * 1000
    )
    return {place: offset for place, offset in committed.items() if offset is not None and offset.offset >= 0}


def partitions_of(consumer: KafkaConsumer, topic: str, timeout: float = ASK) -> list[int]:
    """Return the partitions of a topic, none where it is not there. Raises KafkaTimeoutError."""
    cluster = consumer._cluster
    deadline = time.monotonic() + timeout
    answers = 0
    # Two answers, since the first may have been asked for before the topic was added.
    while (partitions := cluster.partitions_for_topic(topic)) is None and answers < 2:
        cluster.add_topic(topic)
        answers += _metadata_arrived(consumer, deadline, f"no metadata of {topic} within {timeout:g} s")
    return sorted(partitions or ())


def topics_of(consumer: KafkaConsumer, timeout: float = ASK) -> set[str]:
    """Return the names of all topics of the cluster that may be looked at. Raises KafkaTimeoutError."""
    cluster = consumer._cluster
    deadline = time.monotonic() + timeout
    before, cluster.need_all_topic_metadata = cluster.need_all_topic_metadata, True
    try:
        answers = 0
        while answers < 2:  # the first may have been asked for before, and for some topics only
            answers += _metadata_arrived(consumer, deadline, f"no list of topics within {timeout:g} s")
        return set(cluster.topics())
    finally:
        cluster.need_all_topic_metadata = before


def places_of(consumer: KafkaConsumer, topics: TopicSet, timeout: float = ASK) -> list[TopicPartition]:
    """Return the partitions of all topics, none of one that is not there. Raises KafkaTimeoutError."""
    names = topics.names or topics.among(topics_of(consumer, timeout))
    for name in names:  # later metadata is asked for the topics that the client knows
        consumer._cluster.add_topic(name)
    return [TopicPartition(name, p) for name in names for p in partitions_of(consumer, name, timeout)]


def await_topics(consumer: KafkaConsumer, topics: TopicSet, timeout: float) -> None:
    """Wait until the client knows all topics that are named, or one that a pattern matches. Raises KafkaTimeoutError.

    A group leader that does not know a topic assigns no partition to anybody. kafka-python does not notice when the
    metadata arrives, and the group would be stuck.
    """
    deadline = time.monotonic() + timeout
    while True:
        known_topics = {place.topic for place in places_of(consumer, topics, timeout)}
        if known_topics and known_topics.issuperset(topics.names):
            return
        if time.monotonic() > deadline:
            raise errors.KafkaTimeoutError("the topic is not there")
        time.sleep(0.1)


def _metadata_arrived(consumer: KafkaConsumer, deadline: float, otherwise: str) -> bool:
    """Ask for metadata once; return whether a broker has answered. Raises KafkaTimeoutError after the deadline."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise errors.KafkaTimeoutError(otherwise)
    try:
        consumer._net.run(consumer._manager.wait_for, consumer._cluster.request_update(), left * 1000)
    except (errors.UnknownTopicOrPartitionError, errors.LeaderNotAvailableError):
        return True
    except errors.RetriableError:
        time.sleep(min(_PAUSE, left))
        return False
    return True


def refresh_metadata(consumer: KafkaConsumer, places: Iterable[TopicPartition], timeout: float = ASK) -> None:
    """Ask the leaders of these partitions for metadata. Raises KafkaTimeoutError.

    A broker that serves the log of a topic that was created again knows the topic's new id.
    """
    cluster = consumer._cluster
    leaders = {cluster.leader_for_partition(place) for place in places} - {None, -1}
    for node in [*leaders, *leaders]:  # the first response may belong to an earlier request to another broker
        consumer._net.run(
            consumer._manager.wait_for, consumer._manager.call_soon(cluster.refresh_metadata, node), timeout * 1000
        )


def position(consumer: KafkaConsumer, place: TopicPartition, timeout: float = POSITION) -> int:
    """Return the offset that is read next. Raises KafkaTimeoutError where that is not known in time."""
    offset: int | None = consumer.position(place, timeout_ms=timeout * 1000)
    if offset is None:
        raise errors.KafkaTimeoutError(f"no position in {place.topic}/{place.partition} within {timeout:g} s")
    return offset


def commit_transaction(producer: KafkaProducer, timeout: float) -> None:
    """Commit the open transaction. Raises KafkaTimeoutError, after which it may or may not be committed."""
    _end_within(producer, producer._transaction_manager.begin_commit(), timeout)


def send_offsets(
    producer: KafkaProducer, offsets: Mapping[TopicPartition, OffsetAndMetadata], group: Any, timeout: float
) -> None:
    """Make offsets part of the open transaction. Raises KafkaTimeoutError.

    `group` is a group's name, or a membership in it.
    """
    _end_within(producer, producer._transaction_manager.send_offsets_to_transaction(dict(offsets), group), timeout)


def _end_within(producer: KafkaProducer, result: Any, timeout: float) -> None:
    # KafkaProducer's methods of these names wait for ever, even when the producer has been closed meanwhile.
    producer._sender.wakeup()
    if not result.wait(int(timeout * 1000)):
        raise errors.KafkaTimeoutError("the transaction's coordinator does not answer")


def _offsets(
    consumer: KafkaConsumer, ask: Callable[..., Any], places: Sequence[TopicPartition], timeout: float
) -> dict[TopicPartition, int]:
    if not places:
        return {}
    names = ", ".join(sorted({place.topic for place in places}))
    offsets: dict[TopicPartition, int] = _persistently(
        consumer._cluster, lambda timeout_ms: ask(places, timeout_ms=timeout_ms), timeout, names
    )
    return offsets


def _persistently(cluster: Any, ask: Callable[..., Any], timeout: float, purpose: str) -> Any:
    """Ask again and again, with new metadata each time, for `timeout` seconds in all. Raises KafkaTimeoutError."""
    deadline, patience = time.monotonic() + timeout, _FIRST
    while True:
        left = deadline - time.monotonic()
        try:
            return ask(timeout_ms=max(min(left, patience), 0.001) * 1000)
        except KeyError as error:  # kafka-python leaves out a partition without a leader, and then fails on it
            why: Exception = errors.KafkaTimeoutError(f"{purpose}: a partition has no leader")
            why.__cause__ = error
        except errors.RetriableError as error:
            why = error
        cluster.request_update()
        left = deadline - time.monotonic()
        if left <= 0:
            raise errors.KafkaTimeoutError(f"{purpose}: no offsets within {timeout:g} s ({why})") from why
        time.sleep(min(_PAUSE, left))
        patience *= 2
