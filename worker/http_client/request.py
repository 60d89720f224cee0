"""One request by HTTP, whose answer is bounded in time and in size, whatever the other side does."""

import contextlib
import http.client
import socket
import ssl
import threading
import urllib.error
import urllib.request
from typing import Any


def fetch(
    request: urllib.request.Request, timeout: float, context: ssl.SSLContext | None, largest: int
) -> tuple[int, bytes]:
    """Return status (200 for every success) and body, of at most `largest` bytes and one more.

    Raises OSError, HTTPException and ValueError; TimeoutError where not all of it arrives within `timeout` seconds.
    """
    with _Clock(timeout) as clock:
        opener = urllib.request.build_opener(_Plain(clock), _Secure(clock, context), _SentOn())
        try:
            with opener.open(request, timeout=timeout) as answer:
                status_and_body = 200, answer.read(largest + 1)
                if answer.length and len(status_and_body[1]) <= largest:  # a read of so many bytes does not mind
                    raise http.client.IncompleteRead(status_and_body[1], answer.length)
        except urllib.error.HTTPError as error:
            with error:
                status_and_body = error.code, error.read(largest + 1)
    return status_and_body


class _Clock:
    """Closes connections that have not answered in time. A socket's own timeout begins anew with each byte."""

    def __init__(self, timeout: float):
        self._timeout, self._is_over = timeout, False
        self._sockets: list[socket.socket] = []  # several, where it is sent on
        self._lock = threading.Lock()
        self._timer = threading.Timer(timeout, self._ring)
        self._timer.daemon = True

    def __enter__(self) -> "_Clock":
        self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Raise TimeoutError instead of the effect of hanging up, which may look like the end of the response.

        A socket that was silent for as long may be the first to time out.
        """
        self._timer.cancel()
        with self._lock:
            self._sockets.clear()
            if self._is_over or (kind is not None and issubclass(kind, TimeoutError)):
                raise TimeoutError(f"no whole answer within {self._timeout:g} s") from None

    def watch(self, connected: socket.socket) -> None:
        with self._lock:
            self._sockets.append(connected)
            if self._is_over:
                _hang_up(connected)

    def _ring(self) -> None:
        with self._lock:
            self._is_over = True
            for sock in self._sockets:
                _hang_up(sock)


def _hang_up(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # Not the shutdown of the TLS socket, which takes away what another thread is reading from.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


class _Plain(urllib.request.HTTPHandler):
    """Makes connections whose sockets the clock watches."""

    def __init__(self, clock: _Clock):
        super().__init__()
        self._connection = _watched(http.client.HTTPConnection, clock)

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(self._connection, request)


class _Secure(urllib.request.HTTPSHandler):
    """The same by TLS."""

    def __init__(self, clock: _Clock, context: ssl.SSLContext | None):
        super().__init__(context=context)
        self._connection, self._tls = _watched(http.client.HTTPSConnection, clock), context

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(self._connection, request, context=self._tls)


class _SentOn(urllib.request.HTTPRedirectHandler):
    """Follows redirects over HTTP only, and not out of TLS. Does not read their bodies, which have no size limit."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith("https:" if req.type == "https" else ("http:", "https:")):
            raise OSError(f"it redirects to {newurl[:200]}, which is not allowed")
        fp.close()
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _watched(kind: type[http.client.HTTPConnection], clock: _Clock) -> Any:
    class Watched(kind):  # type: ignore[misc,valid-type]
        """Shows the clock each socket that it gets: to a proxy, to where that leads, under TLS."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "sock" and value is not None:
                clock.watch(value)

    return Watched
