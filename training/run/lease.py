"""Allows one training of a model at a time: only the group member that holds the group's single partition trains."""

import threading
import time
from types import TracebackType
from typing import Final

import structlog
from kafka import OffsetAndMetadata, errors
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from worker.errors import KafkaUnavailable
from worker.kafka import connection, waits
from worker.kafka.errors import readable_errors
from worker.settings import Settings

log = structlog.get_logger()

_POLL: Final = 0.5
_SAY_AFTER: Final = 5.0  # seconds of waiting after which it is logged


class Lease:
    """A lease that is entered once nobody else holds it.

    A holder that dies loses the lease when its session times out (OFFNORMAL_KAFKA__SESSION_TIMEOUT). The partition is
    one of the models topic, and nothing is read from it.
    """

    def __init__(self, settings: Settings):
        kafka, self._topic = settings.kafka, settings.topics.models
        self._bootstrap = kafka.bootstrap
        self._session = kafka.session_timeout
        self._model = settings.model.name
        self._consumer = connection.consumer(
            kafka,
            group_id=f"{kafka.group}-training-{self._model}",
            session_timeout_ms=int(kafka.session_timeout * 1000),
            heartbeat_interval_ms=int(kafka.session_timeout * 1000 / 4),
            partition_assignment_strategy=[CooperativeStickyAssignor],
            auto_offset_reset="latest",
        )
        self._lock = threading.Lock()  # the client is one thread's at a time
        self._end = threading.Event()
        self._lost = False
        self._keeper = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        try:
            with readable_errors("waiting for the lease", self._bootstrap):
                self._consumer.subscribe([self._topic])
                began, said = time.monotonic(), False
                while not self._holds():
                    if not said and time.monotonic() - began > _SAY_AFTER:
                        log.info("training_lease_awaited", model=self._model)
                        said = True
        except BaseException:
            self._consumer.close(autocommit=False, timeout_ms=waits.CLOSE * 1000)
            raise
        self._keeper.start()
        return self

    def check(self) -> None:
        """Check the lease with the broker, since the keeper thread may have been asleep for a long time.

        Raises KafkaUnavailable where the lease was lost.
        """
        if self._lost or not self._is_held():
            raise KafkaUnavailable(
                f"another training of {self._model} has begun, because this one did not reach the broker for too"
                " long; this one has changed nothing: start it again"
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._keeper.join(5)
        self._consumer.close(autocommit=False, timeout_ms=waits.CLOSE * 1000)

    def _is_held(self) -> bool:
        """Return whether a commit succeeds, which the broker refuses to former members. Raises KafkaUnavailable."""
        deadline = time.monotonic() + self._session
        with readable_errors("looking after the lease", self._bootstrap):
            while True:
                try:
                    return self._commits()
                except (errors.CommitFailedError, errors.IllegalGenerationError, errors.UnknownMemberIdError):
                    return False
                except errors.RebalanceInProgressError:  # another training joins the group to wait for the lease
                    if time.monotonic() > deadline:
                        raise
                time.sleep(_POLL)

    def _commits(self) -> bool:
        with self._lock:
            places = self._consumer.assignment()
            offsets = {place: OffsetAndMetadata(0, "", -1) for place in places}
            self._consumer.commit(offsets, timeout_ms=self._session * 1000)
            return bool(places)

    def _holds(self) -> bool:
        with self._lock:
            self._consumer.poll(timeout_ms=int(_POLL * 1000), max_records=1)
            assigned = self._consumer.assignment()
            if assigned:
                self._consumer.pause(*assigned)
            return bool(assigned)

    def _keep(self) -> None:
        """Keep the membership by polling: the broker hears from a member only while it polls."""
        while not self._end.wait(_POLL):
            try:
                if not self._holds():
                    self._lost = True
            except Exception as error:
                log.debug("lease_renewal_failed", error=str(error))
