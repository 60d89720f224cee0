"""The one place where connections are made: plaintext, TLS and SASL, as the settings say."""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import kafka
import structlog
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, errors
from kafka.net.compat import KafkaNetClient

from worker.errors import KafkaUnavailable
from worker.kafka.client import internals
from worker.kafka.errors import readable_errors
from worker.kafka.login import login
from worker.kafka.tls import RotatingContext
from worker.settings import KafkaSettings

log = structlog.get_logger()

# client/fetch.py and client/produce.py replace private parts of kafka-python. They were compared with these versions.
KNOWN: Final = ("3.0.12",)

METADATA_AGE: Final = 5.0  # seconds
_PATIENCE: Final = 3.0  # seconds, at first
_PATIENCE_WITH_EACH: Final = 1.0  # with several brokers, since the next try may reach another one
# KafkaConsumer and KafkaProducer do not offer these options. One of several brokers may be cut off and not answer at
# all. Each failed try doubles the timeout.
_SETUP: Final = {"socket_connection_setup_timeout_ms": 1000, "socket_connection_setup_timeout_max_ms": 8000}
_NOISE: Final = re.compile(
    r"^.*(?:failed: |Abort \()(?=\S)|<[^>]*>: |\[Error -?\d+\] |\w*Error: | \(_ssl\.c:\d+\)| \(backoff.*|[.) ]+$"
)
_UNKNOWN: Final = "nothing listens at this address"
_FOR_GOOD: Final = (  # no patience helps
    "CERTIFICATE",
    "UNKNOWN_CA",
    "HANDSHAKE_FAILURE",
    "WRONG_VERSION_NUMBER",
    "SaslAuthenticationFailed",
    "UnsupportedSaslMechanism",
    "refuses a token",
)


def is_columnar(settings: KafkaSettings) -> bool:
    """Return whether records are read and written in columns, as OFFNORMAL_KAFKA__CLIENT says.

    An untested version of kafka-python is used through its public API, with a warning.
    """
    if settings.client == "columnar" and kafka.__version__ not in KNOWN:
        log.warning("columnar_client_disabled", kafka_python=kafka.__version__, known=KNOWN, consequence="slow")
        return False
    return settings.client == "columnar"


def options(settings: KafkaSettings) -> dict[str, Any]:
    """Return the options that every client gets. Raises KafkaError, and SettingsError without an extra."""
    return {
        "bootstrap_servers": [server.strip() for server in settings.bootstrap.split(",")],
        "client_id": f"offnormal-{settings.group}",
        "reconnect_backoff_max_ms": 1000,
        "security_protocol": settings.security_protocol,
        "ssl_context": RotatingContext(settings) if "SSL" in settings.security_protocol else None,
        **login(settings),
    }


def consumer(settings: KafkaSettings, timeout: float | None = None, **more: Any) -> KafkaConsumer:
    """Return a connected consumer that never commits, creates or resets anything by itself.

    Connecting takes at most `timeout` seconds, by default OFFNORMAL_KAFKA__STARTUP_TIMEOUT. Raises
    worker.errors.KafkaError.
    """
    defaults = {
        "enable_auto_commit": False,
        "allow_auto_create_topics": False,
        "auto_offset_reset": "none",
        # This also makes the broker hold back offsets of open transactions when a partition changes hands.
        "isolation_level": "read_committed",
        # This bounds how late added partitions are noticed, and leaders that have moved away from an unresponsive
        # broker.
        "metadata_max_age_ms": int(METADATA_AGE * 1000),
    }
    limit = settings.startup_timeout if timeout is None else timeout
    client = _connected(KafkaConsumer, settings, limit, defaults | more)
    internals.bound_requests(client, settings.commit_timeout, settings.session_timeout)
    return client


def producer(settings: KafkaSettings, timeout: float | None = None, **more: Any) -> KafkaProducer:
    """Return a connected producer whose records are acknowledged by all in-sync replicas.

    Connecting takes at most `timeout` seconds, by default OFFNORMAL_KAFKA__STARTUP_TIMEOUT. Raises
    worker.errors.KafkaError.
    """
    defaults = {
        "acks": "all",
        "allow_auto_create_topics": False,
        "max_request_size": 32 * 1024 * 1024,  # the broker's limit is the one that counts
    }
    limit = settings.startup_timeout if timeout is None else timeout
    client = _connected(KafkaProducer, settings, limit, defaults | more)
    internals.find_coordinators_again(client)
    return client


def write(
    settings: KafkaSettings,
    topic: str,
    records: Iterable[tuple[str, bytes | None, Sequence[tuple[str, bytes]]]],
    partition: int | None = None,
    timeout: float | None = None,
) -> None:
    """Write a few records (key, value and headers of each) in order, and wait until all are acknowledged.

    Connecting takes at most `timeout` seconds, by default OFFNORMAL_KAFKA__STARTUP_TIMEOUT; each record at most as
    long, by default 30 s. Raises worker.errors.KafkaError.
    """
    with readable_errors(f"writing {topic}", settings.bootstrap):
        client = producer(settings, timeout)
        try:
            for key, value, headers in records:
                client.send(topic, value, key.encode(), list(headers), partition=partition).get(timeout or 30)
        finally:
            client.close(timeout=5)


def admin(settings: KafkaSettings) -> KafkaAdminClient:
    """Return a connected admin client. Raises worker.errors.KafkaError."""
    return _connected(KafkaAdminClient, settings, settings.startup_timeout, {})


def _connected(make: Callable[..., Any], settings: KafkaSettings, timeout: float, more: dict[str, Any]) -> Any:
    """Make a client, and connect it within `timeout` seconds. Raises worker.errors.KafkaError.

    kafka-python keeps trying for as long as it may, whatever the reason for a refusal, and does not return the reason.
    So the first try is short, and longer tries follow only if waiting may help.
    """
    begin, patience = time.monotonic(), _PATIENCE_WITH_EACH if "," in settings.bootstrap else _PATIENCE
    clients: list[KafkaNetClient] = []
    reason = _UNKNOWN

    def remember(*arguments: Any, **config: Any) -> KafkaNetClient:
        clients.append(KafkaNetClient(*arguments, **config, **_SETUP))
        return clients[-1]

    while True:
        left = max(begin + timeout - time.monotonic(), 0.1)
        with readable_errors("connecting", settings.bootstrap), _LastFailure(reason) as failure:
            try:
                tried = int(min(patience, left) * 1000)
                return make(**options(settings), bootstrap_timeout_ms=tried, kafka_client=remember, **more)
            except errors.KafkaTimeoutError as error:
                with contextlib.suppress(Exception):  # what failed has left it running
                    clients[-1].close()
                if failure.is_for_good:
                    raise KafkaUnavailable(
                        f"connecting: {settings.bootstrap} refuses, or its certificate is refused: {failure.text}"
                        " (check certificates, user and password)"
                    ) from error
                if left <= patience:
                    raise KafkaUnavailable(
                        f"connecting: no answer from {settings.bootstrap} within {timeout:g} s: {failure.text} (check"
                        " OFFNORMAL_KAFKA__BOOTSTRAP, OFFNORMAL_KAFKA__SECURITY_PROTOCOL and the network)"
                    ) from error
        reason = failure.text
        log.warning("kafka_connection_failed", waited=round(time.monotonic() - begin), error=reason)
        patience *= 2


class _LastFailure(logging.Handler):
    """Captures why connecting fails, which is only in kafka-python's log, and silences that log meanwhile.

    `text` is why the try before failed. That the last, short try took too long says less.
    """

    def __init__(self, text: str) -> None:
        super().__init__(logging.DEBUG)
        self.text, self.is_for_good = text, False
        self._log, self._oauth_log = logging.getLogger("kafka.net"), logging.getLogger("kafka.net.sasl.oauth")

    def __enter__(self) -> "_LastFailure":
        self._log.addHandler(self)
        self._log.propagate = False
        self._oauth_log.setLevel(logging.DEBUG)  # why a broker refuses a token is not told otherwise
        return self

    def __exit__(self, *_: object) -> None:
        self._oauth_log.setLevel(logging.NOTSET)
        self._log.propagate = True
        self._log.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == self._oauth_log.name and not self.is_for_good and "SASL OAuth error" in record.msg:
            self.text, self.is_for_good = f"the broker refuses the token: {str(record.args)[:200]}", True
        if record.levelno < logging.WARNING:
            return
        text = str(record.exc_info[1]) if record.exc_info else record.getMessage()
        if self.is_for_good or "Unable to bootstrap" in text or not ("rror" in text or "SSL" in text):
            return
        if "Request timed out" in text and self.text != _UNKNOWN:
            return
        self.is_for_good = any(word in text for word in _FOR_GOOD)
        self.text = _NOISE.sub("", _NOISE.sub("", " ".join(text.split())))[:200]
