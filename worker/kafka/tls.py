"""TLS: certificates are read from their files anew for each connection, so that they may be rotated."""

import ssl
from typing import Any

import structlog

from worker.errors import KafkaUnavailable
from worker.settings import KafkaSettings

log = structlog.get_logger()


class RotatingContext:
    """An ssl.SSLContext, as far as kafka-python needs one, that reads its files again for each connection.

    While files cannot be read, as when one is being replaced, those that were read last stay in force.
    """

    def __init__(self, settings: KafkaSettings):
        """Read the files. Raises KafkaUnavailable where they make no context."""
        self._settings = settings
        try:
            self._last = _context(settings)
        except OSError as error:  # ssl.SSLError is one
            raise KafkaUnavailable(f"certificates: {_readable(error)}: {_files(settings)}") from error

    def wrap_socket(self, *arguments: Any, **more: Any) -> ssl.SSLSocket:
        """Wrap the socket with newly read certificates, or with the last ones that could be read."""
        try:
            self._last = _context(self._settings)
        except OSError as error:
            log.warning(
                "certificates_read_failed", error=_readable(error), consequence="the ones read before stay in use"
            )
        return self._last.wrap_socket(*arguments, **more)


def _context(settings: KafkaSettings) -> ssl.SSLContext:
    """Return a context that checks host names, as every context of a client does."""
    context = ssl.create_default_context(cafile=settings.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.cert_file:
        context.load_cert_chain(settings.cert_file, settings.key_file, password="")  # nobody is there to be asked
    return context


def _readable(error: OSError) -> str:
    return error.strerror or str(error)


def _files(settings: KafkaSettings) -> str:
    named = {"CA_FILE": settings.ca_file, "CERT_FILE": settings.cert_file, "KEY_FILE": settings.key_file}
    return ", ".join(f"OFFNORMAL_KAFKA__{name} {file}" for name, file in named.items() if file) or "the system's"
