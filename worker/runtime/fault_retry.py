"""The retry after a fault of a broker: back to what is committed, again and again until the brokers answer."""

import time
from collections.abc import Callable
from threading import Event
from typing import Final

import structlog

from worker.kafka import Rewind, Sink, Source

log = structlog.get_logger()

LEAST_BACKOFF: Final = 0.05  # seconds between two tries; doubled with each
MAX_BACKOFF: Final = 1.0
LOGGED_EVERY: Final = 5.0  # seconds


class FaultRetry:
    """Puts source and sink back to what is committed. The delay grows while no work succeeds in between."""

    def __init__(self, source: Source, sink: Sink, stop: Event):
        self._source, self._sink, self._stop = source, sink, stop
        self._backoff = 0.0
        self._logged_at = 0.0

    def succeeded(self) -> None:
        """Begin the next fault with the shortest delay: work has succeeded."""
        self._backoff = 0.0

    def go_back(self, fault: Rewind, rows: int, begin_try: Callable[[], None]) -> None:
        """Drop open work and go back to the committed offsets; return once these are known, or the stop is set.

        `rows` is how many scored vectors the fault voids. `begin_try` is called before each try; what it raises ends
        the retry.
        """
        self._log(fault, rows)
        self._sink.discard()
        self._grow_delay()
        # Nothing is read before it is known what has been committed.
        while not self._stop.wait(self._backoff):
            begin_try()
            try:
                self._sink.recover()
                self._source.rewind()
                return
            except Rewind as again:
                self._log(again, 0)
                self._sink.discard()
                self._grow_delay()

    def _grow_delay(self) -> None:
        self._backoff = min(max(2 * self._backoff, LEAST_BACKOFF), MAX_BACKOFF)

    def _log(self, fault: Rewind, rows: int) -> None:
        """Log a fault, but not every one: while a broker is away there are hundreds alike."""
        if rows or time.monotonic() >= self._logged_at + LOGGED_EVERY:
            self._logged_at = time.monotonic()
            log.warning("work_redone", reason=str(fault), rows=rows)
