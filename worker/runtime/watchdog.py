"""The watchdog: detects that there is no progress although the brokers answer, whatever the Kafka client believes.

It asks the brokers on its own connection, and knows of the loop only what the loop reports. The loop counts as stuck if
one of two states lasts for SESSIONS times the session timeout: it is no stable member of the group, or a partition has
records to read but its committed offset does not change. The loop then creates its connections again.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog
from kafka import TopicPartition, errors

from worker.blocks import TopicSet
from worker.errors import KafkaUnavailable
from worker.kafka import connection, waits
from worker.settings import Settings

log = structlog.get_logger()

SESSIONS: Final = 3
REBUILDS: Final = 2  # times that connections are rebuilt in vain before liveness fails
_EVERY: Final = 1.0
_ANSWER: Final = 5.0  # seconds in which the brokers have to answer; otherwise the fault is theirs


class Stuck(Exception):
    """No progress: the connections have to be created again."""


@dataclass(frozen=True)
class LoopReport:
    """What the loop reports of itself.

    `committed` maps the partitions that the loop owns to their committed offsets, None where unknown. `progress` counts
    any other progress. `is_excused` is true while the loop waits for something other than Kafka.
    """

    is_member: bool
    committed: Mapping[int, int | None] = field(default_factory=dict)
    progress: int = 0
    is_excused: bool = False


@dataclass
class Progress:
    """Since when there has been no progress, by the loop's reports, in seconds of one monotonic clock."""

    member_at: float
    look: LoopReport = field(default_factory=lambda: LoopReport(True))
    moved_at: dict[int, float] = field(default_factory=dict)  # partition -> when its committed offset was another one
    behind_at: dict[int, float] = field(default_factory=dict)  # partition -> since when it has records to read

    def update(self, look: LoopReport, now: float) -> None:
        """Take the loop's report."""
        before, self.look = self.look, look
        if look.is_member or look.is_excused:
            self.member_at = now
        goes_on = look.is_excused or look.progress != before.progress
        for partition, offset in look.committed.items():
            if goes_on or partition not in before.committed or before.committed[partition] != offset:
                self.moved_at[partition] = now
                self.behind_at.pop(partition, None)
        for partition in self.moved_at.keys() - look.committed.keys():
            self.moved_at.pop(partition)
            self.behind_at.pop(partition, None)

    def still(self, now: float, seconds: float) -> list[int]:
        """Return the partitions whose committed offset has stood still for so many seconds."""
        return [partition for partition, moved in self.moved_at.items() if now - moved >= seconds]

    def answered(self, behind: Mapping[int, bool], now: float) -> None:
        """Take the broker's answer: whether each partition that stands still has records to read."""
        for partition, is_behind in behind.items():
            if is_behind and partition in self.moved_at:
                self.behind_at.setdefault(partition, now)
            else:
                self.behind_at.pop(partition, None)

    def reason(self, now: float, patience: float, shown: Callable[[int], int | str]) -> str | None:
        """Return why the loop is stuck, if that has lasted for `patience` seconds."""
        if now - self.member_at >= patience:
            return f"no stable member of the group for {now - self.member_at:.0f} s"
        late = sorted(shown(partition) for partition, since in self.behind_at.items() if now - since >= patience)
        if late:
            return f"partitions {late} have records to read, and no commit for {patience:.0f} s or longer"
        return None


class Watchdog:
    """A thread. `stuck` says why the connections have to be created again; None while all is well."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._topics = TopicSet.of(settings.topics.sensors)
        self._session = settings.kafka.session_timeout
        self.patience = SESSIONS * self._session
        self._progress = Progress(time.monotonic())
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self.stuck: str | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._end.set()
        self._thread.join(1)

    def observe(self, look: LoopReport) -> None:
        """Take the loop's report, every second or so."""
        with self._lock:
            self._progress.update(look, time.monotonic())

    def restart(self) -> None:
        """Forget what was seen before: the connections were made anew."""
        with self._lock:
            self._progress = Progress(time.monotonic())
        self.stuck = None

    def _run(self) -> None:
        asked_at = time.monotonic()
        while not self._end.wait(_EVERY):
            now = time.monotonic()
            with self._lock:
                is_lost = now - self._progress.member_at >= self._session
                still = self._progress.still(now, self._session)
            if not (is_lost or still) or now - asked_at < self._session:
                continue
            asked_at = now
            try:
                behind = self._ask(still)
            except (KafkaUnavailable, errors.KafkaError, OSError) as error:
                log.debug("watchdog_probe_failed", error=str(error))
                with self._lock:  # without the brokers no progress is possible, so this time does not count
                    self._progress.member_at = time.monotonic()
                    self._progress.behind_at.clear()
                continue
            with self._lock:
                self._progress.answered(behind, now)
                self.stuck = self._progress.reason(now, self.patience, self._topics.shown)

    def _ask(self, partitions: list[int]) -> dict[int, bool]:
        """Return whether each partition has records behind the group's committed offset, if it has a leader.

        Raises KafkaUnavailable where brokers or the group's coordinator do not answer.
        """
        kafka, topics = self._settings.kafka, self._topics
        client = connection.consumer(kafka, timeout=_ANSWER, group_id=kafka.group)
        try:
            known = waits.places_of(client, topics, _ANSWER)
            places = [TopicPartition(*topics.place(partition)) for partition in partitions]
            # Ask even if no partition is stalled, since the coordinator has to answer.
            probed = places or known[:1]
            committed = waits.committed_offsets(client, probed, _ANSWER)
            led = [place for place in places if client._cluster.leader_for_partition(place) not in (None, -1)]
            ends = waits.end_offsets(client, led, _ANSWER)
            begins = waits.beginning_offsets(client, led, _ANSWER)
        finally:
            client.close(autocommit=False, timeout_ms=waits.CLOSE * 1000)
        offsets = {place: committed[place].offset if place in committed else begins[place] for place in led}
        return {topics.number(*place): ends[place] > max(offsets[place], begins[place]) for place in led}
