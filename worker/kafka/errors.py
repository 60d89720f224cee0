"""What may go wrong with Kafka, sorted by what is to be done: do the work again, or end with a readable line."""

import contextlib
from collections.abc import Iterator

from kafka import errors

from worker.errors import KafkaUnavailable


class Rewind(Exception):
    """Uncommitted work is void: abort it, and read again from where it began. Nothing is lost."""


class OutsideFault(Rewind):
    """The cause lies outside of Kafka, so that new connections to the brokers would not help."""


# No retry fixes these: somebody has to change a setting, a password or an ACL.
FATAL = (
    errors.AuthorizationError,
    errors.SaslAuthenticationFailedError,
    errors.UnsupportedSaslMechanismError,
    errors.FencedInstanceIdError,
    errors.KafkaConfigurationError,
    errors.MessageSizeTooLargeError,
    errors.OffsetMetadataTooLargeError,
)


# Another producer with the same transactional id has taken over,
FENCED = (errors.ProducerFencedError, errors.InvalidProducerEpochError)
# or is about to.
OVERTAKEN = (
    *FENCED,
    errors.ConcurrentTransactionsError,
    errors.InvalidTxnStateError,
)


def cause_in(error: BaseException | None, kinds: tuple[type[Exception], ...]) -> Exception | None:
    """Return the error of one of `kinds` in `error`: itself, or one that the client has put into another.

    A producer's first error is raised again by what is called next: by `send` among the arguments of a KafkaError, by
    the methods of transactions only as a part of its text.
    """
    wrapped: tuple[object, ...] = getattr(error, "args", ())
    for cause in (error, *wrapped):
        if isinstance(cause, kinds):
            return cause
    for word in str(error).replace(":", " ").split() if type(error) is errors.KafkaError else ():
        kind = getattr(errors, word, None)
        if isinstance(kind, type) and issubclass(kind, kinds):
            return kind(str(error))
    return None


def readable(error: Exception, doing: str, bootstrap: str) -> KafkaUnavailable:
    """Return one line that says what failed and what to look at."""
    if isinstance(error, errors.FencedInstanceIdError):
        return KafkaUnavailable(
            "another worker has joined with the same OFFNORMAL_KAFKA__INSTANCE_ID: each worker needs its own"
        )
    if isinstance(error, errors.MessageSizeTooLargeError):
        return KafkaUnavailable(
            f"{doing}: an event is larger than its topic's max.message.bytes: raise that, or name fewer features"
            " (OFFNORMAL_DETECTION__TOP_FEATURES)"
        )
    if isinstance(error, errors.OffsetMetadataTooLargeError):
        return KafkaUnavailable(
            f"{doing}: the broker refuses the state that is committed with an offset: set its"
            " offset.metadata.max.bytes to 4096, the default, or more"
        )
    text = str(error).partition("Request '")[0].removeprefix(f"{type(error).__name__}: ") or type(error).__name__
    text = " ".join(text.split())[:200].rstrip(": ")
    if isinstance(error, FATAL):
        return KafkaUnavailable(f"{doing}: {bootstrap} refuses it: {text} (look at user, password and ACLs)")
    return KafkaUnavailable(
        f"{doing}: no answer from {bootstrap}: {text} (look at OFFNORMAL_KAFKA__BOOTSTRAP and network)"
    )


@contextlib.contextmanager
def readable_errors(doing: str, bootstrap: str) -> Iterator[None]:
    """Turn whatever kafka-python raises inside into worker.errors.KafkaError (exit code 4)."""
    try:
        yield
    except errors.KafkaError as error:
        raise readable(error, doing, bootstrap) from error
    except OSError as error:  # files of certificates, name resolution
        raise KafkaUnavailable(
            f"{doing}: {error} (look at OFFNORMAL_KAFKA__BOOTSTRAP and the files of certificates)"
        ) from error
