"""Probes and metrics over HTTP. Read only; nothing of a request is ever echoed. A client has some seconds in all, and
there are so many at a time.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import structlog

from worker.errors import SettingsError
from worker.metrics import Metrics
from worker.settings import HttpSettings

log = structlog.get_logger()

PATIENCE: Final = 10.0  # seconds that a request may take, its answer included
AT_ONCE: Final = 64  # requests; more are hung up on


@dataclass(frozen=True)
class Health:
    """`detail` is shown with the probe: what the worker waits for, or why it is not ready."""

    live: bool
    ready: bool
    detail: dict[str, Any]


class HttpServer:
    """Serves /livez, /readyz and /metrics from threads of its own, until `close`."""

    def __init__(self, settings: HttpSettings, metrics: Metrics, health: Callable[[], Health]):
        pages: dict[str, Callable[[], tuple[int, str, bytes]]] = {
            "/livez": lambda: _probe(health(), lambda h: h.live),
            "/readyz": lambda: _probe(health(), lambda h: h.ready),
            "/metrics": lambda: (200, metrics.content_type, metrics.exposition()),
        }

        class Handler(BaseHTTPRequestHandler):
            server_version = "offnormal"
            sys_version = ""

            def do_GET(self) -> None:
                page = pages.get(self.path.split("?")[0])
                status, kind, body = page() if page else (404, "text/plain", b"not found\n")
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("X-Content-Type-Options", "nosniff")
                self.end_headers()
                self.wfile.write(body)

            def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
                """The library's own would show what was asked."""
                self.close_connection = True
                self.send_response(code, "refused")
                self.end_headers()
                self.wfile.write(b"refused\n")

            def log_message(self, format: str, *args: object) -> None:
                log.debug("http", line=format % args)

        try:
            self._server = _Server((settings.host, settings.port), Handler)
        except OSError as error:
            raise SettingsError(f"OFFNORMAL_HTTP__PORT: {settings.host}:{settings.port}: {error.strerror}") from None
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # who is not accepted at once would ask again a second later

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]):
        super().__init__(address, handler)
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
        # Not a timeout of the socket: a byte now and then would hold the thread for ever.
        deadline = threading.Timer(PATIENCE, _hang_up, (request,))
        deadline.daemon = True
        deadline.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            deadline.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("http_failed", exc_info=True)


def _hang_up(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


def _probe(health: Health, good: Callable[[Health], bool]) -> tuple[int, str, bytes]:
    body = json.dumps({"ok": good(health)} | health.detail, default=str).encode() + b"\n"
    return (200 if good(health) else 503), "application/json", body
