"""The source and the sink work around the bugs of kafka-python 3.0.12 that would break exactly-once delivery."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest
from kafka import KafkaProducer, OffsetAndMetadata, TopicPartition, errors

from tests.brokers import ApacheKafka, Broker
from tests.stage import Stage, until
from worker.blocks import RecordBlock, TopicSet
from worker.kafka import ExactlyOnceSink, Output, Outputs, Rewind, Source

MakeStage = Callable[..., Stage]


def source_of(s: Stage) -> Source:
    return Source(s.settings.kafka, TopicSet.of(s.topics.sensors))


def poll(source: Source, timeout: float, most: int) -> RecordBlock | None:
    """As the worker does: partitions are adopted before their records come."""
    for partition in source.unadopted():
        source.adopt(partition, 0.5)
    return source.poll(timeout, most)


@contextmanager
def another_member(s: Stage) -> Iterator[Source]:
    """Joins the group, and polls in a thread of its own without ever committing."""
    ended = threading.Event()
    with closing(source_of(s)) as source:

        def poll_on() -> None:
            while not ended.is_set():
                with suppress(Rewind):
                    poll(source, 0.1, 10)
                source.rewind()

        thread = threading.Thread(target=poll_on)
        thread.start()
        try:
            yield source
        finally:
            ended.set()
            thread.join()


def poll_some(source: Source, timeout: float = 20) -> RecordBlock:
    """The next block; a rebalance on the way is passed over."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            block = poll(source, 0.2, 1000)
        except Rewind:
            source.rewind()
            continue
        if block is not None:
            return block
    raise AssertionError("no block")


def offsets(block: RecordBlock) -> dict[TopicPartition, OffsetAndMetadata]:
    return {TopicPartition(*block.topics.place(p)): OffsetAndMetadata(end, "", -1) for p, end in block.ends().items()}


def output(s: Stage, value: bytes) -> list[Outputs]:
    return [Outputs.of(s.topics.anomalies, [Output(s.topics.anomalies, value)])]


@pytest.fixture
def pair(stage: MakeStage, apache: Broker) -> Iterator[tuple[Stage, Source, ExactlyOnceSink]]:
    s = stage().make_topics(2)
    source = source_of(s)
    sink = ExactlyOnceSink(s.settings.kafka, source)
    yield s, source, sink
    sink.close()
    source.close()


Pair = tuple[Stage, Source, ExactlyOnceSink]


def test_a_group_of_one_gets_its_partitions_at_every_start(stage: MakeStage, apache: Broker) -> None:
    """A leader that joined before it had the topic's metadata gave nobody any partition, for ever."""
    s = stage().make_topics(3)
    s.send([b"[1]"] * 3)
    for i in range(8):
        s.settings = s.load(OFFNORMAL_KAFKA__GROUP=f"{s.settings.kafka.group}-{i}")
        with closing(source_of(s)) as source:
            assert len(poll_some(source, 10)) > 0


def test_offsets_of_an_aborted_transaction_do_not_go_out_with_the_next(pair: Pair) -> None:
    """Hole 1: kafka-python keeps them pending, so a producer that failed must not be used again."""
    s, source, sink = pair
    s.send([b"a"] * 10, partition=0)
    block = poll_some(source)
    sink.send(output(s, b"void"))
    assert sink._producer is not None
    stranger = source.close_work()._replace(member_id="nobody")
    with pytest.raises(errors.KafkaError):  # the broker refuses a member that it does not know
        sink._producer.send_offsets_to_transaction(dict(offsets(block)), stranger)
    sink.discard()
    source.rewind()
    s.send([b"b"] * 5, partition=1)
    until(lambda: 1 in {int(p) for p in poll_some(source).partition}, 10)
    source.rewind()
    again = poll_some(source)
    sink.send(output(s, b"valid"))
    commit(sink, {p: o for p, o in offsets(again).items() if p.partition == again.partition[0]})
    assert set(s.committed()) == {int(again.partition[0])}
    assert [r.value for r in s.read(s.topics.anomalies)] == [b"valid"]


def test_a_zombie_is_fenced(pair: Pair) -> None:
    """Hole 2 and KIP-447: its place in the group is lost, its offsets and outputs are refused."""
    s, source, sink = pair
    s.send([b"a"] * 10, partition=0)
    block = poll_some(source)
    sink.send(output(s, b"zombie"))
    membership = source._fetched_under
    source._consumer._coordinator.maybe_leave_group(reason="simulates a lost session", timeout_ms=2000)
    with pytest.raises(Rewind):
        commit(sink, offsets(block))  # refused here: the membership has changed
    source.close_work = lambda: membership  # type: ignore[method-assign]
    with pytest.raises(Rewind):
        commit(sink, offsets(block))  # and by the broker, were it not for that
    sink.discard()
    assert s.committed() == {}
    assert s.read(s.topics.anomalies) == []


def test_offsets_of_an_open_transaction_are_waited_for(pair: Pair) -> None:
    """Hole 3: only a read_committed consumer asks for stable offsets when it takes a partition over."""
    s, source, sink = pair
    s.send([b"a"] * 10, partition=0)
    block = poll_some(source)
    assert block.ends() == {0: 10}
    sink.send(output(s, b"in doubt"))
    assert sink._producer is not None
    sink._producer.send_offsets_to_transaction(dict(offsets(block)), source.close_work())
    source.close()
    with closing(source_of(s)) as heir:
        waited = time.monotonic() + 3
        while time.monotonic() < waited:
            assert poll(heir, 0.1, 100) is None, "rows whose offsets are in doubt"
        sink._producer.commit_transaction()
        s.send([b"b"], partition=0)
        assert poll_some(heir).offset.tolist() == [10]


def test_a_commit_whose_answer_is_late_is_neither_lost_nor_done_twice(stage: MakeStage, own_kafka: ApacheKafka) -> None:
    """Hole 4: kafka-python waits without a limit. The broker hangs in mid-commit, and may or may not make it when it
    comes back: it has to be asked.
    """
    s = stage(OFFNORMAL_KAFKA__BOOTSTRAP=own_kafka.bootstrap).make_topics(1)
    s.send([b"a"] * 5)
    with closing(source_of(s)) as source:
        sink = ExactlyOnceSink(s.settings.kafka, source)

        def finish(client: KafkaProducer, ends: Any, membership: Any) -> None:
            client.send_offsets_to_transaction(dict(ends), membership)
            own_kafka.signal(signal.SIGSTOP)  # the request to commit reaches the broker, its answer comes too late
            client.commit_transaction()

        sink._finish = finish  # type: ignore[method-assign]
        for _ in range(3):
            block = poll_some(source)
            sink.send(output(s, b"%d" % block.offset[0]))
            begun = time.monotonic()
            with pytest.raises(Rewind):
                commit(sink, offsets(block))
            assert time.monotonic() - begun < s.settings.kafka.commit_timeout + 1
            own_kafka.signal(signal.SIGCONT)
            again(source, sink)
            s.send([b"b"] * 5)
        del sink._finish
        block = poll_some(source)
        sink.send(output(s, b"%d" % block.offset[0]))
        commit(sink, offsets(block))
        sink.close()
    end = max(s.committed().values())
    assert end == 20
    firsts = sorted(int(record.value) for record in s.read(s.topics.anomalies))
    assert len(firsts) == len(set(firsts)), "an output was committed twice"
    assert firsts[0] == 0 and firsts[-1] < end


def commit(sink: ExactlyOnceSink, ends: Any) -> None:
    sink.commit(ends)
    sink.settle()


def again(source: Source, sink: ExactlyOnceSink) -> None:
    """What the worker does after a Rewind."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        sink.discard()
        with suppress(Rewind):
            sink.recover()
            source.rewind()
            return
    raise AssertionError("no recovery")


def test_rebalance_voids_what_was_begun_before_it(pair: Pair) -> None:
    """Hole 5: in a cooperative rebalance even partitions that stay are fenced for work of the old generation."""
    s, source, sink = pair
    s.send([b"a"] * 4)
    first = poll_some(source)
    sink.send(output(s, b"old generation"))
    with another_member(s) as second:
        with pytest.raises(Rewind):
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                poll(source, 0.1, 10)
        sink.discard()
        source.rewind()

        def shared() -> bool:
            with suppress(Rewind):
                poll(source, 0.1, 1)
            source.rewind()
            return len(source.partitions()) == len(second.partitions()) == 1

        until(shared, 60)
        mine = poll_some(source)
        assert set(mine.partition.tolist()) == set(source.partitions())
        assert min(mine.offset) == 0, "rows of the partition that stayed are read again"
        sink.send(output(s, b"new generation"))
        commit(sink, offsets(mine))
    assert set(s.committed()) == set(mine.ends())
    assert [r.value for r in s.read(s.topics.anomalies)] == [b"new generation"]
    assert len(first) == 4


@pytest.mark.parametrize("pause", [0.1, 0.4, 1.5])
def test_join_that_completes_between_polls_is_not_begun_again(stage: MakeStage, apache: Broker, pause: float) -> None:
    """A leader that was busy whenever its join completed kept itself and the others joining for ever."""
    s = stage().make_topics(2)
    with closing(source_of(s)) as source:
        until(lambda: poll(source, 0.1, 1) is None and source.joined(), 30)
        with another_member(s) as second:

            def shared() -> bool:
                with suppress(Rewind):
                    poll(source, 0.0, 1)
                time.sleep(pause)
                return len(source.partitions()) == len(second.partitions()) == 1 and source.joined()

            until(shared, 30)
            assert source._consumer.group_metadata().generation_id <= 4


def test_start_latest_is_held_fast_at_once(stage: MakeStage, apache: Broker) -> None:
    s = stage(OFFNORMAL_KAFKA__START="latest").make_topics(1)
    s.send([b"before"] * 5)
    with closing(source_of(s)) as source:
        until(lambda: poll(source, 0.2, 10) is None and s.committed() == {0: 5}, 20)
    s.send([b"while away"])
    with closing(source_of(s)) as source:
        assert list(poll_some(source).values) == [b"while away"]


def test_start_at_a_time(stage: MakeStage, apache: Broker) -> None:
    s = stage(OFFNORMAL_KAFKA__START="-1h").make_topics(1)
    s.send([b"now"])
    with closing(source_of(s)) as source:
        assert list(poll_some(source).values) == [b"now"]


def test_static_members_and_their_transactional_ids(stage: MakeStage, apache: Broker) -> None:
    s = stage(OFFNORMAL_KAFKA__INSTANCE_ID="w-0").make_topics(1)
    with closing(source_of(s)) as source:
        sink = ExactlyOnceSink(s.settings.kafka, source)
        assert sink._transactional_id == f"{s.settings.kafka.group}-w-0"
        s.send([b"x"])
        block = poll_some(source)
        assert source._fetched_under.group_instance_id == "w-0"
        commit(sink, offsets(block))
        sink.close()
    assert s.committed() == {0: 1}
