"""Serves probes, metrics and other routes over HTTP.

Nothing of a request is ever echoed. Time and number of connections are limited.
"""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from typing import Any, Final, cast

import structlog

from worker.errors import SettingsError
from worker.observability.metrics import Metrics
from worker.settings import HttpSettings

log = structlog.get_logger()

PATIENCE: Final = 10.0  # seconds that a request may take, its answer included
AT_ONCE: Final = 64  # requests; more are hung up on
HEAD_MOST: Final = 32 * 1024  # bytes of all headers together; the library allows a hundred headers of 64 KiB each
BODY_MOST: Final = 4096  # bytes
STREAM_PATIENCE: Final = 5.0  # seconds that the reader of a stream may take for a part of it


@dataclass(frozen=True)
class Health:
    """`detail` is shown with the probe: what the worker waits for, or why it is not ready."""

    live: bool
    ready: bool
    detail: dict[str, Any]


@dataclass(frozen=True)
class Request:
    """A request, as a route gets it."""

    query: str  # behind the path's question mark
    headers: Message
    body: bytes
    client: str = ""  # its address


@dataclass(frozen=True)
class Response:
    """An answer.

    With `stream` these parts replace the body, for as long as they come and the client reads them. Then the stream is
    closed.
    """

    status: int
    kind: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: Generator[bytes, None, None] | None = None


Route = Callable[[Request], Response]
Routes = Mapping[tuple[str, str], Route]  # method and path -> what answers


class HttpServer:
    """Serves /livez, /readyz and /metrics, and `more`, from threads of its own, until `close`."""

    def __init__(
        self, settings: HttpSettings, metrics: Metrics, health: Callable[[], Health], more: Routes | None = None
    ):
        routes: Routes = {
            **(more or {}),
            ("GET", "/livez"): lambda _: _probe(health(), lambda h: h.live),
            ("GET", "/readyz"): lambda _: _probe(health(), lambda h: h.ready),
            ("GET", "/metrics"): lambda _: Response(200, metrics.content_type, metrics.exposition()),
        }
        try:
            self._server = _Server((settings.host, settings.port), routes)
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            raise SettingsError(f"OFFNORMAL_HTTP__PORT: {where}: {error.strerror}; take another one, or 0") from None
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()

    def close(self) -> None:
        """Stop serving, and close the port."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # a client that is not accepted at once would retry only a second later

    def __init__(self, address: tuple[str, int], routes: Routes):
        super().__init__(address, _Handler)
        self.routes = routes
        self._free = threading.BoundedSemaphore(AT_ONCE)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("http_request_failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "offnormal"
    sys_version = ""

    def setup(self) -> None:
        # A socket timeout does not suffice: a client that sends a byte now and then would hold the thread forever.
        self._deadline = threading.Timer(PATIENCE, _hang_up, (self.request,))
        self._deadline.daemon = True
        self._deadline.start()
        super().setup()

    def finish(self) -> None:
        self._deadline.cancel()
        super().finish()

    def parse_request(self) -> bool:
        """Read the headers, bounded as a whole; refuse larger ones with 431."""
        whole, self.rfile = self.rfile, cast(Any, _Head(self.rfile))
        try:
            return super().parse_request()
        finally:
            self.rfile = whole

    def do_GET(self) -> None:
        self._answer("GET", b"")

    def do_POST(self) -> None:
        if ("POST", self._path) not in self.server.routes:
            self.send_error(501)
            return
        lengths = self.headers.get_all("Content-Length", [])
        if len(lengths) != 1 or not (lengths[0].isascii() and lengths[0].isdecimal()):
            self.send_error(411)
        elif len(lengths[0]) > 9 or int(lengths[0]) > BODY_MOST:
            self.send_error(413)
        else:
            self._answer("POST", self.rfile.read(int(lengths[0])))

    @property
    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _answer(self, method: str, body: bytes) -> None:
        route = self.server.routes.get((method, self._path), _not_found)
        answer = route(Request(self.path.partition("?")[2], self.headers, body, str(self.client_address[0])))
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        if answer.stream is None:
            self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        try:
            self.end_headers()
            self.wfile.write(answer.body)
            if answer.stream is not None:
                self._deadline.cancel()
                self.connection.settimeout(STREAM_PATIENCE)
                if hasattr(socket, "TCP_USER_TIMEOUT"):  # notices a client that vanished without a word
                    timeout_ms = int(4000 * STREAM_PATIENCE)
                    self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
                for part in answer.stream:
                    self.wfile.write(part)
        finally:
            if answer.stream is not None:
                answer.stream.close()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send an error that does not echo the request, as the library's own would."""
        self.close_connection = True
        self.send_response(code, "refused")
        self.end_headers()
        self.wfile.write(b"refused\n")

    def log_message(self, format: str, *args: object) -> None:
        log.debug("http_request_logged", line=format % args)


class _Head:
    """The header lines of a request, up to a maximum number of bytes."""

    def __init__(self, file: BufferedIOBase):
        self._file, self._left = file, HEAD_MOST

    def readline(self, limit: int) -> bytes:
        """Read a line. Raises HTTPException, which http.server answers."""
        line = self._file.readline(min(limit, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise http.client.HTTPException(f"headers of more than {HEAD_MOST} bytes")
        return line


def _hang_up(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


def _not_found(_: Request) -> Response:
    return Response(404, "text/plain", b"not found\n")


def _probe(health: Health, good: Callable[[Health], bool]) -> Response:
    body = json.dumps({"ok": good(health)} | health.detail, default=str).encode() + b"\n"
    return Response(200 if good(health) else 503, "application/json", body)
