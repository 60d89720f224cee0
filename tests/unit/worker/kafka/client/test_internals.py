"""What is fixed in kafka-python, tested against its own code."""

from types import SimpleNamespace
from typing import Any

import pytest
from kafka import errors
from kafka.producer.sender import Sender
from kafka.producer.transaction_manager import TransactionManager

from worker.kafka.client import internals


class NoConnection:
    """A client of the sender that reaches no broker, and how long each wait for one might have lasted."""

    def __init__(self) -> None:
        self.patience: list[float] = []

    def await_ready(self, node_id: Any, timeout_ms: float) -> bool:
        self.patience.append(timeout_ms)
        raise errors.KafkaConnectionError(f"node {node_id} is not ready")


@pytest.fixture
def producer() -> Any:
    """A producer that is about to open transactions at a coordinator which is gone."""
    manager = TransactionManager("id", 10_000, api_version=(4, 1))
    manager.initialize_transactions()
    manager._transaction_coordinator = 1
    sender = Sender.__new__(Sender)
    sender.config = Sender.DEFAULT_CONFIG | {"request_timeout_ms": 3000}
    sender._client, sender._transaction_manager = NoConnection(), manager
    sender._accumulator = SimpleNamespace(has_incomplete=False)
    sender._running, sender._force_close = True, False
    return SimpleNamespace(_sender=sender, _transaction_manager=manager)


def test_a_request_outlives_the_coordinator_that_it_was_meant_for(producer: Any) -> None:
    client = producer._sender._client
    internals.find_coordinators_again(producer)
    producer._sender._maybe_send_pending_request()
    waiting = [type(handler).__name__ for _, _, handler in sorted(producer._transaction_manager._pending_requests)]
    assert waiting == ["FindCoordinatorHandler", "InitProducerIdHandler"]
    assert client.patience == [1000 * internals.COORDINATOR_PATIENCE]


def test_questions_for_a_coordinator_are_paced(producer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(internals.time, "sleep", slept.append)  # type: ignore[attr-defined]
    internals.find_coordinators_again(producer)
    handler = producer._transaction_manager._pending_requests[0][2]
    for _ in range(10):
        producer._transaction_manager.lookup_coordinator_for_request(handler)
    assert len(slept) == 6  # the first four are a burst


def test_a_producer_without_transactions_needs_no_coordinator() -> None:
    internals.find_coordinators_again(SimpleNamespace(_transaction_manager=None))  # type: ignore[arg-type]
