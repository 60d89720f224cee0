"""The sink sends outputs, then offsets, and then commits. Nothing else in the worker commits.

`send` opens the work that `commit` closes. A commit runs in parallel with the loop, which decodes and scores its next
batch meanwhile. `settle` waits for the commit; every method that sends calls it first. After a Rewind, `discard` drops
all open work. A producer that has failed is never used again: kafka-python keeps the offsets of an aborted transaction,
and would send them with the next one.
"""

import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, Protocol

import structlog
from kafka import KafkaProducer, OffsetAndMetadata, TopicPartition, errors

from worker.errors import KafkaUnavailable, SettingsError
from worker.kafka import waits
from worker.kafka.client.produce import BATCH_BYTES, Produce
from worker.kafka.connection import producer
from worker.kafka.errors import FATAL, Rewind, cause_in, readable, readable_errors
from worker.kafka.outputs import Outputs
from worker.kafka.source import Source
from worker.kafka.topics import record_limits
from worker.settings import KafkaSettings, Settings

log = structlog.get_logger()

Offsets = Mapping[TopicPartition, OffsetAndMetadata]


class Sink(Protocol):
    """Publishes outputs, and commits the offsets of what they were made of."""

    holds_back: bool  # nobody can read an output before its commit

    def send(self, outputs: Iterable[Outputs]) -> None:
        """Hand outputs to the client; they become valid with the next commit. Raises Rewind."""
        ...

    def commit(self, offsets: Offsets) -> None:
        """Begin to commit the sent outputs, and the offsets, if any. If it raises Rewind, none of it is valid."""
        ...

    def settle(self) -> None:
        """Wait for a commit that is in progress. If it raises Rewind, the commit may have failed."""
        ...

    def send_batched(self) -> None:
        """Send outputs that are still being batched. Raises Rewind."""
        ...

    def discard(self) -> None:
        """Drop all open work. Never raises."""
        ...

    def recover(self) -> None:
        """Make sure, after `discard`, that the open work is either committed or aborted. Raises Rewind."""
        ...

    def expect(self, limits: Mapping[str, int], shortened: Iterable[str]) -> None:
        """Look these topics up, so that the first outputs need not wait for that. Raises KafkaUnavailable.

        `limits` is the maximum bytes of a batch, by topic. A record that is too large for a topic in `shortened` goes
        without its value.
        """
        ...

    def close(self) -> None:
        """Close the producer, within a limit of time."""
        ...


def open_sink(settings: Settings, source: Source, worker_id: str = "") -> Sink:
    """Return the sink that OFFNORMAL_DELIVERY names, ready to send. Raises KafkaUnavailable, SettingsError.

    If the same worker opens a sink again, this ends at once the transaction that its former sink left open.
    """
    sink: Sink
    if settings.delivery == "exactly_once":
        sink = ExactlyOnceSink(settings.kafka, source, worker_id)
    else:
        sink = AtLeastOnceSink(settings.kafka, source)
    topics = settings.topics
    # As large as what comes in makes them. The others are small: one that is not is an error in its settings.
    large = [topics.dead_letters, topics.births, *(getattr(topics, output) for output in settings.outputs)]
    sink.expect(record_limits(settings.kafka, settings.written), large)
    return sink


class _ProducerSink:
    """The common part of both sinks: a producer, created again after a fault, and the commit in progress."""

    def __init__(self, settings: KafkaSettings, source: Source):
        self._settings = settings
        self._source = source
        self._produce = Produce(settings)
        self._under_way: tuple[Future[None], Offsets] | None = None  # a commit
        # At the start this may wait for a slow broker. Later it may not, since SIGTERM leaves only ten seconds.
        self._producer: KafkaProducer | None = self._open(settings.startup_timeout)

    def _open(self, timeout: float) -> KafkaProducer:
        """Return a producer that is ready, within `timeout` seconds or thereabouts. Raises worker.errors.KafkaError."""
        raise NotImplementedError

    def _begin_commit(self, offsets: Offsets, call: Callable[[], None]) -> None:
        self._under_way = _in_thread(call), offsets

    def _end_commit(self, offsets: Offsets) -> None:
        """Do the last step of a commit, once all that it waits for has arrived. Raises what the client raises."""
        raise NotImplementedError

    def settle(self) -> None:
        if self._under_way is None:
            return
        done, offsets = self._under_way
        with _errors_as_rewind(self._settings, "committing"):
            done.result(self._settings.commit_timeout)
            self._check_sent()
            self._end_commit(offsets)
        self._under_way = None
        self._source.committed(offsets)

    def _send(self, client: KafkaProducer, outputs: Iterable[Outputs]) -> None:
        for output in outputs:
            self._produce.send(client, output)

    def _ready(self) -> KafkaProducer:
        if self._producer is None:
            self._producer = self._open(self._settings.commit_timeout)
        return self._producer

    def expect(self, limits: Mapping[str, int], shortened: Iterable[str]) -> None:
        self._produce.limits.update(limits)
        self._produce.shortened.update(shortened)
        with readable_errors("looking for the output topics", self._settings.bootstrap):
            for topic in limits:
                self._ready().partitions_for(topic)

    def recover(self) -> None:
        with _errors_as_rewind(self._settings, "recovering"):
            self._ready()

    def send_batched(self) -> None:
        self.settle()
        with _errors_as_rewind(self._settings, "sending"):
            if self._producer is not None:
                self._produce.flush(self._producer)

    def _check_sent(self) -> None:
        for future in self._produce.sent:
            if not future.is_done:
                raise errors.KafkaTimeoutError("an output was not acknowledged")
            if future.failed():
                raise future.exception
        self._produce.sent.clear()

    def discard(self) -> None:
        self._produce.discard()
        self._under_way = None
        client, self._producer = self._producer, None
        if client is not None:
            # Closing waits for requests in flight, so it is done in a daemon thread that nobody joins.
            threading.Thread(target=_close, args=(client, 0), daemon=True).start()

    def close(self) -> None:
        if self._producer is not None:
            _close(self._producer, 1.0)
            self._producer = None


class ExactlyOnceSink(_ProducerSink):
    """Commits outputs and offsets in one transaction that carries the group's metadata (KIP-447).

    The broker fences a zombie because its generation is over, whatever its transactional id.
    """

    holds_back = True

    def __init__(self, settings: KafkaSettings, source: Source, worker_id: str = ""):
        # With an instance id, the next process has the same transactional id: a restarted static worker fences its
        # former self at once. Otherwise a transaction left open by a killed worker ends with its timeout.
        self._transactional_id = f"{settings.group}-{settings.instance_id or worker_id or uuid.uuid4()}"
        self._open_transaction = False
        super().__init__(settings, source)

    def _open(self, timeout: float) -> KafkaProducer:
        settings = self._settings
        client = producer(
            settings,
            transactional_id=self._transactional_id,
            # The open transaction of a killed worker blocks its successor for this long.
            transaction_timeout_ms=int(settings.session_timeout * 1000),
            delivery_timeout_ms=int(settings.session_timeout * 1000),
            request_timeout_ms=int(settings.commit_timeout * 1000),
            max_block_ms=int(min(timeout, settings.session_timeout) * 1000),
            timeout=timeout,
            batch_size=BATCH_BYTES,
            # While the broker writes the last transaction's markers, it answers "concurrent transactions". With the
            # default backoff of 100 ms, every transaction would wait that long.
            retry_backoff_ms=2,
        )
        try:
            client.init_transactions()
        except errors.UnsupportedVersionError as error:
            raise SettingsError(
                f"OFFNORMAL_DELIVERY: the broker has no transactions ({error}), which exactly_once needs;"
                " set at_least_once, which does not need them"
            ) from error
        except errors.KafkaError as error:
            _close(client, 0)
            raise readable(error, "opening transactions", settings.bootstrap) from error
        self._open_transaction = False
        return client

    def send(self, outputs: Iterable[Outputs]) -> None:
        """Send within the open transaction, or a new one. Raises Rewind."""
        self.settle()
        with _errors_as_rewind(self._settings, "sending"):
            client = self._ready()
            self._begin(client)
            self._send(client, outputs)

    def commit(self, offsets: Offsets) -> None:
        """Begin to commit the transaction with the offsets in it. Raises Rewind."""
        self.settle()
        membership = self._source.close_work() if offsets else None
        with _errors_as_rewind(self._settings, "committing"):
            client = self._ready()
            self._begin(client)
            self._produce.flush(client)
        self._begin_commit(offsets, lambda: self._finish(client, offsets, membership))

    def _end_commit(self, offsets: Offsets) -> None:
        self._open_transaction = False

    def discard(self) -> None:
        """Void what is open: the next producer's start bumps the epoch, and the broker then aborts it."""
        super().discard()
        self._open_transaction = False

    def _begin(self, client: KafkaProducer) -> None:
        if not self._open_transaction:
            client.begin_transaction()
            self._open_transaction = True

    def _finish(self, client: KafkaProducer, offsets: Offsets, membership: Any) -> None:
        if offsets:
            self._send_offsets(client, offsets, membership)
        self._commit_transaction(client)

    def _send_offsets(self, client: KafkaProducer, offsets: Offsets, membership: Any) -> None:
        waits.send_offsets(client, offsets, membership, self._settings.commit_timeout)

    def _commit_transaction(self, client: KafkaProducer) -> None:
        waits.commit_transaction(client, self._settings.commit_timeout)


class AtLeastOnceSink(_ProducerSink):
    """Commits offsets only after every output is acknowledged. A fault in between repeats outputs, with equal ids."""

    holds_back = False
    _membership: Any = None  # the membership under which the records of the current commit were fetched

    def _open(self, timeout: float) -> KafkaProducer:
        return producer(
            self._settings,
            batch_size=BATCH_BYTES,
            max_block_ms=int(self._settings.commit_timeout * 1000),
            timeout=timeout,
            delivery_timeout_ms=int(self._settings.session_timeout * 1000),
            request_timeout_ms=int(self._settings.commit_timeout * 1000),
        )

    def send(self, outputs: Iterable[Outputs]) -> None:
        """Send at once. Raises Rewind."""
        self.settle()
        with _errors_as_rewind(self._settings, "sending"):
            self._send(self._ready(), outputs)

    def commit(self, offsets: Offsets) -> None:
        """Begin to flush, and then to commit the offsets. Raises Rewind."""
        self.settle()
        self._membership = self._source.close_work() if offsets else None
        with _errors_as_rewind(self._settings, "sending"):
            self._produce.flush(self._ready())
        # The client's own flush does not suffice. It waits for the original batches, but a batch that is too large for
        # the broker is split into new ones.
        self._begin_commit(offsets, lambda: self._produce.await_sent(self._settings.commit_timeout))

    def _end_commit(self, offsets: Offsets) -> None:
        if offsets:
            # Not with the current membership: after a rebalance, a partition may belong to another worker that is
            # further on.
            self._source.commit(offsets, self._membership)


class _errors_as_rewind:
    """Turn the client's errors into Rewind, or into KafkaUnavailable if no retry helps."""

    def __init__(self, settings: KafkaSettings, doing: str):
        self._settings, self._doing = settings, doing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        fatal = cause_in(error, FATAL)
        if fatal is not None:
            raise readable(fatal, self._doing, self._settings.bootstrap) from error
        if isinstance(error, errors.KafkaError | TimeoutError | KafkaUnavailable):
            raise Rewind(f"{self._doing}: {type(error).__name__}: {error}") from error


def _in_thread(call: Callable[[], None]) -> Future[None]:
    """Run `call`, which takes some seconds at most, in a thread of its own."""
    done: Future[None] = Future()

    def run() -> None:
        try:
            done.set_result(call())  # type: ignore[func-returns-value]
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done


def _close(client: KafkaProducer, timeout: float) -> None:
    try:
        client.close(timeout=timeout)
    except Exception as error:
        log.debug("producer_close_failed", error=str(error))
        if client._sender is not None:  # with requests in flight it gives up, and leaves its thread running
            client._sender.force_close()
