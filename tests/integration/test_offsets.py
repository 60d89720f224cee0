"""Which offsets are read from and committed: the broker's current ones, positions instead of last records, and those
that are right after a log was truncated or a topic was created again.
"""

import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer, OffsetAndMetadata, TopicPartition

from tests.brokers import VERSION, ApacheKafka, Broker
from tests.integration.test_source import poll, poll_some, source_of
from tests.stage import Stage, until
from worker.kafka import AtLeastOnceSink, Rewind, Source
from worker.kafka.offset_metadata import OffsetNote

MakeStage = Callable[..., Stage]
# A broker before 4.0 leads on in the same epoch after it was killed, so that what was written since cannot be told from
# what was lost.
KEEPS_EPOCH = VERSION < "4"


def no_state(partition: int, offset: int) -> dict[str, Any]:
    return {}


def commit_all(source: Source, block_ends: dict[int, int]) -> None:
    """As a sink does it, outside of transactions."""
    offsets = source.offsets(block_ends, no_state)
    source.commit(offsets, source.close_work())
    source.committed(offsets)


def drain(source: Source, until_read: int, timeout: float = 30) -> dict[int, list[int]]:
    """Reads and commits until so many records have come. -> partition -> their offsets."""
    found: dict[int, list[int]] = {}
    deadline = time.monotonic() + timeout
    while sum(map(len, found.values())) < until_read:
        assert time.monotonic() < deadline, f"only {found}"
        try:
            block = poll(source, 0.002, 100)
            if block is not None:
                for partition, offset in zip(block.partition.tolist(), block.offset.tolist(), strict=True):
                    found.setdefault(partition, []).append(offset)
                commit_all(source, block.ends())
        except Rewind:
            source.rewind()
    return found


def add_partitions(s: Stage, total: int) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=s.bootstrap)) as admin:
        admin.create_partitions({s.topics.sensors: total})


def notice_partitions(source: Source, total: int) -> None:
    """What the age of its metadata would have the client notice within half a minute."""
    cluster = source._consumer._cluster
    until(lambda: cluster.request_update() and len(cluster.partitions_for_topic(str(source.topics)) or ()) == total, 20)


# -- the committed offset of now


def test_an_adoption_is_told_the_offset_of_now_whatever_was_asked_before(stage: MakeStage, apache: Broker) -> None:
    """A question that went unanswered gave its answer to the next who asked for the same partition: an hour old."""
    s = stage().make_topics(2)
    s.send([b"x"] * 60, partition=0)
    with closing(source_of(s)) as source:
        poll_some(source)
        place = TopicPartition(s.topics.sensors, 0)
        source.commit({place: OffsetAndMetadata(7, "", -1)})
        until(lambda: source.adopt(0, 0.0005) is None, 10, every=0)  # the broker takes longer
        time.sleep(1)
        source.commit({place: OffsetAndMetadata(50, "", -1)})
        adopted = source.adopt(0, 5)
        assert adopted is not None and adopted.offset == 50


# -- positions


@pytest.mark.parametrize("aborted", [False, True])
def test_lag_is_zero_once_all_that_is_committed_was_read(stage: MakeStage, apache: Broker, aborted: bool) -> None:
    """Markers and aborted records lie behind the last record: with last offsets committed they were lag for ever."""
    s = stage(OFFNORMAL_KAFKA__CLIENT="columnar").make_topics(1)
    with closing(KafkaProducer(bootstrap_servers=s.bootstrap, transactional_id=f"{s.topics.sensors}-t")) as producer:
        producer.init_transactions()
        for aborts in [False] + [True, True] * aborted:
            producer.begin_transaction()
            for _ in range(100):
                producer.send(s.topics.sensors, b"x", partition=0)
            producer.flush()
            producer.abort_transaction() if aborts else producer.commit_transaction()
    end = 101 + 202 * aborted
    with closing(source_of(s)) as source:
        drain(source, 100)
        until(lambda: poll(source, 0.1, 100) is None and source.positions() == {0: end}, 20)
        passed = source.passed()
        if passed:
            commit_all(source, passed)
        assert source.passed() == {} and source.lag() == {0: 0}
    assert s.committed() == {0: end}


def test_a_partition_that_rests_has_a_lag_though_no_fetch_tells_its_end(stage: MakeStage, apache: Broker) -> None:
    """A broker tells an idle partition's end once in a fetch session. A client that has dropped that response, since
    its position had moved meanwhile, is never told again.
    """
    s = stage().make_topics(2)
    s.send([b"x"] * 10)
    with closing(source_of(s)) as source:
        drain(source, 10)
    with closing(source_of(s)) as source:
        until(lambda: _is_settled(source, 2), 30)
        for _ in range(10):  # by then the broker has told the ends, whether the client has kept them or not
            source.poll(0.2, 10)
        for state in source._consumer._subscription.assignment.values():
            state.highwater = None
        for _ in range(5):
            source.poll(0.2, 10)
        assert _ends_told(source) == {None}, "a fetch has told the ends: this proves nothing"
        until(lambda: source.lag() == {0: 0, 1: 0}, 15)


def test_a_partition_that_never_had_a_record_has_no_lag(stage: MakeStage, apache: Broker) -> None:
    s = stage().make_topics(3)
    s.send([b"x"] * 10, partition=1)
    with closing(source_of(s)) as source:
        drain(source, 10)
        until(lambda: _is_settled(source, 3) and len(source.lag()) == 3, 15)
        assert source.lag() == {0: 0, 1: 0, 2: 0}


def _ends_told(source: Source) -> set[int | None]:
    """The ends of the partitions by the client's fetches."""
    return {source._consumer.highwater(place) for place in source._consumer.assignment()}


def test_the_leader_epoch_and_the_topic_are_committed_with_the_offset(stage: MakeStage, apache: Broker) -> None:
    s = stage().make_topics(1)
    s.send([b"x"] * 5, partition=0)
    with closing(source_of(s)) as source:
        drain(source, 5)
        place = TopicPartition(s.topics.sensors, 0)
        found = source._consumer.committed(place, metadata=True)
        note = OffsetNote.load(found.metadata)
        assert (found.offset, found.leader_epoch) == (5, 0)
        assert note.topic_id == str(source._consumer._cluster.topic_id(s.topics.sensors))


# -- partitions that are added


def test_a_lone_member_takes_partitions_that_are_added_under_load(stage: MakeStage, apache: Broker) -> None:
    """The group's leader forgot its own join, where that lasted longer than a poll, and stood still for ever."""
    s = stage().make_topics(2)
    s.send([b"x"] * 200)
    with closing(source_of(s)) as source:
        drain(source, 200)
        add_partitions(s, 4)
        notice_partitions(source, 4)
        until(lambda: _partitions(s) == 4, 20)
        for _ in range(20):
            s.send([b"y"] * 20)
            drain(source, 10)
        until(lambda: _is_settled(source, 4), 30)


def _is_settled(source: Source, partitions: int) -> bool:
    try:
        block = poll(source, 0.002, 1000)
        if block is not None:
            commit_all(source, block.ends())
    except Rewind:
        source.rewind()
    return source.joined() and source.partitions() == list(range(partitions)) and not source.unadopted()


def _partitions(s: Stage) -> int:
    s._producer.partitions_for(s.topics.sensors)
    metadata = s._producer._metadata
    metadata.request_update()
    time.sleep(0.2)
    return len(metadata.partitions_for_topic(s.topics.sensors) or ())


@pytest.mark.parametrize("start", ["latest", "-1m"])
def test_partitions_that_are_added_are_read_from_their_first_record(
    stage: MakeStage, apache: Broker, start: str
) -> None:
    s = stage(OFFNORMAL_KAFKA__START=start).make_topics(2)
    with closing(source_of(s)) as source:
        until(lambda: _is_settled(source, 2) and len(source.positions()) == 2, 30)
        add_partitions(s, 4)
        until(lambda: _partitions(s) == 4, 20)
        before = s.send([b"before it is noticed"] * 40)
        notice_partitions(source, 4)
        found = drain(source, 40)
        assert sorted((p, o) for p, offsets in found.items() for o in offsets) == sorted(before)


def test_two_that_begin_at_once_both_begin_where_start_says(stage: MakeStage, apache: Broker) -> None:
    """What the one has committed must not make the other's partitions look like ones that were added later."""
    s = stage(OFFNORMAL_KAFKA__START="latest").make_topics(4)
    s.send([b"of before"] * 40)
    with closing(source_of(s)) as source:
        poll(source, 1, 10)
        place = TopicPartition(s.topics.sensors, 0)
        until(lambda: source.joined(), 20)
        note = OffsetNote(str(source._consumer._cluster.topic_id(s.topics.sensors)), 4).dump()
        source.commit({place: OffsetAndMetadata(10, note, -1)})
        until(lambda: _is_settled(source, 4) and len(source.positions()) == 4, 30)
        assert source.positions() == dict.fromkeys(range(4), 10)


# -- a log that is another one


def test_a_log_that_has_lost_its_end_is_gone_on_from_there_and_nothing_is_repeated(
    stage: MakeStage, own_kafka: ApacheKafka
) -> None:
    s = stage(OFFNORMAL_KAFKA__BOOTSTRAP=own_kafka.bootstrap).make_topics(1)
    s.send([b"x" * 100] * 100, partition=0)
    s.send([b"y" * 100] * 100, partition=0)
    with closing(source_of(s)) as source:
        drain(source, 200)
        lose_end(own_kafka, s.topics.sensors)
        first = send_anew(s, b"z")
        assert 0 < first < 200
        if KEEPS_EPOCH:
            await_truncation(source)
            first = send_anew(s, b"w")
        assert drain(source, 1, 60) == {0: [first]}
        assert source.starts.truncations >= 1  # it may be noticed again after a rebalance
    assert s.committed() == {0: first + 1}


@pytest.mark.parametrize("epoch_known", [True, False])
def test_a_start_notices_that_the_log_has_lost_its_end(
    stage: MakeStage, own_kafka: ApacheKafka, epoch_known: bool
) -> None:
    s = stage(OFFNORMAL_KAFKA__BOOTSTRAP=own_kafka.bootstrap).make_topics(1)
    s.send([b"x" * 100] * 100, partition=0)
    s.send([b"y" * 100] * 100, partition=0)
    with closing(source_of(s)) as source:
        drain(source, 200)
        if not epoch_known:  # as an older version has committed it
            place = TopicPartition(s.topics.sensors, 0)
            found = source._consumer.committed(place, metadata=True)
            source.commit({place: OffsetAndMetadata(200, found.metadata, -1)})
    lose_end(own_kafka, s.topics.sensors)
    first = send_anew(s, b"z")
    with closing(source_of(s)) as source:
        if epoch_known and not KEEPS_EPOCH:
            assert drain(source, 1, 60) == {0: [first]}
        else:  # where both logs part cannot be known: it is gone on at the end
            await_truncation(source)
            more = send_anew(s, b"w")
            assert drain(source, 1, 60) == {0: [more]}
        assert source.starts.truncations >= 1  # it may be noticed again after a rebalance


def await_truncation(source: Source) -> None:
    until(lambda: _is_settled(source, 1) and source.starts.truncations >= 1, 60)


def send_anew(s: Stage, value: bytes) -> int:
    """By a producer that has sent nothing before: a log that is shorter has lost its sequence numbers. -> the offset"""
    with closing(KafkaProducer(bootstrap_servers=s.bootstrap, enable_idempotence=False)) as producer:
        return int(producer.send(s.topics.sensors, value, partition=0).get(60).offset)


def lose_end(kafka: ApacheKafka, topic: str) -> None:
    """As if the machine had lost power before its disk cache was written."""
    time.sleep(1)
    kafka.kill()
    segment = kafka.home / "log" / f"{topic}-0" / f"{0:020d}.log"
    with segment.open("r+b") as file:
        file.truncate(segment.stat().st_size // 2)
    kafka.start()


def test_a_topic_made_anew_is_read_from_its_beginning_even_if_it_is_longer(stage: MakeStage, apache: Broker) -> None:
    s = stage(OFFNORMAL_KAFKA__START="latest").make_topics(1)
    with closing(source_of(s)) as source:
        until(lambda: _is_settled(source, 1) and len(source.positions()) == 1, 30)
        s.send([b"x"] * 5, partition=0)
        drain(source, 5)
        with closing(KafkaAdminClient(bootstrap_servers=s.bootstrap)) as admin:
            admin.delete_topics([s.topics.sensors])
        ends = time.monotonic() + 2
        while time.monotonic() < ends:  # as the worker does
            with suppress(Rewind):
                source.poll(0.1, 100)
        s.make_topics(1)
        until(lambda: _partitions(s) == 1, 20)
        s.send([b"y"] * 20, partition=0)
        found = drain(source, 20, 60)
        assert found == {0: list(range(20))}


def test_an_offset_of_a_former_topic_is_not_believed(stage: MakeStage, apache: Broker) -> None:
    """Made anew while no worker ran, and longer than what was read of the old one."""
    s = stage().make_topics(1)
    s.send([b"x"] * 20, partition=0)
    with closing(source_of(s)) as source:
        poll_some(source)
        former = OffsetNote("00000000-0000-4000-8000-000000000000", None).dump()
        source.commit({TopicPartition(s.topics.sensors, 0): OffsetAndMetadata(7, former, 0)})
    with closing(source_of(s)) as source:
        assert drain(source, 20)[0][0] == 0


# -- at least once


def test_offsets_are_not_committed_by_a_membership_that_came_later(stage: MakeStage, apache: Broker) -> None:
    s = stage(OFFNORMAL_DELIVERY="at_least_once").make_topics(1)
    s.send([b"x"] * 10, partition=0)
    with closing(source_of(s)) as source, closing(AtLeastOnceSink(s.settings.kafka, source)) as sink:
        block = poll_some(source)
        sink.commit(source.offsets(block.ends(), no_state))
        source._consumer._coordinator.request_rejoin()
        until(lambda: source._consumer.poll(timeout_ms=1000) is not None and source.joined(), 20)
        with pytest.raises(Rewind, match="rebalanced"):
            sink.settle()
    assert s.committed() == {}


def test_a_batch_that_the_broker_finds_too_large_is_waited_for_as_its_parts(
    stage: MakeStage, apache: Broker, tmp_path: Path
) -> None:
    """The client's flush waits for the batch as it was: it was redone for ever, and written each time."""
    from tests.integration.test_source import output

    s = stage(OFFNORMAL_DELIVERY="at_least_once").make_topics(1)
    with closing(KafkaAdminClient(bootstrap_servers=s.bootstrap)) as admin:
        from kafka.admin import ConfigResource, ConfigResourceType

        resource = ConfigResource(ConfigResourceType.TOPIC, s.topics.anomalies, configs={"max.message.bytes": "30000"})
        admin.alter_configs([resource])
    s.send([b"x"] * 10, partition=0)
    with closing(source_of(s)) as source, closing(AtLeastOnceSink(s.settings.kafka, source)) as sink:
        block = poll_some(source)
        for i in range(1000):
            sink.send(output(s, b"%05d" % i * 20))
        sink.commit(source.offsets(block.ends(), no_state))
        sink.settle()
    assert [r.value[:5] for r in s.read(s.topics.anomalies)] == [b"%05d" % i for i in range(1000)]
