"""TLS: certificates are read from their files anew for each connection, so that they may be rotated."""

import ssl
from typing import Any

import structlog

from worker.errors import KafkaError
from worker.settings import KafkaSettings

log = structlog.get_logger()


class RotatingContext:
    """Has what kafka-python asks of an ssl.SSLContext. Files that cannot be read, as when one is being replaced, leave
    those that were read last.
    """

    def __init__(self, settings: KafkaSettings):
        """Raises KafkaError where the files make no context."""
        self._settings = settings
        try:
            self._last = _context(settings)
        except OSError as error:  # ssl.SSLError is one
            raise KafkaError(f"certificates: {_readable(error)}: {_files(settings)}") from error

    def wrap_socket(self, *arguments: Any, **more: Any) -> ssl.SSLSocket:
        try:
            self._last = _context(self._settings)
        except OSError as error:
            log.warning(
                "certificates_not_read", error=_readable(error), consequence="those that were read before serve"
            )
        return self._last.wrap_socket(*arguments, **more)


def _context(settings: KafkaSettings) -> ssl.SSLContext:
    """Checks host names, as every context of a client does."""
    made = ssl.create_default_context(cafile=settings.ca_file)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.cert_file:
        made.load_cert_chain(settings.cert_file, settings.key_file, password="")  # nobody is there to be asked
    return made


def _readable(error: OSError) -> str:
    return error.strerror or str(error)


def _files(settings: KafkaSettings) -> str:
    named = {"CA_FILE": settings.ca_file, "CERT_FILE": settings.cert_file, "KEY_FILE": settings.key_file}
    return ", ".join(f"OFFNORMAL_KAFKA__{name} {file}" for name, file in named.items() if file) or "the system's"
