"""The one place where connections are made: plaintext, TLS and SASL, as the settings say."""

from typing import Any, Final

import kafka
import structlog
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from worker.kafka.faults import readable_errors
from worker.settings import KafkaSettings

log = structlog.get_logger()

# columns.py and produce.py take the place of what is not public: they were compared with these versions.
KNOWN: Final = ("3.0.12",)


def is_columnar(settings: KafkaSettings) -> bool:
    """Whether records are read and written in columns, as OFFNORMAL_KAFKA__CLIENT says; a kafka-python that this was
    never tried with is used by its public API, with a warning.
    """
    if settings.client == "columnar" and kafka.__version__ not in KNOWN:
        log.warning("columnar_client_not_used", kafka_python=kafka.__version__, known=KNOWN, consequence="slow")
        return False
    return settings.client == "columnar"


def options(settings: KafkaSettings) -> dict[str, Any]:
    """What every client is given."""
    return {
        "bootstrap_servers": [server.strip() for server in settings.bootstrap.split(",")],
        "bootstrap_timeout_ms": int(settings.startup_timeout * 1000),
        "client_id": f"offnormal-{settings.group}",
        "reconnect_backoff_max_ms": 2000,
        "security_protocol": settings.security_protocol,
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.username,
        "sasl_plain_password": settings.password.get_secret_value() if settings.password else None,
        "ssl_cafile": settings.ca_file,
        "ssl_certfile": settings.cert_file,
        "ssl_keyfile": settings.key_file,
    }


def consumer(settings: KafkaSettings, **more: Any) -> KafkaConsumer:
    """A consumer that never commits, creates or resets anything by itself. Raises worker.errors.KafkaError."""
    with readable_errors("connecting", settings.bootstrap):
        return KafkaConsumer(
            **options(settings)
            | {
                "enable_auto_commit": False,
                "allow_auto_create_topics": False,
                "auto_offset_reset": "none",
                # Also what makes the broker hold back offsets of open transactions when a partition changes hands.
                "isolation_level": "read_committed",
            }
            | more,
        )


def producer(settings: KafkaSettings, **more: Any) -> KafkaProducer:
    """A producer whose records are acknowledged by all in-sync replicas. Raises worker.errors.KafkaError."""
    with readable_errors("connecting", settings.bootstrap):
        return KafkaProducer(
            **options(settings)
            | {
                "acks": "all",
                "allow_auto_create_topics": False,
                "max_request_size": 32 * 1024 * 1024,  # the broker's limit is the one that counts
            }
            | more,
        )


def admin(settings: KafkaSettings, **more: Any) -> KafkaAdminClient:
    """Raises worker.errors.KafkaError."""
    with readable_errors("connecting", settings.bootstrap):
        return KafkaAdminClient(**options(settings), **more)
