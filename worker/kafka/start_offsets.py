"""The offsets at which partitions are read: at the beginning, and after a log has changed.

Reading begins at the group's committed offset. Without one it begins where OFFNORMAL_KAFKA__START says, or, for a
partition that was added later, at its first record. A log has changed if retention has deleted the next records, if its
end was lost (by an unclean election, or a disk without power), or if the topic was created again under its name.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import structlog
from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition, errors

from worker.blocks import TopicSet
from worker.kafka import waits
from worker.kafka.client import internals
from worker.kafka.errors import Rewind
from worker.kafka.offset_metadata import OffsetNote
from worker.kafka.reader import is_found
from worker.settings import KafkaSettings, start_time

log = structlog.get_logger()


class Committed(NamedTuple):
    """The offset of a partition's next record to score, and the state that was stored beside it.

    Without an offset reading begins where OFFNORMAL_KAFKA__START says.
    """

    offset: int | None
    state: Mapping[str, Any]


@dataclass
class Marks:
    """What the source knows of the partitions that it owns."""

    resume: dict[TopicPartition, int] = field(default_factory=dict)  # where each one's uncommitted work begins
    unadopted: set[TopicPartition] = field(default_factory=set)  # not adopted yet
    history: dict[TopicPartition, int] = field(default_factory=dict)  # the first offset that is not history

    def forget(self, place: TopicPartition) -> None:
        """Forget where the reading of a partition goes on."""
        self.resume.pop(place, None)
        self.history.pop(place, None)


class StartOffsets:
    """Chooses the offsets from which one member of a group reads the partitions of its topics.

    `commit` commits outside of any transaction, or raises Rewind.
    """

    def __init__(
        self,
        consumer: KafkaConsumer,
        settings: KafkaSettings,
        topics: TopicSet,
        marks: Marks,
        commit: Callable[[Mapping[TopicPartition, OffsetAndMetadata]], None],
    ):
        self._consumer, self._settings, self._topics = consumer, settings, topics
        self._marks, self._commit = marks, commit
        self._topic_ids = {topic: internals.topic_id(consumer, topic) for topic in topics.names}
        self._remade: set[str] = set()  # topics created again since the start, to be read from their beginning
        self._own_offset: set[TopicPartition] = set()  # adopted at an offset of this very topic, or committed
        self._divergence: dict[TopicPartition, int] = {}  # the offset at which a log diverges from what was read
        self._first_partitions: dict[str, int] = {}  # by topic: see OffsetNote
        self._began = int(time.time() * 1000)  # likewise
        self.skipped_by_retention = 0  # records that were deleted before they were read
        self.truncations = 0  # logs that became shorter than they were read

    def note(self, topic: str, state: Mapping[str, Any]) -> str:
        """Return what to store beside an offset of the topic, with the caller's `state`."""
        began = None if self._topics.pattern is None else self._began
        return OffsetNote(self._topic_ids.get(topic), self._first_partitions.get(topic), began, state).dump()

    def committed(self, place: TopicPartition) -> None:
        """Take note that an offset was committed with a note."""
        self._divergence.pop(place, None)
        if self._topic_ids.get(place.topic) is not None:
            self._own_offset.add(place)

    def forget(self, place: TopicPartition) -> None:
        """Forget a partition that was assigned or revoked: another worker may know its log better by now."""
        self._own_offset.discard(place)
        self._divergence.pop(place, None)

    def go_on(self, place: TopicPartition, committed: OffsetAndMetadata | None) -> Committed:
        """Seek to the partition's committed offset. Raises what the client raises."""
        self._topic_ids.setdefault(place.topic, internals.topic_id(self._consumer, place.topic))
        note = OffsetNote.load(committed.metadata if committed else None)
        if self._is_of_another_topic(place, note) or (committed is None and place.topic in self._remade):
            self._marks.resume.pop(place, None)
            self._consumer.seek_to_beginning(place)
            return Committed(None, {})
        if note.topic_id is not None:
            self._own_offset.add(place)
        if note.first_partitions is not None:
            self._first_partitions[place.topic] = note.first_partitions
        self._began = min(self._began, note.began or self._began)
        if committed is None:
            if place in self._marks.resume:
                self._consumer.seek(place, self._marks.resume[place])
            return Committed(None, {})
        committed = self._before_divergence(place, committed)
        self._marks.resume[place] = committed.offset
        internals.seek(self._consumer, place, committed.offset, committed.leader_epoch)
        return Committed(committed.offset, note.state)

    def begin(self, partitions: Iterable[TopicPartition]) -> None:
        """Set the position of partitions without a committed offset.

        It is where OFFNORMAL_KAFKA__START says, if they existed when the group began. Partitions that were added later,
        or belong to a topic that was created again, are read from their first record. A topic that a pattern has
        matched later is read as if the group had begun with it.
        """
        unread = set(partitions)
        new = self._added(unread)
        old, start = unread - new, self._settings.start
        if new:
            self._consumer.seek_to_beginning(*new)
        if old and start == "earliest":
            self._consumer.seek_to_beginning(*old)
        elif old and start == "latest" and self._topics.pattern is None:
            self._consumer.seek_to_end(*old)
        elif old:
            now = time.time() if self._topics.pattern is None else self._began / 1000
            moment = int((now if start == "latest" else start_time(start, now)) * 1000)
            for place, offset in waits.offsets_for_times(self._consumer, sorted(old), moment).items():
                if offset is not None and is_found(offset):
                    self._consumer.seek(place, offset.offset)
                else:
                    self._consumer.seek_to_end(place)
        if start != "earliest":
            # After a crash, "latest" would be another offset, and the records in between would be lost: commit it now.
            offsets = {place: waits.position(self._consumer, place) for place in unread}
            self._commit({p: OffsetAndMetadata(at, self.note(p.topic, {}), -1) for p, at in offsets.items()})
            self._marks.unadopted.update(unread)  # there may be history to read back
        log.info("start_offsets_chosen", at=start, partitions=self._shown(old), from_their_beginning=self._shown(new))

    def _added(self, new: set[TopicPartition]) -> set[TopicPartition]:
        """Return the partitions that were added after the group began."""
        remade = {place for place in new if place.topic in self._remade}
        if self._settings.start == "earliest" or remade == new:
            return remade
        all_places = waits.places_of(self._consumer, self._topics)
        committed = waits.committed_offsets(self._consumer, all_places, waits.POSITION)
        began = [OffsetNote.load(offset.metadata).began for offset in committed.values()]
        self._began = min([self._began, *(moment for moment in began if moment)])
        for topic in {place.topic for place in new - remade}:
            own = {place: offset for place, offset in committed.items() if place.topic == topic}
            notes = [OffsetNote.load(offset.metadata) for offset in own.values()]
            notes = [note for note in notes if not self._is_of_another_topic(TopicPartition(topic, 0), note)]
            first = [note.first_partitions for note in notes if note.first_partitions is not None]
            # A group that began before notes were written has had an offset for each of its partitions from then on.
            count = sum(place.topic == topic for place in all_places)
            self._first_partitions[topic] = min(first, default=0 if notes else count)
        return remade | {place for place in new if place.partition >= self._first_partitions.get(place.topic, 0)}

    def out_of_range(self, partitions: Mapping[TopicPartition, int]) -> None:
        """Continue where the log has no record at the position: at its earliest record, or at a shorter log's end.

        Either retention was faster than this worker, or the log is shorter than what was read of it. Records that are
        gone cannot be scored, so this is logged as an error and counted.
        """
        waits.refresh_metadata(self._consumer, partitions)
        self.look_at_topics()
        earliest = waits.beginning_offsets(self._consumer, partitions)
        ends = waits.end_offsets(self._consumer, partitions)
        for place, wanted in partitions.items():
            if place in self._marks.unadopted:  # not adopted yet: the adoption chooses the offset
                self._consumer.seek(place, earliest[place])
            elif wanted > ends[place] and place in self._own_offset:
                self.truncated({place: OffsetAndMetadata(ends[place], "", -1)})
            else:
                self._skip_to_earliest(place, wanted, earliest[place])

    def _skip_to_earliest(self, place: TopicPartition, wanted: int, earliest: int) -> None:
        end = self._marks.history.pop(place, None)
        if end is not None and wanted < earliest <= end:
            self._marks.history[place] = end  # only what was to be read back is gone
            self._consumer.seek(place, earliest)
            return
        self.skipped_by_retention += max(earliest - wanted, 0)
        log.error("records_expired", partition=self._shown([place])[0], wanted=wanted, earliest=earliest)
        self._consumer.seek(place, earliest)
        self._marks.resume[place] = earliest

    def truncated(self, points: Mapping[TopicPartition, OffsetAndMetadata | None]) -> None:
        """Continue where the broker's log diverges from the one that was read, or at the end if unknown. Raises Rewind.

        The broker's log has changed after an unclean election, or if a disk has lost the log's end.
        """
        waits.refresh_metadata(self._consumer, points)
        self.look_at_topics()
        ends = waits.end_offsets(self._consumer, points)
        for place, point in points.items():
            position = internals.position(self._consumer, place)
            read_to = self._marks.resume.get(place, 0) if position is None else position.offset
            self._divergence[place] = min(read_to, ends[place] if point is None else point.offset)
            self.truncations += 1
            log.error(
                "log_truncated",
                partition=self._shown([place])[0],
                read_to=read_to,
                goes_on_at=self._divergence[place],
                consequence="scored records are no longer in the topic; nothing is scored twice",
            )
        raise Rewind(f"{', '.join({place.topic for place in points})} has lost records that were read")

    def look_at_topics(self) -> None:
        """Raise Rewind if a topic was created again, since the known offsets belong to the former topic."""
        for topic, before in self._topic_ids.items():
            current = internals.topic_id(self._consumer, topic)
            if current is None or current == before:
                continue
            self._topic_ids[topic] = current
            if before is not None:
                self._start_anew(topic)

    def _start_anew(self, topic: str) -> None:
        log.error("topic_recreated", topic=topic, consequence="it is read from its beginning")
        self._remade.add(topic)
        for place in [*self._own_offset, *self._marks.resume, *self._marks.history, *self._divergence]:
            if place.topic == topic:
                self.forget(place)
                self._marks.forget(place)
        raise Rewind(f"{topic} was deleted and created again")

    def _is_of_another_topic(self, place: TopicPartition, note: OffsetNote) -> bool:
        known = self._topic_ids.get(place.topic)
        return None not in (note.topic_id, known) and note.topic_id != known

    def _shown(self, places: Iterable[TopicPartition]) -> list[int | str]:
        return [self._topics.shown(self._topics.number(*place)) for place in sorted(places)]

    def _before_divergence(self, place: TopicPartition, committed: OffsetAndMetadata) -> OffsetAndMetadata:
        """Return the offset to continue at; commit it first if the log diverges before the committed offset.

        Raises KafkaTimeoutError where that is not possible now.
        """
        point = self._divergence.get(place)
        if point is None:
            return committed
        before = OffsetAndMetadata(min(committed.offset, point), committed.metadata, -1)
        if committed.offset > point:
            try:
                self._commit({place: before})
            except Rewind as error:  # maybe this is no stable member: only a poll helps, so try again after one
                raise errors.KafkaTimeoutError(str(error)) from error
            self._divergence.pop(place)
        return before
