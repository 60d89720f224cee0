"""Logins by Kerberos (GSSAPI). The system's Kerberos library gets the tickets, and renews them from a keytab.

The thread that serves all of a client's connections waits meanwhile: how long is in krb5.conf.
"""

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any

from kafka import errors
from kafka.net.sasl import register_sasl_mechanism
from kafka.net.sasl.gssapi import SaslMechanismGSSAPI

from worker.errors import SettingsError


class NoTicket(errors.KafkaConnectionError):  # type: ignore[misc]
    """There is no ticket, so there is no connection: kafka-python tries again, as after a broker that is away."""


class Kerberos(SaslMechanismGSSAPI):  # type: ignore[misc]
    """Authenticates one connection. kafka-python does not know gssapi's errors."""

    def __init__(self, **config: Any):
        with _readable():
            super().__init__(**config)

    def receive(self, auth_bytes: bytes) -> None:
        """Take the broker's answer. Raises NoTicket."""
        with _readable():
            super().receive(auth_bytes)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Raise NoTicket for what gssapi raises."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("gssapi"):
            raise
        reason = " ".join(str(error).split()).rpartition("Minor ")[2]  # the outer one says nothing
        raise NoTicket(f"Kerberos error: {reason[:200]}") from None


def use() -> None:
    """Let kafka-python use this for GSSAPI. Raises SettingsError without gssapi."""
    if importlib.util.find_spec("gssapi") is None:
        raise SettingsError("OFFNORMAL_KAFKA__SASL_MECHANISM=GSSAPI needs gssapi: pip install offnormal[gssapi]")
    register_sasl_mechanism("GSSAPI", Kerberos, overwrite=True)
