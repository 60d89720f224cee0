"""The page's answers, over a socket."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from tests.stage import until
from tests.unit.worker.observability.test_http_server import ask
from tests.unit.worker.page.test_feed import FakeReader
from worker.demo.broker import free_port
from worker.errors import KafkaUnavailable
from worker.observability import http_server
from worker.observability.http_server import Health, HttpServer
from worker.observability.metrics import Metrics
from worker.page import Page, feed as feeds, routes as pages
from worker.page.access import GUESSES
from worker.publishing import labels
from worker.serving.model_swap import ResidentModels
from worker.settings import HttpSettings, Settings

ID = "offnormal.sensors/0/1/0"
TOKEN = "a token that is long enough"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    monkeypatch.setattr(feeds, "Reader", FakeReader)
    monkeypatch.setattr(feeds, "EVERY", 0.05)
    running: list[Any] = []

    def start(**more: Any) -> int:
        settings = Settings(http=HttpSettings(**({"host": "127.0.0.1", "port": free_port(), "labels": True} | more)))
        metrics = Metrics()
        health = Health(True, True, {})
        page = Page(settings, metrics, ResidentModels(settings), lambda: health, dict)
        page.start()
        server = HttpServer(settings.http, metrics, lambda: health, page.routes)
        running.extend([page, server])
        return server.port

    yield start
    for each in running:  # a server looks twice a second whether it is to end
        threading.Thread(target=each.close, daemon=True).start()


def get(port: int, path: str, *headers: str) -> tuple[int, dict[str, str], bytes]:
    return read(ask(port, "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()))


def read(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body


def label(port: int, body: bytes | None = None, **headers: str | None) -> tuple[int, Any]:
    body = json.dumps({"id": ID, "verdict": "confirmed", "who": "Ada"}).encode() if body is None else body
    told: dict[str, str | None] = {
        "Host": f"localhost:{port}",
        "Origin": f"http://localhost:{port}",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
    }
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}" for name, value in told.items() if value is not None]
    request = "\r\n".join(["POST /page/label HTTP/1.1", *lines, "", ""]).encode() + body
    status, _, said = read(ask(port, request))
    return status, json.loads(said) if said.startswith(b"{") else said


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []

    def write(_: Settings, id: str, verdict: str, who: str, **__: Any) -> dict[str, str]:
        found.append((id, verdict, who))
        return {"id": id, "verdict": verdict, "who": who}

    monkeypatch.setattr(labels, "write", write)
    return found


def test_each_answer_says_what_a_browser_may_do(serve: Callable[..., int]) -> None:
    port = serve()
    for path in [*pages._FILES, "/page/incident", "/page/incident?id=x"]:
        status, headers, _ = get(port, path)
        assert status == (400 if "incident" in path else 200)
        assert "default-src 'none'" in headers["Content-Security-Policy"] and "unsafe" not in str(headers)
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == ("no-store" if "incident" in path else "no-cache")


def test_what_has_not_changed_is_not_sent_again(serve: Callable[..., int]) -> None:
    port = serve()
    _, headers, _ = get(port, "/page/page.js")
    status, _, body = get(port, "/page/page.js", f"If-None-Match: {headers['ETag']}")
    assert (status, body) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/page",
        "/page/",
        "/page/../page.js",
        "/page/..%2f..%2fcli.py",
        "/page//page.js",
        "/index.html",
        "/page/routes.py",
    ],
)
def test_nothing_else_is_served(serve: Callable[..., int], path: str) -> None:
    assert get(serve(), path)[0] == 404


def test_the_files_ask_for_nothing_elsewhere_and_write_no_markup() -> None:
    for name, _ in pages._FILES.values():
        text = pages._file(name).decode()
        if name.startswith("uPlot"):
            continue
        assert "://" not in text.replace("http://www.w3.org/2000/svg", ""), name
        for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style=", "onclick="):
            assert sink not in text, name


def test_methods(serve: Callable[..., int]) -> None:
    port = serve()
    assert b" 501 " in ask(port, b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n").splitlines()[0]
    assert b" 501 " in ask(port, b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").splitlines()[0]
    assert get(port, "/page/label")[0] == 404


def test_another_sites_name_for_this_machine_is_refused(serve: Callable[..., int]) -> None:
    port = serve()
    for path in ("/", "/page/stream", "/page/page.css"):
        assert read(ask(port, f"GET {path} HTTP/1.1\r\nHost: evil.example\r\n\r\n".encode()))[0] == 403
    assert read(ask(port, b"GET /livez HTTP/1.1\r\nHost: evil.example\r\n\r\n"))[0] == 200


def test_a_token_guards_all_but_probes(serve: Callable[..., int]) -> None:
    port = serve(token=SecretStr(TOKEN))
    for path in pages._FILES:
        status, _, body = get(port, path)
        assert (status == 200) == (path in ("/", "/page/page.css")) and b'id="overview"' not in body
    assert get(port, "/page/stream")[0] == get(port, "/page/incident")[0] == label(port)[0] == 401
    assert get(port, "/livez")[0] == get(port, "/metrics")[0] == 200
    form = f"token={TOKEN.replace(' ', '+')}".encode()
    head = b"POST /page/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    status, _, body = read(ask(port, head % 7 + b"token=x"))
    assert status == 403 and b"not the token" in body and b" hidden" not in body
    status, headers, _ = read(ask(port, head % len(form) + form))
    assert status == 303 and headers["Location"] == "/"
    cookie = headers["Set-Cookie"].split(";")[0]
    assert b"overview" in get(port, "/", f"Cookie: {cookie}")[2]
    assert b"overview" in get(port, "/", f"Authorization: Bearer {TOKEN}")[2]


def test_who_guesses_tokens_is_told_to_wait(serve: Callable[..., int]) -> None:
    port = serve(token=SecretStr(TOKEN))
    guess = b"POST /page/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7\r\n\r\ntoken=x"
    answers = [read(ask(port, guess)) for _ in range(GUESSES + 1)]
    assert [status for status, *_ in answers] == [403] * GUESSES + [429]
    assert answers[-1][1]["Retry-After"] == "1" and b"overview" not in answers[-1][2]


def test_a_label(serve: Callable[..., int], written: list[tuple[str, str, str]]) -> None:
    assert label(serve()) == (200, {"verdict": "confirmed"})
    assert written == [(ID, "confirmed", "Ada")]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (None, {"Origin": None}, 403),
        (None, {"Origin": "http://evil.example"}, 403),
        (None, {"Origin": "null"}, 403),
        (None, {"Content_Type": "text/plain"}, 415),
        (None, {"Content_Type": None}, 415),
        (None, {"Content_Length": None}, 411),
        (None, {"Content_Length": "-1"}, 411),
        (None, {"Content_Length": "1e3"}, 411),
        (None, {"Content_Length": "9" * 30}, 413),
        (b" " * 4097, {}, 413),
        (b"", {}, 400),
        (b"[]", {}, 400),
        (b"\xff", {}, 400),
        (b'{"id": 1, "verdict": "confirmed"}', {}, 400),
        (b'{"id": "offnormal.sensors/0/1/0", "verdict": "perhaps"}', {}, 400),
        (b'{"id": "offnormal.sensors/0/1/0", "verdict": ["confirmed"]}', {}, 400),
        (b'{"id": "other/0/1/0", "verdict": "confirmed"}', {}, 400),
        (b'{"id": "offnormal.sensors/0/1/0", "verdict": "confirmed", "who": 5}', {}, 400),
        (b"[" * 4000, {}, 400),
    ],
)
def test_what_is_no_label_is_refused(
    serve: Callable[..., int],
    written: list[tuple[str, str, str]],
    body: bytes | None,
    headers: dict[str, str | None],
    status: int,
) -> None:
    assert label(serve(), body, **headers)[0] == status
    assert written == []


def test_a_name_is_cut_and_printable(serve: Callable[..., int], written: list[tuple[str, str, str]]) -> None:
    port = serve()
    label(port, json.dumps({"id": ID, "verdict": "dismissed", "who": " \x1b[31m" + "x" * 500}).encode())
    label(port, json.dumps({"id": ID, "verdict": "dismissed", "who": " "}).encode())
    assert [who for _, _, who in written] == ["[31m" + "x" * 76, "page"]


def test_labels_are_off_by_default(serve: Callable[..., int], written: list[tuple[str, str, str]]) -> None:
    assert label(serve(labels=False))[0] == 501
    assert written == []


def test_where_kafka_is_away_it_says_so(serve: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise KafkaUnavailable("no answer from secret-host")

    monkeypatch.setattr(labels, "write", fails)
    assert label(serve()) == (503, {"error": "kafka"})


def test_an_incident_is_looked_at_by_one_at_a_time(serve: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def around(*_: Any) -> dict[str, Any]:
        begun.set()
        go_on.wait(5)
        return {"gone": True, "score": float("nan")}

    monkeypatch.setattr(pages.IncidentDetail, "around", around)  # type: ignore[attr-defined]
    port = serve()
    answers: list[Any] = []
    first = threading.Thread(target=lambda: answers.append(get(port, f"/page/incident?id={ID}")))
    first.start()
    begun.wait(5)
    assert json.loads(get(port, f"/page/incident?id={ID}")[2]) == {"busy": True}
    go_on.set()
    first.join(5)
    assert json.loads(answers[0][2]) == {"gone": True, "score": None}


def test_an_incident_where_there_is_no_model(serve: Callable[..., int]) -> None:
    assert get(serve(), f"/page/incident?id={ID}")[0] == 503


def test_a_failure_is_told_without_its_words(serve: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages.IncidentDetail, "around", lambda *_: 1 / 0)  # type: ignore[attr-defined]
    status, _, body = get(serve(), f"/page/incident?id={ID}")
    assert (status, json.loads(body)) == (500, {"error": "failed"})


def stream(port: int) -> socket.socket:
    s = socket.create_connection(("127.0.0.1", port), 5)
    s.sendall(b"GET /page/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return s


def test_a_stream_outlives_the_time_of_a_request(serve: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "PATIENCE", 0.3)
    with stream(serve()) as s:
        time.sleep(1)
        s.setblocking(False)
        while s.recv(1 << 20).count(b"data: ") == 0:
            time.sleep(0.01)
        time.sleep(0.2)
        assert b"data: " in s.recv(1 << 20)


def test_viewers_leave_room_for_probes(serve: Callable[..., int]) -> None:
    port = serve()
    streams = [stream(port) for _ in range(3 * feeds.VIEWERS)]
    time.sleep(0.5)
    assert get(port, "/livez")[0] == 200
    said = [s.recv(100) for s in streams]
    assert sum(b" 200 " in each for each in said) == feeds.VIEWERS
    assert sum(b" 503 " in each for each in said) == 2 * feeds.VIEWERS
    for s in streams:
        s.close()


def test_who_does_not_read_is_hung_up_on(serve: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "STREAM_PATIENCE", 2.0)
    monkeypatch.setattr(feeds, "_event", lambda _: b"data: " + b"x" * 1_000_000 + b"\n\n")
    port = serve()
    deaf = [stream(port) for _ in range(feeds.VIEWERS)]
    time.sleep(0.2)
    with stream(port) as refused:
        assert b" 503 " in refused.recv(100)

    def is_let_in() -> bool:
        with stream(port) as s:
            return b" 200 " in s.recv(100)

    until(is_let_in, 10)
    for each in deaf:
        each.close()
