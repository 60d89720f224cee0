"""What is used of kafka-python's consumer and producer that is not public, and what is mended there.

Written against the versions that `connection.KNOWN` names. fetch.py and produce.py hold the rest of what is private.
"""

import time
from collections import deque
from typing import Any, Final

from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition, errors
from kafka.coordinator.base import MemberState, SyncGroupRequest
from kafka.protocol.consumer import FetchRequest

LOOKUP_PAUSE: Final = 0.2  # seconds between two questions for the group's coordinator
COORDINATOR_PATIENCE: Final = 0.5  # seconds for a connection to a coordinator, before a producer asks who it is now
_BURST: Final = 4  # questions of a producer for coordinators, in LOOKUP_PAUSE, before it has to pause as well


def position(consumer: KafkaConsumer, place: TopicPartition) -> OffsetAndMetadata | None:
    """Return the next offset to fetch, with the leader epoch of what was read before it; None if that is not known.

    After the last record that was handed out there may be offsets that never are: markers and aborted records of
    transactions, and gaps that compaction has left. No broker is asked.
    """
    state = consumer._subscription.assignment.get(place)
    return None if state is None else state.position


def seek(consumer: KafkaConsumer, place: TopicPartition, offset: int, leader_epoch: int) -> None:
    """Go on at `offset`. By the epoch of what was read before, the client notices if the log has changed."""
    consumer._subscription.seek(place, OffsetAndMetadata(offset, "", leader_epoch))


def topic_id(consumer: KafkaConsumer, topic: str) -> str | None:
    """Return the id that tells a topic from another of the same name; None from brokers before 2.8."""
    id = consumer._cluster.topic_id(topic)
    return str(id) if id is not None and id.int else None


def joins(consumer: KafkaConsumer) -> bool:
    """Return whether the next poll (re-)joins the group, or goes on joining it."""
    coordinator = consumer._coordinator
    return bool(coordinator.state is not MemberState.STABLE or coordinator.need_rejoin())


def finish_join(consumer: KafkaConsumer) -> None:
    """See to it that a join which has completed between two polls is looked at by the next one.

    A group's leader takes note of added partitions in the middle of its join. If that is not over within the poll that
    began it, kafka-python sees no reason to rejoin any more: the join's result is never looked at, heartbeats stay
    off, and the group is stuck.
    """
    coordinator = consumer._coordinator
    if coordinator.state is MemberState.REBALANCING and not coordinator.need_rejoin():
        coordinator.request_rejoin()


def bound_requests(consumer: KafkaConsumer, seconds: float, session: float) -> None:
    """Give up a request that is not answered within `seconds`, and its connection: kafka-python waits for 30 s.

    A broker that is cut off closes no connection. Whoever waits for its answer to a heartbeat, or to a question who
    leads what, finds out by then. Not bounded are fetches, whose answers may be large, and joins, which have their own
    limit; to be told one's partitions waits for the group's leader, for a `session` at most.
    """
    manager = consumer._manager
    send = manager.send

    def bounded(request: Any, node_id: Any = None, request_timeout_ms: float | None = None) -> Any:
        if request_timeout_ms is None and not isinstance(request, FetchRequest):
            limit = session if isinstance(request, SyncGroupRequest) else seconds
            request_timeout_ms = limit * 1000
        return send(request, node_id=node_id, request_timeout_ms=request_timeout_ms)

    manager.send = bounded


def pace_lookups(consumer: KafkaConsumer) -> None:
    """Pause between two questions for the group's coordinator.

    While one is down, brokers go on naming it until its session ends; kafka-python asks again at once, some 400 times
    a second, from its own thread too, and says so each time.
    """
    coordinator = consumer._coordinator
    lookup = coordinator._send_group_coordinator_request
    last = -LOOKUP_PAUSE

    async def paced() -> Any:
        nonlocal last
        pause = last + LOOKUP_PAUSE - time.monotonic()
        if pause > 0:
            await consumer._net.sleep(pause)
        last = time.monotonic()
        return await lookup()

    coordinator._send_group_coordinator_request = paced


def find_coordinators_again(producer: KafkaProducer) -> None:
    """Make a producer ask anew for a coordinator that is down, and pause where it does so again and again.

    kafka-python's producer forgets the request that it was about to send to a coordinator, where its connection to it
    fails: whoever waits for the answer waits in vain, though another broker may long be the coordinator. It keeps the
    request where it is told that there is no connection instead. Then it asks in each turn of its thread, with the 2 ms
    between them that transactions need.
    """
    manager = producer._transaction_manager
    if manager is None:  # it needs no coordinator
        return
    client = producer._sender._client
    await_ready = client.await_ready

    def is_ready_soon(node_id: Any, timeout_ms: float) -> bool:
        try:
            return bool(await_ready(node_id, timeout_ms=min(timeout_ms, 1000 * COORDINATOR_PATIENCE)))
        except errors.KafkaConnectionError:
            return False

    client.await_ready = is_ready_soon
    lookup = manager.lookup_coordinator_for_request
    times: deque[float] = deque(maxlen=_BURST)

    def paced(request: Any) -> Any:
        if len(times) == _BURST and time.monotonic() - times[0] < LOOKUP_PAUSE:
            time.sleep(LOOKUP_PAUSE / _BURST)
        times.append(time.monotonic())
        return lookup(request)

    manager.lookup_coordinator_for_request = paced
