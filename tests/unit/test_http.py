"""The HTTP port: read only, nothing echoed, and no client holds it for long, whatever it sends."""

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from worker import http
from worker.demo.broker import free_port
from worker.http import Health, HttpServer
from worker.metrics import Metrics
from worker.settings import HttpSettings


@pytest.fixture
def port() -> Iterator[int]:
    server = HttpServer(
        HttpSettings(host="127.0.0.1", port=free_port()), Metrics(), lambda: Health(True, False, {"waits_for": "x"})
    )
    yield server.port
    server.close()


def ask(port: int, request: bytes, timeout: float = 5) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout) as s:
        with contextlib.suppress(OSError):
            s.sendall(request)
            s.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(OSError):
            while part := s.recv(65536):
                answer += part
        return answer


def test_what_there_is(port: int) -> None:
    assert ask(port, b"GET /livez HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.0 200")
    assert ask(port, b"GET /readyz?verbose HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.0 503")
    assert b"offnormal_commits" in ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"TRACE", b"PATCH", b"CONNECT"])
def test_it_is_read_only(port: int, method: bytes) -> None:
    assert b" 501 " in ask(port, method + b" /livez HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc").splitlines()[0]


def test_fuzzed_requests_are_answered_and_nothing_of_them_is_shown(port: int) -> None:
    rng = random.Random(5)
    paths = [b"/livez", b"/../etc/passwd", b"//x", b"/%00", b"*", b"http://x/livez", b"/" + b"a" * 70_000, b"/\xff\n"]
    for _ in range(300):
        path = rng.choice(paths) + b"planted" + rng.randbytes(rng.randrange(20))
        headers = b"".join(
            b"X-%d: planted%s\r\n" % (k, rng.randbytes(rng.randrange(30))) for k in range(rng.choice([0, 1, 5, 150]))
        )
        version = rng.choice([b"HTTP/1.1", b"HTTP/9.9", b"", b"HTTP/1.1 x", b"\x00"])
        answer = ask(port, b"GET " + path + b" " + version + b"\r\n" + headers + b"\r\n")
        _, _, body = answer.partition(b"\r\n\r\n")
        assert b"planted" not in body
    assert ask(port, b"GET /livez HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.0 200")


def test_slow_clients_are_hung_up_on(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They send a byte now and then, which no timeout of a socket minds."""
    monkeypatch.setattr(http, "PATIENCE", 0.5)
    with socket.create_connection(("127.0.0.1", port), 5) as slow:
        slow.sendall(b"GET /li")
        began = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT011
            while time.monotonic() - began < 5:
                slow.sendall(b"v")
                time.sleep(0.1)
        assert time.monotonic() - began < 3


def test_many_clients_do_not_make_many_threads(port: int) -> None:
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        for _ in range(3 * http.AT_ONCE):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 5)).sendall(b"GET /")
        time.sleep(0.5)
        assert threading.active_count() - before <= 2 * http.AT_ONCE  # each has a clock of its own
    time.sleep(0.5)
    assert ask(port, b"GET /livez HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.0 200")
