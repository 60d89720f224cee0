"""A schema registry for tests: the few answers of Confluent's API, out of memory. tests/deploy has a real one."""

import json
import re
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class SmallRegistry:
    """Answers as Confluent's API says, out of memory. `away` lets it answer 503, `cut` break off in mid-answer."""

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        registry = self
        self.schemas: list[dict[str, Any]] = []
        self.subjects: dict[str, list[int]] = {}
        self.asked: list[str] = []
        self.logins: set[str | None] = set()
        self.away = self.cut = False
        self.elsewhere: str | None = None  # where it sends whoever asks

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # chunks are no part of an earlier one

            def do_GET(self) -> None:
                registry.asked.append(self.path)
                self._answer()

            do_POST = do_GET

            def _answer(self) -> None:
                registry.logins.add(self.headers["Authorization"])
                if registry.cut:
                    self.send_response(200)
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    self.wfile.write(b'10\r\n{"sch')
                    self.close_connection = True
                    return
                if registry.elsewhere is not None:
                    self.send_response(302)
                    self.send_header("Location", registry.elsewhere + self.path)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                status, answer = registry.answer(self.path, json.loads(body) if body else None)
                told = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(told)))
                self.end_headers()
                self.wfile.write(told)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http{'' if tls is None else 's'}://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        if self.away:
            return 503, {"error_code": 50301, "message": "away"}
        if path == "/subjects":
            return 200, list(self.subjects)
        if body is not None and (found := re.fullmatch(r"/subjects/([^/]+)/versions", path)):
            if body not in self.schemas:
                self.schemas.append(body)
            id = self.schemas.index(body) + 1
            versions = self.subjects.setdefault(found[1], [])
            if id not in versions:
                versions.append(id)
            return 200, {"id": id}
        if found := re.fullmatch(r"/schemas/ids/(\d+)", path):
            id = int(found[1])
            if id >= 2**31:  # where a number is expected, this is none to Java: it knows no such path
                return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}
            if 0 < id <= len(self.schemas):
                return 200, self.schemas[id - 1]
            return 404, {"error_code": 40403, "message": "Schema not found"}
        if (found := re.fullmatch(r"/subjects/([^/]+)/versions/(\d+)", path)) and found[1] in self.subjects:
            id = self.subjects[found[1]][int(found[2]) - 1]
            return 200, self.schemas[id - 1] | {"id": id}
        return 404, {"error_code": 40401, "message": "Subject not found"}

    def add(self, schema: Any, subject: str = "s", **more: Any) -> int:
        """-> its id"""
        text = schema if isinstance(schema, str) else json.dumps(schema)
        id: int = self.answer(f"/subjects/{subject}/versions", {"schema": text, **more})[1]["id"]
        return id

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
