"""The source: sensor records in columnar blocks.

They are read by kafka-python's own classes (OFFNORMAL_KAFKA__CLIENT=public), or, ten times as fast, by decoding what it
has fetched (columnar): the same blocks.

Two promises hold the exactly-once guarantee up: a block is handed out with the membership under which it was fetched,
and once that has changed, whatever is not yet committed is void (`Redo`). In a cooperative rebalance partitions are
revoked only after the new generation is in place, so the broker fences all that was begun under the old one, even for
partitions that stay.

A partition that is new, or is read again after a Redo, is handed out only once it was adopted: its state, which lies
beside its committed offset, comes first. Records before that offset may be read back to fill windows (`history`).
"""

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import structlog
from kafka import ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition, errors
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.base import MemberState

from worker.kafka.blocks import blocks
from worker.kafka.connection import consumer
from worker.kafka.faults import FATAL, Redo, readable, readable_errors
from worker.kafka.reader import is_found
from worker.kafka.unreadable import Patience, Unreadable
from worker.settings import KafkaSettings, start_time
from worker.vectors import RecordBlock

log = structlog.get_logger()

# A join that completes between two polls is forgotten by kafka-python, which joins again, and so makes the whole group
# rebalance again. While the group rebalances no record can come: wait inside of a poll for it.
REBALANCE_POLL: Final = 1.0


class Committed(NamedTuple):
    """Where a partition's next record to score lies, and what was stored beside that offset. No offset: wherever
    OFFNORMAL_KAFKA__START says.
    """

    offset: int | None
    metadata: str


class Source:
    """Reads one topic as a member of the consumer group. Used by one thread."""

    def __init__(self, settings: KafkaSettings, topic: str):
        self._settings = settings
        self.topic = topic
        self._consumer = consumer(
            settings,
            group_id=settings.group,
            group_instance_id=settings.instance_id,
            session_timeout_ms=int(settings.session_timeout * 1000),
            fetch_max_bytes=settings.fetch_bytes,
            max_partition_fetch_bytes=settings.fetch_bytes,
            heartbeat_interval_ms=int(settings.session_timeout * 1000 / 5),
            partition_assignment_strategy=[CooperativeStickyAssignor],
            metadata_max_age_ms=30_000,  # how soon added partitions are noticed
        )
        self._blocks = blocks(self._consumer, settings)
        self._patience = Patience(self._consumer)
        self._consumer.subscribe([topic], listener=_Listener(self))
        self._await_metadata()
        self._resume: dict[TopicPartition, int] = {}  # where each partition's uncommitted work begins
        self._strange: set[TopicPartition] = set()  # not adopted yet
        self._gone: set[TopicPartition] = set()
        self._history: dict[int, int] = {}  # partition -> the first offset that is not history
        self._fetched_under: Any = None  # membership of what is handed out and of no commit yet; None: nothing is
        self.rebalances = 0
        self.skipped_by_retention = 0

    def _await_metadata(self) -> None:
        """A member that joins before it knows the topic, and leads the group, assigns no partition to anybody, and
        kafka-python does not notice when the metadata arrives: the group would stand still.
        """
        deadline = time.monotonic() + self._settings.startup_timeout
        with readable_errors(f"looking for {self.topic}", self._settings.bootstrap):
            while not self._consumer.partitions_for_topic(self.topic):
                if time.monotonic() > deadline:
                    raise errors.KafkaTimeoutError("the topic is not there")
                time.sleep(0.1)

    # -- reading

    def poll(self, timeout: float, max_records: int) -> RecordBlock | None:
        """The next block, of at most `max_records` records; None if none arrives within `timeout` seconds.

        Raises Redo where the membership has changed under uncommitted work, KafkaError where no retry helps. A broker
        that is away is waited for.
        """
        if not self.joined():
            timeout = max(timeout, REBALANCE_POLL)
        try:
            fetched = self._fetch(timeout, max_records)
        except FATAL as error:
            raise readable(error, "reading", self._settings.bootstrap) from error
        except errors.KafkaError as error:
            log.warning("kafka_read_failed", error=str(error))
            time.sleep(min(timeout, 1.0))
            return None
        membership = self._consumer.group_metadata()
        for partition in self._strange.intersection(fetched):
            self._consumer.seek(partition, self._blocks.first_offset(fetched.pop(partition)))
        for partition, found in fetched.items():
            self._resume.setdefault(partition, self._blocks.first_offset(found))
        if self._fetched_under is not None and not _same(membership, self._fetched_under):
            raise Redo("the group has rebalanced under uncommitted work")
        if not fetched:
            return None
        if membership.generation_id < 0:
            raise Redo("this worker has lost its place in the group")
        block = self._blocks.block_of(self.topic, fetched)
        history = self.history(block)
        if history is None or not history.all():
            self._fetched_under = membership
        return block

    def _fetch(self, timeout: float, max_records: int) -> dict[TopicPartition, Sequence[Any]]:
        try:
            found: dict[TopicPartition, Sequence[Any]] = self._consumer.poll(
                timeout_ms=int(timeout * 1000), max_records=max_records
            )
            return found
        except errors.NoOffsetForPartitionError as error:
            self._begin(error.args[0])
        except errors.OffsetOutOfRangeError as error:
            self._skip_to_earliest(error.args[0])
        except Unreadable as bad:
            if self._patience.gives_up(bad):
                return {bad.place: self._blocks.of([bad.record()])}
        return {}

    def rewind(self) -> None:
        """What is uncommitted is read again: all partitions that are owned are to be adopted anew."""
        self._fetched_under = None
        self._strange = set(self._consumer.assignment())

    def strange(self) -> list[int]:
        """Partitions that are owned, and wait for being adopted."""
        return sorted(p.partition for p in self._strange)

    def gone(self) -> list[int]:
        """Partitions that were taken away since the last call."""
        gone, self._gone = self._gone, set()
        return sorted(p.partition for p in gone)

    def adopt(self, partition: int, timeout: float) -> Committed | None:
        """Reads on from what the broker has committed; None where that is not known within `timeout` seconds, as it is
        while a transaction holds offsets in doubt.

        The broker is asked, since a commit whose answer was lost may have been made.
        """
        place = TopicPartition(self.topic, partition)
        try:
            found = self._consumer.committed(place, metadata=True, timeout_ms=int(timeout * 1000))
            if found is not None:
                self._resume[place] = found.offset
            if place in self._resume:
                self._consumer.seek(place, self._resume[place])
        except FATAL as error:
            raise readable(error, "reading committed offsets", self._settings.bootstrap) from error
        except errors.KafkaError as error:
            log.debug("offsets_in_doubt", partition=partition, error=str(error))
            return None
        self._strange.discard(place)
        self._history.pop(partition, None)
        return Committed(None, "") if found is None else Committed(found.offset, found.metadata or "")

    def leave(self, partition: int) -> None:
        """Takes an adoption back."""
        self._strange.add(TopicPartition(self.topic, partition))

    def replay(self, partition: int, begin: int, end: int) -> int:
        """Reads `partition` back from `begin`, or the earliest record there is: what comes before `end` is history.
        -> where it begins. Raises Redo.
        """
        place = TopicPartition(self.topic, partition)
        try:
            begin = max(begin, self._consumer.beginning_offsets([place])[place])
            if begin < end:
                self._consumer.seek(place, begin)
                self._history[partition] = end
        except FATAL as error:
            raise readable(error, "reading back", self._settings.bootstrap) from error
        except errors.KafkaError as error:
            self._strange.add(place)
            raise Redo(f"reading back was not possible: {error}") from error
        return begin

    def history(self, block: RecordBlock) -> npt.NDArray[np.bool_] | None:
        """[n] Which records were scored long ago, and are only read back; None if none were."""
        if not self._history:
            return None
        old = np.zeros(len(block), bool)
        for partition, end in self._history.items():
            old |= (block.partition == partition) & (block.offset < end)
        return old if old.any() else None

    # -- committing

    def close_work(self) -> Any:
        """All that was handed out is of one commit now, and what comes is of the next. -> the membership under which it
        was fetched. Raises Redo where that is no longer this worker's.
        """
        now, fetched_under = self._consumer.group_metadata(), self._fetched_under
        if fetched_under is None or not _same(now, fetched_under):
            raise Redo("the group membership has changed since the records were fetched")
        self._fetched_under = None
        return fetched_under

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """A commit outside of any transaction. Raises Redo."""
        try:
            self._consumer.commit(dict(offsets), timeout_ms=int(self._settings.commit_timeout * 1000))
        except FATAL as error:
            raise readable(error, "committing", self._settings.bootstrap) from error
        except errors.KafkaError as error:
            raise Redo(f"offsets were not committed: {error}") from error

    def committed(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Told once a commit has succeeded."""
        for partition, offset in offsets.items():
            self._resume[partition] = offset.offset
            self._history.pop(partition.partition, None)

    # -- asking

    def partitions(self) -> list[int]:
        return sorted(p.partition for p in self._consumer.assignment())

    def joined(self) -> bool:
        """A stable member of the group, with or without partitions."""
        membership = self._consumer.group_metadata()
        return membership.generation_id >= 0 and membership.state is MemberState.STABLE

    def lag(self) -> dict[int, int]:
        """Partition -> records not yet read, by the last known high water mark."""
        lags = {}
        for partition in self._consumer.assignment():
            high = self._consumer.highwater(partition)
            if high is not None and partition in self._resume:
                lags[partition.partition] = max(high - self._resume[partition], 0)
        return lags

    def end_offsets(self) -> dict[int, int]:
        """Partition -> the offset after its last record, for all partitions of the topic."""
        with readable_errors("looking for end offsets", self._settings.bootstrap):
            known = self._consumer.partitions_for_topic(self.topic)
            ends = self._consumer.end_offsets([TopicPartition(self.topic, p) for p in sorted(known)])
        return {p.partition: end for p, end in ends.items()}

    def positions(self) -> dict[int, int]:
        """Partition -> the offset that is read next, for the partitions owned where it is known yet."""
        found = {}
        for place in self._consumer.assignment():
            with contextlib.suppress(errors.NoOffsetForPartitionError):  # the next poll decides where it begins
                found[place.partition] = self._consumer.position(place, timeout_ms=1000)
        return {p: offset for p, offset in found.items() if offset is not None}

    def close(self) -> None:
        """Leaves the group (a static member keeps its place until the session ends)."""
        try:
            self._consumer.close(autocommit=False, timeout_ms=2000)
        except errors.KafkaError as error:
            log.warning("kafka_close_failed", error=str(error))

    # -- where reading begins

    def _forget(self, partition: TopicPartition) -> None:
        self._resume.pop(partition, None)
        self._history.pop(partition.partition, None)

    def _begin(self, partitions: Any) -> None:
        """For partitions without a committed offset: where OFFNORMAL_KAFKA__START says."""
        start, found = self._settings.start, list(partitions)
        if start == "earliest":
            self._consumer.seek_to_beginning(*found)
        elif start == "latest":
            self._consumer.seek_to_end(*found)
        else:
            moment = int(start_time(start, time.time()) * 1000)
            at = self._consumer.offsets_for_times(dict.fromkeys(found, moment))
            for partition in found:
                if is_found(at.get(partition)):
                    self._consumer.seek(partition, at[partition].offset)
                else:
                    self._consumer.seek_to_end(partition)
        if start != "earliest":
            # "latest" is another place after a crash: what came in between would be lost unless it is held fast now.
            self.commit({p: OffsetAndMetadata(self._consumer.position(p), "", -1) for p in found})
            self._strange.update(found)  # there may be history to read back
        log.info("starts", at=start, partitions=sorted(p.partition for p in found))

    def _skip_to_earliest(self, partitions: Any) -> None:
        """Retention was faster than this worker, or the topic was made anew. No system can score what is gone: go on
        with the earliest record there is, say so loudly, and count.
        """
        found = list(partitions)
        earliest = self._consumer.beginning_offsets(found)
        for partition in found:
            if partition in self._strange:  # not read from there yet: its adoption says from where
                self._consumer.seek(partition, earliest[partition])
                continue
            wanted = partitions[partition] if isinstance(partitions, dict) else self._resume.get(partition)
            end = self._history.pop(partition.partition, None)
            if end is not None and wanted is not None and wanted < earliest[partition] <= end:
                self._history[partition.partition] = end  # only what was to be read back is gone
                self._consumer.seek(partition, earliest[partition])
                continue
            skipped = max(earliest[partition] - wanted, 0) if wanted is not None else 0
            self.skipped_by_retention += skipped
            log.error("records_gone", partition=partition.partition, wanted=wanted, earliest=earliest[partition])
            self._consumer.seek(partition, earliest[partition])
            self._resume[partition] = earliest[partition]


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Runs in the client's own thread: only notes down. What follows from it is done by `poll`'s caller."""

    def __init__(self, source: Source):
        self._source = source

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._source.rebalances += 1
        for partition in assigned:
            self._source._forget(partition)
        self._source._strange.update(assigned)
        log.info("partitions_assigned", partitions=sorted(p.partition for p in assigned))

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self._source.rebalances += 1
        for partition in revoked:
            self._source._forget(partition)
            self._source._strange.discard(partition)
        self._source._gone.update(revoked)
        if revoked:
            log.info("partitions_revoked", partitions=sorted(p.partition for p in revoked))

    def on_partitions_lost(self, lost: set[TopicPartition]) -> None:
        log.warning("membership_lost", partitions=sorted(p.partition for p in lost))
        self.on_partitions_revoked(lost)


def _same(a: Any, b: Any) -> bool:
    return bool((a.generation_id, a.member_id) == (b.generation_id, b.member_id))
