"""Probes and metrics over HTTP, and what other routes it is given. Nothing of a request is ever echoed. A client has
some seconds in all, and there are so many at a time.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import structlog

from worker.errors import SettingsError
from worker.metrics import Metrics
from worker.settings import HttpSettings

log = structlog.get_logger()

PATIENCE: Final = 10.0  # seconds that a request may take, its answer included
AT_ONCE: Final = 64  # requests; more are hung up on
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
    query: str  # behind the path's question mark
    headers: Message
    body: bytes


@dataclass(frozen=True)
class Response:
    """An answer. With `stream` it is these parts in place of the body, for as long as they come and the client reads
    them; then it is closed.
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
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # who is not accepted at once would ask again a second later

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
        log.debug("http_failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "offnormal"
    sys_version = ""

    def setup(self) -> None:
        # Not a timeout of the socket: a byte now and then would hold the thread for ever.
        self._deadline = threading.Timer(PATIENCE, _hang_up, (self.request,))
        self._deadline.daemon = True
        self._deadline.start()
        super().setup()

    def finish(self) -> None:
        self._deadline.cancel()
        super().finish()

    def do_GET(self) -> None:
        self._answer("GET", b"")

    def do_POST(self) -> None:
        if ("POST", self._path) not in self.server.routes:
            self.send_error(501)
            return
        told = self.headers.get_all("Content-Length", [])
        if len(told) != 1 or not (told[0].isascii() and told[0].isdecimal()):
            self.send_error(411)
        elif len(told[0]) > 9 or int(told[0]) > BODY_MOST:
            self.send_error(413)
        else:
            self._answer("POST", self.rfile.read(int(told[0])))

    @property
    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _answer(self, method: str, body: bytes) -> None:
        route = self.server.routes.get((method, self._path), _not_found)
        answer = route(Request(self.path.partition("?")[2], self.headers, body))
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
                if hasattr(socket, "TCP_USER_TIMEOUT"):  # who is gone without a word reads nothing for good
                    told = int(4000 * STREAM_PATIENCE)
                    self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, told)
                for part in answer.stream:
                    self.wfile.write(part)
        finally:
            if answer.stream is not None:
                answer.stream.close()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The library's own would show what was asked."""
        self.close_connection = True
        self.send_response(code, "refused")
        self.end_headers()
        self.wfile.write(b"refused\n")

    def log_message(self, format: str, *args: object) -> None:
        log.debug("http", line=format % args)


def _hang_up(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


def _not_found(_: Request) -> Response:
    return Response(404, "text/plain", b"not found\n")


def _probe(health: Health, good: Callable[[Health], bool]) -> Response:
    body = json.dumps({"ok": good(health)} | health.detail, default=str).encode() + b"\n"
    return Response(200 if good(health) else 503, "application/json", body)
