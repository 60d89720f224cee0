"""Logs show no secrets, whatever fails, and a terminal obeys nothing of them."""

import io
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from kafka import KafkaConsumer
from pydantic import SecretStr

from worker.demo.broker import free_port
from worker.kafka import connection
from worker.observability import log
from worker.observability.http_server import Health, HttpServer, Request
from worker.observability.metrics import Metrics
from worker.page.access import Access
from worker.schema_registry import SchemaRegistry, client
from worker.settings import HttpSettings, KafkaSettings, LogSettings, SchemaRegistrySettings

SECRET = "plantedsecret0123456789"  # without marks: colours are put between these
Logs = Callable[[], str]


@pytest.fixture(params=["console", "json"])
def logs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Logs:
    """What has been logged, at debug level, in each format."""
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.setenv("COLUMNS", "1000")
    log.configure(LogSettings(level="debug", format=request.param))
    return said.getvalue


def connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: object, *topics: str, **configs: object) -> None:
        raise RuntimeError("within the constructor")

    monkeypatch.setattr(KafkaConsumer, "__init__", fails)
    monkeypatch.setattr(KafkaConsumer, "__del__", lambda _: None, raising=False)
    settings = KafkaSettings(
        security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN", username="u", password=SecretStr(SECRET)
    )
    connection.consumer(settings)


def asking_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(request: Any, *_: object) -> None:
        told = dict(request.header_items())
        raise RuntimeError(f"with {len(told)} headers")

    monkeypatch.setattr(client, "fetch", fails)
    settings = SchemaRegistrySettings(url="http://127.0.0.1:9", username=SECRET, password=SecretStr(SECRET))
    SchemaRegistry(settings).schema(5)


@pytest.mark.parametrize("fails", [connecting, asking_the_registry])
def test_an_exception_shows_no_secret(logs: Logs, monkeypatch: pytest.MonkeyPatch, fails: Callable[..., None]) -> None:
    for logger in (structlog.get_logger(), logging.getLogger("kafka")):
        try:
            fails(monkeypatch)
        except RuntimeError:
            logger.exception("failed")
    said = logs()
    assert said.count("Traceback") == 2 and said.count("RuntimeError") >= 2
    assert SECRET not in said and "cGxhbnRlZH" not in said


def test_a_login_that_fails_shows_no_token(logs: Logs) -> None:
    access = Access(HttpSettings(token=SecretStr(SECRET)))

    def enter(request: Request) -> Any:
        raise RuntimeError(len(access.enter(request) or ""))

    settings = HttpSettings(host="127.0.0.1", port=free_port())
    server = HttpServer(settings, Metrics(), lambda: Health(True, True, {}), {("POST", "/page/login"): enter})
    try:
        body = f"token={SECRET}".encode()
        with socket.create_connection(("127.0.0.1", server.port), 5) as client:
            client.sendall(b"POST /page/login HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            assert client.recv(1000) == b""
    finally:
        server.close()
    said = logs()
    assert "http_request_failed" in said and "RuntimeError" in said
    assert SECRET not in said


HOSTILE = "\x1b]0;PWNED\x07\x1b[2J\x9b31m\u202egnp.\ud800"


def test_a_terminal_obeys_nothing(logs: Logs) -> None:
    structlog.get_logger().warning("sensor_fault_detected", entity=HOSTILE, several=[HOSTILE], by={HOSTILE: HOSTILE})
    logging.getLogger("kafka").warning("they said %s", HOSTILE)
    for logger in (structlog.get_logger(), logging.getLogger("kafka")):
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            logger.exception("failed")
    said = logs()
    assert said.count("PWNED") >= 6
    for obeyed in ("\x1b]", "\x07", "\x1b[2J", "\x9b", "\u202e", "\ud800"):
        assert obeyed not in said
    assert "Traceback" in said


def test_a_traceback_on_a_terminal_keeps_its_lines(logs: Logs) -> None:
    try:
        raise ValueError("one\ntwo")
    except ValueError:
        structlog.get_logger().exception("failed")
    if "\x1b" in logs():  # the console's own colours
        assert "\nValueError: one\ntwo" in logs()


def test_what_the_client_says_again_and_again_is_said_once_in_a_while() -> None:
    seldom = log._Seldom()

    def passes(name: str, message: str, *arguments: object) -> bool:
        return seldom.filter(logging.LogRecord(name, logging.WARNING, "", 0, message, arguments, None))

    assert passes("kafka.coordinator", "Marking the coordinator dead (node %s)", 1)
    assert not any(passes("kafka.coordinator", "Marking the coordinator dead (node %s)", k) for k in range(100))
    assert passes("kafka.coordinator", "Heartbeat session expired"), "another thing"
    assert passes("kafka.net.manager", "Connection failed") and not passes("kafka.net.connection", "Connection lost")
    assert all(passes("worker", "ours") for _ in range(3))
    seldom._last = dict.fromkeys(seldom._last, time.monotonic() - log._Seldom.EVERY)
    assert passes("kafka.coordinator", "Marking the coordinator dead (node %s)", 1)


@pytest.mark.parametrize("no_color", ["", "1"])
def test_no_color_is_heeded(monkeypatch: pytest.MonkeyPatch, no_color: str) -> None:
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.setenv("NO_COLOR", no_color)
    log.configure(LogSettings(format="console"))
    structlog.get_logger().warning("model_swapped")
    assert ("\x1b[" in said.getvalue()) == (not no_color)


LINES = """
import logging, threading, structlog
from worker.observability import log
from worker.settings import LogSettings

log.configure(LogSettings(format="json"))
logging.getLogger().handlers[0].filters.clear()
ours, library = structlog.get_logger(), logging.getLogger("kafka")

def write(line):
    for _ in range(1000):
        line("model_swapped")

threads = [threading.Thread(target=write, args=(line,)) for line in (ours.warning, library.warning)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_a_line_stays_one_line_whatever_thread_logs_meanwhile() -> None:
    """In the image, where standard error is not buffered."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    done = subprocess.run([sys.executable, "-c", LINES], env=environment, capture_output=True, text=True, timeout=60)
    lines = done.stderr.splitlines()
    assert len(lines) == 2000
    assert {json.loads(line)["event"] for line in lines} == {"model_swapped"}
