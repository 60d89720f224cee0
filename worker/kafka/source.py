"""The source: sensor records in columnar blocks.

With OFFNORMAL_KAFKA__CLIENT=public, kafka-python's own classes read the records. With `columnar`, the data that
kafka-python has fetched is decoded directly, which is ten times as fast. The blocks are the same.

The exactly-once guarantee rests on two rules. A block is handed out with the membership under which it was fetched.
Once the membership has changed, all work that is not yet committed is void (`Rewind`). In a cooperative rebalance,
partitions are revoked only after the new generation is in place. So the broker fences everything that was begun under
the old generation, even for partitions that stay.

A partition that is new, or is read again after a Rewind, is handed out only after it was adopted. Adoption restores the
state that is stored with its committed offset. Records before that offset may be read back to fill windows (`history`).

The committed offset is the consumer's position, which may be beyond the last record. Markers and aborted records of
transactions, and gaps that compaction has left, have offsets too.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import structlog
from kafka import ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition, errors
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.base import MemberState

from worker.blocks import RecordBlock, TopicSet
from worker.kafka import waits
from worker.kafka.client import internals
from worker.kafka.connection import consumer
from worker.kafka.errors import FATAL, Rewind, readable, readable_errors
from worker.kafka.lag import Lag
from worker.kafka.polling import block_maker
from worker.kafka.start_offsets import Committed, Marks, StartOffsets
from worker.kafka.unreadable import Patience, Unreadable
from worker.native.arrays import Bools
from worker.settings import KafkaSettings

log = structlog.get_logger()

# During a rebalance no records can arrive, so wait for its end inside of one poll.
REBALANCE_POLL: Final = 1.0
# A join waits this long for members that do not poll, and a little longer for an unresponsive coordinator.
POLL_INTERVAL: Final = 60.0
SAY_EVERY: Final = 5.0  # seconds between two log lines about failed reads


class Source:
    """Reads topics as a member of the consumer group. Used by one thread.

    Partitions are numbered as blocks have them (worker/blocks/topic_set.py).
    """

    def __init__(self, settings: KafkaSettings, topics: TopicSet):
        self._settings = settings
        self.topics = topics
        self._consumer = consumer(
            settings,
            group_id=settings.group,
            group_instance_id=settings.instance_id,
            session_timeout_ms=int(settings.session_timeout * 1000),
            fetch_max_bytes=settings.fetch_bytes,
            max_partition_fetch_bytes=settings.fetch_bytes,
            heartbeat_interval_ms=int(settings.session_timeout * 1000 / 5),
            partition_assignment_strategy=[CooperativeStickyAssignor],
            max_poll_interval_ms=int(max(POLL_INTERVAL, settings.session_timeout) * 1000),
        )
        self._blocks = block_maker(self._consumer, settings)
        self._patience = Patience(self._consumer)
        internals.pace_lookups(self._consumer)
        internals.keep_joins(self._consumer)
        if topics.pattern is None:
            self._consumer.subscribe(topics.names, listener=_Listener(self))
        else:  # kafka-python's patterns match the beginning of a name
            self._consumer.subscribe(pattern=rf"(?:{topics})\Z", listener=_Listener(self))
        with readable_errors(f"looking for {topics}", settings.bootstrap):
            waits.await_topics(self._consumer, topics, settings.startup_timeout)
        self._marks = Marks()
        self.starts = StartOffsets(self._consumer, settings, topics, self._marks, self.commit)
        self._revoked: set[TopicPartition] = set()
        self._fetched_under: Any = None  # membership of the uncommitted records; None without any
        self._said_at = 0.0
        self._lag = Lag(self._consumer, topics, self._marks)
        self.rebalances = 0

    # -- reading

    def poll(self, timeout: float, max_records: int) -> RecordBlock | None:
        """Return the next block, of at most `max_records` records; None if none arrives within `timeout` seconds.

        Raises Rewind where the membership has changed under uncommitted work, KafkaUnavailable where no retry helps.
        Waits for a broker that is away.
        """
        internals.finish_join(self._consumer)
        if internals.joins(self._consumer):
            timeout = max(timeout, REBALANCE_POLL)
        try:
            fetched = self._fetch(timeout, max_records)
        except FATAL as error:
            raise readable(error, "reading", self._settings.bootstrap) from error
        except errors.KafkaError as error:
            self._log_failure(error)
            time.sleep(min(timeout, 1.0))
            return None
        membership = self._consumer.group_metadata()
        self.starts.look_at_topics()
        for partition in self._marks.unadopted.intersection(fetched):
            self._consumer.seek(partition, self._blocks.first_offset(fetched.pop(partition)))
        for partition, records in fetched.items():
            self._marks.resume.setdefault(partition, self._blocks.first_offset(records))
        if self._fetched_under is not None and not _same(membership, self._fetched_under):
            raise Rewind("the group has rebalanced under uncommitted work")
        if not fetched:
            return None
        if membership.generation_id < 0:
            raise Rewind("this worker has lost its place in the group")
        block = self._blocks.block_of(self.topics, fetched)
        history = self.history(block)
        if history is None or not history.all():
            self._fetched_under = membership
        return block

    def _fetch(self, timeout: float, max_records: int) -> dict[TopicPartition, Sequence[Any]]:
        try:
            fetched: dict[TopicPartition, Sequence[Any]] = self._consumer.poll(
                timeout_ms=int(timeout * 1000), max_records=max_records
            )
            return fetched
        except errors.NoOffsetForPartitionError as error:
            self.starts.begin(error.args[0])
        except errors.OffsetOutOfRangeError as error:
            self.starts.out_of_range(error.args[0])
        except errors.LogTruncationError as error:
            self.starts.truncated(error.divergent_offsets)
        except Unreadable as bad:
            if self._patience.gives_up(bad):
                return {bad.place: self._blocks.of([bad.record()])}
        return {}

    def _log_failure(self, error: Exception) -> None:
        now = time.monotonic()
        if now >= self._said_at + SAY_EVERY:
            self._said_at = now
            log.warning("kafka_read_failed", error=str(error))

    def rewind(self) -> None:
        """Read uncommitted records again: every owned partition has to be adopted again."""
        self._fetched_under = None
        self._marks.unadopted = set(self._consumer.assignment())

    def unadopted(self) -> list[int]:
        """Return the owned partitions that wait to be adopted."""
        return self._numbers(self._marks.unadopted)

    def revoked(self) -> list[int]:
        """Return the partitions that were revoked since the last call."""
        revoked, self._revoked = self._revoked, set()
        return self._numbers(revoked)

    def adopt(self, partition: int, timeout: float) -> Committed | None:
        """Continue at the committed offset; return None if it is not known within `timeout` seconds.

        It is unknown while an open transaction leaves offsets in doubt. The broker is asked each time, since a commit
        may have succeeded even if its response was lost.
        """
        place = self._place(partition)
        try:
            stored = waits.committed_offsets(self._consumer, [place], timeout).get(place)
            committed = self.starts.go_on(place, stored)
        except FATAL as error:
            raise readable(error, "reading committed offsets", self._settings.bootstrap) from error
        except errors.KafkaError as error:
            log.debug("committed_offset_awaited", partition=self.topics.shown(partition), error=str(error))
            return None
        self._marks.unadopted.discard(place)
        self._marks.history.pop(place, None)
        return committed

    def leave(self, partition: int) -> None:
        """Mark the partition as not adopted, so that it is tried again."""
        self._marks.unadopted.add(self._place(partition))

    def replay(self, partition: int, begin: int, end: int) -> int:
        """Read `partition` again from `begin`, or from the earliest record; return the actual begin. Raises Rewind.

        The records before `end` are history.
        """
        place = self._place(partition)
        try:
            begin = max(begin, waits.beginning_offsets(self._consumer, [place])[place])
            if begin < end:
                self._consumer.seek(place, begin)
                self._marks.history[place] = end
        except FATAL as error:
            raise readable(error, "reading back", self._settings.bootstrap) from error
        except errors.KafkaError as error:
            self._marks.unadopted.add(place)
            raise Rewind(f"reading back was not possible: {error}") from error
        return begin

    def history(self, block: RecordBlock) -> Bools | None:
        """Return which records [n] were scored before and are only read back; None if none were."""
        if not self._marks.history:
            return None
        old = np.zeros(len(block), bool)
        for place, end in self._marks.history.items():
            old |= (block.partition == self.topics.number(*place)) & (block.offset < end)
        return old if old.any() else None

    # -- committing

    def offsets(
        self, ends: Mapping[int, int], state: Callable[[int, int], Mapping[str, Any]]
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """Return the offsets to commit once all records before `ends` (partition -> offset) are processed.

        These are the positions after those records, each with what `state` returns for the partition at this offset.
        """
        offsets = {}
        for partition, end in ends.items():
            place = self._place(partition)
            position = None if place in self._marks.unadopted else internals.position(self._consumer, place)
            offset, epoch = (
                (end, -1) if position is None or position.offset < end else (position.offset, position.leader_epoch)
            )
            offsets[place] = OffsetAndMetadata(offset, self.starts.note(place.topic, state(partition, offset)), epoch)
        return offsets

    def passed(self) -> dict[int, int]:
        """Return positions (partition -> offset) beyond the committed offsets, for partitions without work to commit.

        Only offsets that are never handed out lie in between. The positions are to be committed like work.
        """
        if self._fetched_under is not None:
            return {}
        standing, membership = self.standing()
        resume = self.committed_offsets()
        positions = {p: offset for p, offset in standing.items() if offset > (resume.get(p) or 0)}
        if positions:
            self.open_work(membership)
        return positions

    def standing(self) -> tuple[dict[int, int], Any]:
        """Return the position of each adopted partition, and the membership by which they are this worker's.

        There are none while it is not a member.
        """
        membership = self._consumer.group_metadata()
        if not self.joined():
            return {}, membership
        places = self._consumer.assignment() - self._marks.unadopted
        return self._positions(places), membership

    def open_work(self, membership: Any) -> None:
        """Open the work of a commit under this membership, where no record does so."""
        if self._fetched_under is None:
            self._fetched_under = membership

    def close_work(self) -> Any:
        """Close the work of one commit; return the membership under which it was fetched.

        What is handed out from now on belongs to the next commit. Raises Rewind where that membership is no longer this
        worker's.
        """
        now, fetched_under = self._consumer.group_metadata(), self._fetched_under
        if fetched_under is None or not _same(now, fetched_under):
            raise Rewind("the group membership has changed since the records were fetched")
        self._fetched_under = None
        return fetched_under

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata], membership: Any = None) -> None:
        """Commit outside of any transaction, by the membership under which the records were fetched. Raises Rewind.

        Without a membership the current one is used.
        """
        if membership is not None and not _same(self._consumer.group_metadata(), membership):
            raise Rewind("the group has rebalanced before the offsets were committed")
        try:
            self._consumer.commit(dict(offsets), timeout_ms=int(self._settings.commit_timeout * 1000))
        except FATAL as error:
            raise readable(error, "committing", self._settings.bootstrap) from error
        except errors.KafkaError as error:
            raise Rewind(f"offsets were not committed: {error}") from error

    def committed(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Take note of offsets whose commit has succeeded."""
        for place, offset in offsets.items():
            self._marks.resume[place] = offset.offset
            self._marks.history.pop(place, None)
            self.starts.committed(place)

    # -- asking

    def topic_id(self, partition: int) -> str | None:
        """Return what tells the partition's topic from another of its name; None from brokers before 2.8."""
        return internals.topic_id(self._consumer, self._place(partition).topic)

    def partitions(self) -> list[int]:
        """Return the numbers of the partitions that are assigned now."""
        return self._numbers(self._consumer.assignment())

    def joined(self) -> bool:
        """Return whether this is a stable member of the group, with or without partitions."""
        membership = self._consumer.group_metadata()
        return membership.generation_id >= 0 and membership.state is MemberState.STABLE

    def lag(self) -> dict[int, int]:
        """Return the number of records not yet committed, by partition, from the last known high water marks."""
        return self._lag.of(self._consumer.assignment())

    def end_offsets(self) -> dict[int, int]:
        """Return the offset after the last record of each partition of the topics."""
        with readable_errors("looking for end offsets", self._settings.bootstrap):
            ends = waits.end_offsets(self._consumer, waits.places_of(self._consumer, self.topics))
        return {self.topics.number(*place): end for place, end in ends.items()}

    def positions(self) -> dict[int, int]:
        """Return the next offset to read of each owned partition, where it is known yet."""
        return self._positions(self._consumer.assignment())

    def committed_offsets(self) -> dict[int, int | None]:
        """Return the committed offset of each owned partition; None where none is known."""
        return {self.topics.number(*place): self._marks.resume.get(place) for place in self._consumer.assignment()}

    def joins(self) -> bool:
        """Return whether the next poll joins the group again; work that is uncommitted by then has to be done again."""
        return internals.joins(self._consumer)

    def close(self) -> None:
        """Leave the group. (A static member keeps its place until the session ends.)"""
        try:
            self._consumer.close(autocommit=False, timeout_ms=waits.CLOSE * 1000)
        except errors.KafkaError as error:
            log.warning("kafka_close_failed", error=str(error))

    def _place(self, partition: int) -> TopicPartition:
        return TopicPartition(*self.topics.place(partition))

    def _numbers(self, places: Iterable[TopicPartition]) -> list[int]:
        return [self.topics.number(*place) for place in sorted(places)]

    def _positions(self, places: Iterable[TopicPartition]) -> dict[int, int]:
        positions = {self.topics.number(*place): internals.position(self._consumer, place) for place in places}
        return {partition: position.offset for partition, position in positions.items() if position is not None}

    def _shown(self, places: Iterable[TopicPartition]) -> list[int | str]:
        return [self.topics.shown(number) for number in self._numbers(places)]

    def _forget(self, place: TopicPartition) -> None:
        self._marks.forget(place)
        self._lag.forget(place)
        self.starts.forget(place)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Takes note of assignments in the client's own thread; `poll` acts on them later."""

    def __init__(self, source: Source):
        self._source = source

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._source.rebalances += 1
        for partition in assigned:
            self._source._forget(partition)
        self._source._marks.unadopted.update(assigned)
        log.info("partitions_assigned", partitions=self._source._shown(assigned))

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self._source.rebalances += 1
        for partition in revoked:
            self._source._forget(partition)
            self._source._marks.unadopted.discard(partition)
        self._source._revoked.update(revoked)
        if revoked:
            log.info("partitions_revoked", partitions=self._source._shown(revoked))

    def on_partitions_lost(self, lost: set[TopicPartition]) -> None:
        log.warning("membership_lost", partitions=self._source._shown(lost))
        self.on_partitions_revoked(lost)


def _same(a: Any, b: Any) -> bool:
    return bool((a.generation_id, a.member_id) == (b.generation_id, b.member_id))
