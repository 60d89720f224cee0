"""Adopts partitions that this worker gets, or reads again: windows and incidents go on where the last owner stopped."""

import time
from typing import Final

import structlog

from worker.runtime.connections import Connections
from worker.runtime.dispatcher import Dispatcher
from worker.runtime.partition_state import PartitionState
from worker.settings import Settings

log = structlog.get_logger()

# Seconds that the loop waits for what was committed: at first, and after several tries.
PATIENCE: Final = 0.1
MAX_PATIENCE: Final = 1.0


class PartitionAdoption:
    """Restores the state beside the committed offset of each partition before it is read."""

    def __init__(self, settings: Settings, connections: Connections, dispatcher: Dispatcher):
        self._settings, self._source, self._dispatcher = settings, connections.source, dispatcher
        self._incident_log, self._birth_log = connections.incident_log, connections.birth_log
        self._logs = [log for log in (connections.incident_log, connections.birth_log) if log is not None]
        self._failures, self._retry_at = 0, 0.0

    def forget_revoked(self) -> None:
        """Forget partitions that are another worker's now."""
        for partition in self._source.revoked():
            self._dispatcher.forget(partition)

    def pending(self) -> list[int]:
        """Return the partitions to adopt now."""
        pending = self._source.unadopted()
        return pending if pending and time.monotonic() >= self._retry_at else []

    def adopt(self, partitions: list[int]) -> None:
        """Adopt the partitions up to the first whose committed offset is in doubt, as after a crash. Raises Rewind.

        That partition is tried again later; partitions that were adopted before it do not wait.
        """
        patience = min(PATIENCE * 2**self._failures, MAX_PATIENCE)
        for partition in partitions:
            # The order matters: once the offsets are known, what was committed with them has been written.
            committed = self._source.adopt(partition, patience)
            if committed is None or not all(log.catch_up(patience) for log in self._logs):
                self._source.leave(partition)
                self._failures += 1
                self._retry_at = time.monotonic() + patience  # the loop runs for as long as it has waited for this one
                return
            state = PartitionState.load(committed.state)
            self._dispatcher.restore(partition, committed.offset, state, self._incident_log.of(partition))
            if self._birth_log is not None:
                births = self._birth_log.of(partition, committed.offset, self._source.topic_id(partition))
                self._dispatcher.births.restore(partition, births)
            if self._settings.looks_back and committed.offset is not None:
                self._read_back(partition, committed.offset, state)
        self._failures = 0

    def _read_back(self, partition: int, end: int, state: PartitionState) -> None:
        earliest = max(end - self._settings.entities.replay, 0)
        # What is stored may be earlier than that, for readings that are in no vector yet.
        wanted = earliest if state.replay is None else min(state.replay, end)
        begin, shown = self._source.replay(partition, wanted, end), self._source.topics.shown(partition)
        log.info("window_refill_started", partition=shown, records=max(end - begin, 0))
        if begin > wanted and state.replay is not None:
            log.warning(
                "window_refill_truncated",
                partition=shown,
                wanted=wanted,
                earliest=begin,
                consequence="entities whose vectors were deleted start with an empty window",
            )
