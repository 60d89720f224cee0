"""docs/examples: those in Python run, the others name what there is."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.brokers import Broker
from tests.stage import Stage, until
from worker.models import Artefact
from worker.publishing.cloudevents import schema

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
FAR = b"[1e6, 1e6, 1e6, 1e6]"


@pytest.fixture
def alarming(
    stage: Callable[..., Stage], apache: Broker, artefact: Artefact, rng: np.random.Generator
) -> Iterator[Stage]:
    """A worker that names what is sent to it."""
    s = stage().make_topics(1)
    s.publish(artefact)
    worker = s.worker()
    worker.await_log("partitions_assigned")
    yield s
    worker.stop()


def example(file: str, s: Stage, tmp_path: Path, *arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
    """Runs it, with the stage's topics for the defaults."""
    text = (EXAMPLES / file).read_text()
    for ours, theirs in (("offnormal.anomalies", s.topics.anomalies), ("offnormal.incidents", s.topics.incidents)):
        text = text.replace(f'"{ours}"', f'"{theirs}"')
    text = text.replace('"latest"', '"earliest"')  # it need not have joined before what it is to see
    text = re.sub(r'group_id="(.*)"', rf'group_id="{s.settings.kafka.group}-\1"', text)
    script, log = tmp_path / file, tmp_path / f"{file}.log"
    script.write_text(text)
    return subprocess.Popen(
        [sys.executable, str(script), s.bootstrap, *arguments], stdout=log.open("wb"), stderr=subprocess.STDOUT
    ), log


def test_send_is_a_press_whose_leak_is_found(stage: Callable[..., Stage], broker: Broker, tmp_path: Path) -> None:
    """As docs/index.md has it: a training on what it sends, and an incident of its leak, the pressure first."""
    s = stage().make_topics(1)
    for arguments in ([], ["--fault"]):
        text = (EXAMPLES / "send.py").read_text().replace('"offnormal.sensors"', f'"{s.topics.sensors}"')
        (tmp_path / "send.py").write_text(text)
        command = [sys.executable, str(tmp_path / "send.py"), s.bootstrap, *arguments]
        assert "press-1" in subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        if not arguments:
            assert s.training().wait(90) == 0
    assert s.worker("--until-end").wait(90) == 0
    events = [json.loads(record.value)["data"] for record in s.read(s.topics.anomalies)]
    first = [event["features"][0]["name"] for event in events[-50:]]
    assert len(first) == 50 and first.count("pressure") > 40
    incident = json.loads(s.read(s.topics.incidents)[-1].value)["data"]
    assert incident["state"] == "open" and incident["features"][0]["name"] == "pressure"


def test_subscribe_shows_events(alarming: Stage, tmp_path: Path) -> None:
    process, log = example("subscribe.py", alarming, tmp_path)
    try:
        alarming.send([FAR] * 3, keys=[b"press-1"] * 3)
        until(lambda: log.read_text().count("press-1: p ") == 3, 30)
        assert "alarm" in log.read_text() and "(expected" in log.read_text()
    finally:
        process.kill()


class Hook:
    """Fails at first, as hooks do."""

    def __init__(self, codes: list[int]):
        self.said: list[tuple[int, str]] = []
        said = self.said

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                code = codes.pop(0) if codes else 200
                said.append((code, body["text"]))
                self.send_response(code)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_webhook_posts_each_incident_once_it_can(alarming: Stage, tmp_path: Path) -> None:
    hook = Hook([503, 400])
    process, log = example("webhook.py", alarming, tmp_path, hook.url)
    try:
        for machine in (b"press-1", b"press-2", b"press-3"):
            alarming.send([FAR] * 3, keys=[machine] * 3)
            until(lambda: machine.decode() in "".join(told for _, told in hook.said), 30)  # noqa: B023
        until(lambda: len(hook.said) == 4, 30)
        assert [code for code, _ in hook.said] == [503, 400, 200, 200]
        first, again, *_ = (told for _, told in hook.said)
        assert first == again and "ALARM on press-1 since" in first
        assert "does not take it (400)" in log.read_text()
    finally:
        process.kill()
        hook.close()


def test_tables_have_the_columns_that_events_have() -> None:
    told = schema("anomaly")["properties"]
    data = told["data"]["properties"]
    known = {*told, *data, *data["model"]["properties"], *data["features"]["items"]["properties"], "at"}
    for file in ("flink.sql", "ksqldb.sql"):
        text = (EXAMPLES / file).read_text()
        assert set(re.findall(r"`(\w+)`", text)) <= known
        assert "read_committed" in text and "'offnormal.anomalies'" in text
    sink = json.loads((EXAMPLES / "connect-sink.json").read_text())["config"]
    assert sink["topics"] == "offnormal.anomalies" and sink["transforms.id.fields"] in told
    assert sink["consumer.override.isolation.level"] == "read_committed"
    assert all(isinstance(value, str) for value in sink.values()), "Connect's settings are strings"


def test_each_is_told_of() -> None:
    told = (EXAMPLES / "README.md").read_text()
    for file in EXAMPLES.iterdir():
        assert file.name in told or file.name == "README.md"
