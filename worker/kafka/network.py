"""kafka-python reads its sockets 4 KiB at a time, and copies what it has read five times. Here are larger reads, and
two copies: a fetch is then a third of the CPU time.
"""

import ssl
from typing import Any, Final

import kafka.net.manager as manager
import kafka.protocol.parser as parser
from kafka import errors
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport
from kafka.protocol.frame import KafkaBytes

RECEIVE: Final = 256 * 1024
_LARGE: Final = 64 * 1024


def widen() -> None:
    """For all connections of this process from now on. Once is enough; again does no harm."""
    manager.KafkaTCPTransport = TcpTransport
    manager.KafkaSSLTransport = SslTransport
    parser.KafkaBytes = Frame


class Frame(KafkaBytes):  # type: ignore[misc]
    """A received frame. A large slice of it is a view, for the decoder to copy once."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice) and index.stop - index.start >= _LARGE:
            return memoryview(self)[index]
        return super().__getitem__(index)


class _WideReceive:
    """Reads as much as there is, up to a limit: kafka-python would go on for as long as a fast broker sends."""

    _sock: Any

    def _sock_recv(self) -> tuple[bytes, Exception | None]:
        try:
            data = self._sock.recv(RECEIVE)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return b"", None
        except Exception as error:
            return b"", errors.KafkaConnectionError(error)
        return data, None if data else errors.KafkaConnectionError("socket disconnected")


class TcpTransport(_WideReceive, KafkaTCPTransport):  # type: ignore[misc]
    pass


class SslTransport(_WideReceive, KafkaSSLTransport):  # type: ignore[misc]
    pass
