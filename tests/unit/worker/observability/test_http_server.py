"""The HTTP port: read only, nothing echoed, and no client holds it for long, whatever it sends."""

import contextlib
import random
import resource
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from worker.demo.broker import free_port
from worker.observability import http_server
from worker.observability.http_server import Health, HttpServer, Response
from worker.observability.metrics import Metrics
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


def test_headers_are_bounded_as_a_whole(port: int) -> None:
    for header in (b"X: " + b"a" * 1000, b"X: " + b"a" * 60_000, b"X: " + b"a" * 30_000):
        many = b"".join(header + b"\r\n" for _ in range(max(2, 40_000 // len(header))))
        answer = ask(port, b"GET /livez HTTP/1.1\r\n" + many + b"\r\n")
        assert b" 431 " in answer.splitlines()[0] and b"aaa" not in answer
    fits = b"".join(b"X: " + b"a" * 1000 + b"\r\n" for _ in range(30))
    assert ask(port, b"GET /livez HTTP/1.1\r\n" + fits + b"\r\n").startswith(b"HTTP/1.0 200")


def test_many_clients_with_many_headers_take_little_memory(port: int) -> None:
    """As the library bounds them it would be 6.5 MB for each of them."""
    head = b"GET /livez HTTP/1.1\r\n" + b"".join(b"X%d: %s\r\n" % (k, b"a" * 65_000) for k in range(99))
    before = peak_memory()
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 5)) for _ in range(40)]
        for each in held:
            with contextlib.suppress(OSError):
                each.sendall(head)
    assert peak_memory() - before < 60 * 2**20
    assert ask(port, b"GET /livez HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.0 200")


def peak_memory() -> int:
    """Bytes, of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"GET http://x/livez HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n", b"431"),
        (b"POST /p HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd", b"411"),
        *((b"POST /p HTTP/1.1\r\nContent-Length: %s\r\n\r\nabcd" % n, b"411") for n in (b"+4", b"1_0", b"-1", b"0x5")),
        (b"POST /p HTTP/1.1\r\nContent-Length: \xd9\xa5\r\n\r\nabcd", b"411"),
        (b"POST /p HTTP/1.1\r\nContent-Length: 5000\r\n\r\n", b"413"),
        (b"POST /p HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n", b"413"),
    ],
)
def test_requests_that_are_refused(request_: bytes, status: bytes) -> None:
    routes = {("POST", "/p"): lambda _: Response(200, "text/plain", b"planted")}
    settings = HttpSettings(host="127.0.0.1", port=free_port())
    server = HttpServer(settings, Metrics(), lambda: Health(True, True, {}), routes)
    try:
        answer = ask(server.port, request_)
        assert answer.split()[1] == status and b"planted" not in answer
    finally:
        threading.Thread(target=server.close, daemon=True).start()


def test_a_second_request_behind_the_first_is_not_answered(port: int) -> None:
    answer = ask(port, b"GET /livez HTTP/1.1\r\n\r\n" * 2)
    assert answer.count(b"HTTP/1.0") == 1


def test_slow_clients_are_hung_up_on(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They send a byte now and then, which no timeout of a socket minds."""
    monkeypatch.setattr(http_server, "PATIENCE", 0.5)
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
        for _ in range(3 * http_server.AT_ONCE):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 5)).sendall(b"GET /")
        time.sleep(0.5)
        assert threading.active_count() - before <= 2 * http_server.AT_ONCE  # each has a clock of its own
    time.sleep(0.5)
    assert ask(port, b"GET /livez HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.0 200")
