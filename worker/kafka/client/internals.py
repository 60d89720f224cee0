"""Uses of the private API of kafka-python's consumer and producer, and fixes for their behaviour.

Written against the versions in `connection.KNOWN`. fetch.py and produce.py contain the other uses.
"""

import time
from collections import deque
from typing import Any, Final

from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition, errors
from kafka.coordinator.base import MemberState, SyncGroupRequest
from kafka.protocol.consumer import FetchRequest

LOOKUP_PAUSE: Final = 0.2  # seconds between two lookups of the group's coordinator
COORDINATOR_PATIENCE: Final = 0.5  # seconds to connect to a coordinator before a producer looks it up again
_BURST: Final = 4  # coordinator lookups of a producer within LOOKUP_PAUSE before it has to pause as well


def position(consumer: KafkaConsumer, place: TopicPartition) -> OffsetAndMetadata | None:
    """Return the next offset to fetch, with the leader epoch of what was read before it; None if it is unknown.

    It may be beyond the record after the last one that was handed out. Some offsets are never handed out: markers and
    aborted records of transactions, and gaps that compaction has left. No broker is asked.
    """
    state = consumer._subscription.assignment.get(place)
    return None if state is None else state.position


def seek(consumer: KafkaConsumer, place: TopicPartition, offset: int, leader_epoch: int) -> None:
    """Continue at `offset`. From the epoch of what was read before, the client detects whether the log has changed."""
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
    """Make the next poll process a join that has completed between two polls.

    The leader of a group notices added partitions in the middle of its join. If the join is not over within the poll
    that began it, kafka-python sees no more reason to rejoin. It then never processes the join's result, heartbeats
    stay off, and the group is stuck.
    """
    coordinator = consumer._coordinator
    if coordinator.state is MemberState.REBALANCING and not coordinator.need_rejoin():
        coordinator.request_rejoin()


def keep_joins(consumer: KafkaConsumer) -> None:
    """Make a poll use the result of a join that has completed between two polls.

    kafka-python discards the result, and sends another join request. If the member leads the group, everybody has to
    join again. Two members can keep each other joining like this for ever.
    """
    coordinator = consumer._coordinator
    join = coordinator._do_join_and_sync_async
    completed: tuple[Any, Any] | None = None  # the generation and the assignment

    async def join_or_use_completed() -> Any:
        nonlocal completed
        kept, completed = completed, None
        # Once a result was processed, the member is STABLE: what follows is another rebalance.
        if kept and coordinator.state is MemberState.REBALANCING and kept[0] == coordinator._generation:
            return kept[1]
        assignment = await join()
        completed = coordinator._generation, assignment
        return assignment

    coordinator._do_join_and_sync_async = join_or_use_completed


def bound_requests(consumer: KafkaConsumer, seconds: float, session: float) -> None:
    """Give up a request, and its connection, if it is not answered within `seconds`; kafka-python waits for 30 s.

    A broker that is cut off does not close its connections. With this limit, a missing response to a heartbeat or a
    metadata request is noticed in time. Fetches, whose responses may be large, and joins, which have their own limit,
    are not bounded. A SyncGroup request waits for the group's leader, for at most `session` seconds.
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
    """Pause between two lookups of the group's coordinator.

    While a coordinator is down, brokers keep returning it until its session ends. kafka-python repeats the lookup at
    once, some 400 times a second, also from its own thread, and logs each one.
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
    """Make a producer repeat the lookup of a coordinator that is down, with a pause between lookups.

    If the connection to a coordinator fails, kafka-python's producer loses the request that it was about to send.
    Whoever waits for the response waits in vain, though another broker may long be the coordinator. If the producer is
    told that there is no connection instead, it keeps the request. It then repeats the lookup in each turn of its
    thread, after the 2 ms of backoff that transactions need.
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
