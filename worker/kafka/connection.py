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

from worker.errors import KafkaError
from worker.kafka.faults import readable_errors
from worker.kafka.tls import RotatingContext
from worker.settings import KafkaSettings

log = structlog.get_logger()

# columns.py and produce.py take the place of what is not public: they were compared with these versions.
KNOWN: Final = ("3.0.12",)

_PATIENCE: Final = 3.0  # seconds, at first
_NOISE: Final = re.compile(
    r"^.*(?:failed: |Abort \()(?=\S)|<[^>]*>: |\[Error -?\d+\] |\w*Error: | \(_ssl\.c:\d+\)| \(backoff.*|[.) ]+$"
)
_FOR_GOOD: Final = (  # no patience helps
    "CERTIFICATE",
    "UNKNOWN_CA",
    "HANDSHAKE_FAILURE",
    "WRONG_VERSION_NUMBER",
    "SaslAuthenticationFailed",
    "UnsupportedSaslMechanism",
)


def is_columnar(settings: KafkaSettings) -> bool:
    """Whether records are read and written in columns, as OFFNORMAL_KAFKA__CLIENT says; a kafka-python that this was
    never tried with is used by its public API, with a warning.
    """
    if settings.client == "columnar" and kafka.__version__ not in KNOWN:
        log.warning("columnar_client_not_used", kafka_python=kafka.__version__, known=KNOWN, consequence="slow")
        return False
    return settings.client == "columnar"


def options(settings: KafkaSettings) -> dict[str, Any]:
    """What every client is given. Raises worker.errors.KafkaError."""
    return {
        "bootstrap_servers": [server.strip() for server in settings.bootstrap.split(",")],
        "client_id": f"offnormal-{settings.group}",
        "reconnect_backoff_max_ms": 2000,
        "security_protocol": settings.security_protocol,
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.username,
        "sasl_plain_password": settings.password.get_secret_value() if settings.password else None,
        "ssl_context": RotatingContext(settings) if "SSL" in settings.security_protocol else None,
    }


def consumer(settings: KafkaSettings, **more: Any) -> KafkaConsumer:
    """A consumer that never commits, creates or resets anything by itself. Raises worker.errors.KafkaError."""
    mine = {
        "enable_auto_commit": False,
        "allow_auto_create_topics": False,
        "auto_offset_reset": "none",
        # Also what makes the broker hold back offsets of open transactions when a partition changes hands.
        "isolation_level": "read_committed",
    }
    return _connected(KafkaConsumer, settings, settings.startup_timeout, mine | more)


def producer(settings: KafkaSettings, timeout: float | None = None, **more: Any) -> KafkaProducer:
    """A producer whose records are acknowledged by all in-sync replicas; connected within `timeout` seconds, by default
    those of the start. Raises worker.errors.KafkaError.
    """
    mine = {
        "acks": "all",
        "allow_auto_create_topics": False,
        "max_request_size": 32 * 1024 * 1024,  # the broker's limit is the one that counts
    }
    return _connected(KafkaProducer, settings, settings.startup_timeout if timeout is None else timeout, mine | more)


def write(
    settings: KafkaSettings,
    topic: str,
    records: Iterable[tuple[str, bytes | None, Sequence[tuple[str, bytes]]]],
    partition: int | None = None,
    timeout: float | None = None,
) -> None:
    """A few records, key, value and headers of each: in order, all acknowledged; connected, and each of them, within
    `timeout` seconds, by default those of the start, and 30. Raises worker.errors.KafkaError.
    """
    with readable_errors(f"writing {topic}", settings.bootstrap):
        client = producer(settings, timeout)
        try:
            for key, value, headers in records:
                client.send(topic, value, key.encode(), list(headers), partition=partition).get(timeout or 30)
        finally:
            client.close(timeout=5)


def admin(settings: KafkaSettings) -> KafkaAdminClient:
    """Raises worker.errors.KafkaError."""
    return _connected(KafkaAdminClient, settings, settings.startup_timeout, {})


def _connected(make: Callable[..., Any], settings: KafkaSettings, timeout: float, more: dict[str, Any]) -> Any:
    """kafka-python tries for as long as it is told, whatever it is refused for, and does not tell. So it is asked for a
    short while first, and for longer if patience may help.
    """
    begin, patience = time.monotonic(), _PATIENCE
    made: list[KafkaNetClient] = []

    def remember(*arguments: Any, **config: Any) -> KafkaNetClient:
        made.append(KafkaNetClient(*arguments, **config))
        return made[-1]

    while True:
        left = max(begin + timeout - time.monotonic(), 0.1)
        with readable_errors("connecting", settings.bootstrap), _LastFailure() as failure:
            try:
                tried = int(min(patience, left) * 1000)
                return make(**options(settings), bootstrap_timeout_ms=tried, kafka_client=remember, **more)
            except errors.KafkaTimeoutError as error:
                with contextlib.suppress(Exception):  # what failed has left it running
                    made[-1].close()
                if failure.is_for_good:
                    raise KafkaError(
                        f"connecting: {settings.bootstrap} refuses, or is refused: {failure.text}"
                        " (look at certificates, user and password)"
                    ) from error
                if left <= patience:
                    raise KafkaError(
                        f"connecting: no answer from {settings.bootstrap} within {timeout:g} s: {failure.text} (look at"
                        " OFFNORMAL_KAFKA__BOOTSTRAP, OFFNORMAL_KAFKA__SECURITY_PROTOCOL and network)"
                    ) from error
        log.warning("kafka_not_there", waited=round(time.monotonic() - begin), error=failure.text)
        patience *= 2


class _LastFailure(logging.Handler):
    """Why kafka-python does not connect: only its log knows. It is asked to be still meanwhile."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text, self.is_for_good = "nobody listens there", False
        self._log = logging.getLogger("kafka.net")

    def __enter__(self) -> "_LastFailure":
        self._log.addHandler(self)
        self._log.propagate = False
        return self

    def __exit__(self, *_: object) -> None:
        self._log.propagate = True
        self._log.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        told = str(record.exc_info[1]) if record.exc_info else record.getMessage()
        if self.is_for_good or "Unable to bootstrap" in told or not ("rror" in told or "SSL" in told):
            return
        self.is_for_good = any(word in told for word in _FOR_GOOD)
        self.text = _NOISE.sub("", _NOISE.sub("", " ".join(told.split())))[:200]
