"""What kafka-python's errors contain."""

import pytest
from kafka import errors

from worker.kafka.errors import FATAL, OVERTAKEN, cause_in

FENCED = errors.ProducerFencedError()


@pytest.mark.parametrize(
    "error",
    [
        FENCED,
        # As kafka/producer/transaction_manager.py raises it again, in `send` and in the methods of transactions.
        errors.KafkaError("Cannot perform send because at least one previous request has failed with errors.", FENCED),
        errors.KafkaError(f"Cannot execute transactional method because we are in an error state: {FENCED}"),
    ],
    ids=["itself", "argument", "text"],
)
def test_the_cause_is_found_wherever_the_client_puts_it(error: errors.KafkaError) -> None:
    assert isinstance(cause_in(error, OVERTAKEN), errors.ProducerFencedError)
    assert cause_in(error, FATAL) is None


def test_what_is_none_of_these_has_no_cause() -> None:
    assert cause_in(None, OVERTAKEN) is None
    assert cause_in(errors.KafkaTimeoutError("no answer"), OVERTAKEN) is None
    assert cause_in(ValueError("ProducerFencedError"), OVERTAKEN) is None
    assert isinstance(cause_in(errors.TopicAuthorizationFailedError(), FATAL), errors.TopicAuthorizationFailedError)


@pytest.mark.parametrize("name", ["TopicAuthorizationFailedError", "TransactionalIdAuthorizationFailedError"])
def test_a_right_that_was_taken_away_is_fatal_also_in_the_text_of_another_error(name: str) -> None:
    error = errors.KafkaError(f"Cannot execute transactional method because we are in an error state: [Error 1] {name}")
    assert type(cause_in(error, FATAL)).__name__ == name
