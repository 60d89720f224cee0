"""Alert rules by promtool; every panel of the dashboard, and every rule, asked of a real Prometheus that scrapes a real
worker.
"""

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.brokers import Broker
from tests.deploy.chart import CHART
from tests.deploy.tools import prometheus
from tests.models import normal_rows
from tests.stage import Stage, until
from worker.demo.broker import free_port
from worker.models import Artefact
from worker.observability.metrics import Metrics

RULES = CHART / "files/alerts.yaml"
DASHBOARD: dict[str, Any] = json.loads((CHART / "files/dashboard.json").read_text())
TESTS = Path(__file__).parent / "alerts.test.yaml"


def expressions() -> list[tuple[str, str]]:
    found = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    return found + [(rule["alert"], rule["expr"]) for rule in rules]


def test_promtool_takes_the_rules(tmp_path: Path) -> None:
    done = subprocess.run([str(prometheus("promtool")), "check", "rules", str(RULES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_should(tmp_path: Path) -> None:
    for file in (RULES, TESTS):
        shutil.copy(file, tmp_path)
    done = subprocess.run(
        [str(prometheus("promtool")), "test", "rules", TESTS.name], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tested = yaml.safe_load(TESTS.read_text())["tests"]
    fires = {t["alertname"] for test in tested for t in test["alert_rule_test"] if t["exp_alerts"]}
    silent = {t["alertname"] for test in tested for t in test["alert_rule_test"] if not t["exp_alerts"]}
    rules = {rule["alert"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]}
    assert fires == silent == rules


def test_the_runbook_knows_each_alert() -> None:
    told = (CHART.parents[2] / "docs/runbook.md").read_text()
    for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]:
        assert f"\n## {rule['alert']}\n" in told
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"


def test_only_metrics_that_there_are_are_asked_for() -> None:
    families = {family.name: family.type for family in Metrics().registry.collect()}
    for title, expression in expressions():
        for name in re.findall(r"\b(?:offnormal|process)_\w+", expression):
            known = name in families or any(
                name == family + suffix
                for family in families
                for suffix in ("_total", "_bucket", "_sum", "_count", "_info")
            )
            assert known, f"{title}: {name}"


def test_panels_do_not_overlap_and_each_says_its_unit() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["fieldConfig"]["defaults"]["unit"] and panel["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.fixture
def asked(
    stage: Callable[..., Stage], apache: Broker, artefact: Artefact, rng: np.random.Generator, tmp_path: Path
) -> Iterator[Callable[[str], list[Any]]]:
    """What a Prometheus answers that scrapes a worker at work."""
    port, own = free_port(), free_port()
    s = stage(OFFNORMAL_HTTP__PORT=str(port), OFFNORMAL_HTTP__HOST="127.0.0.1").make_topics(2)
    s.publish(artefact)
    worker = s.worker()
    worker.await_log("partitions_assigned")
    config = {
        "global": {"scrape_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": "offnormal",
                "static_configs": [{"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": "a"}}],
            }
        ],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    server = subprocess.Popen(
        [
            str(prometheus("prometheus")),
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{own}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def ask(expression: str) -> list[Any]:
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://127.0.0.1:{own}/api/v1/query?{query}", timeout=10) as answer:
            told = json.load(answer)
        assert told["status"] == "success"
        return list(told["data"]["result"])

    def has(expression: str) -> bool:
        try:
            return bool(ask(expression))
        except OSError:
            return False

    try:
        for _ in range(4):  # rates need several scrapes
            s.send_rows(normal_rows(200, rng))
            s.send([b"nonsense", b"[1e9, 1e9, 1e9, 1e9]"] * 3)
            time.sleep(1.5)
        until(lambda: has("sum(offnormal_vectors_total) > 500"), 30)
        until(lambda: has("rate(offnormal_vectors_total[1m])"), 30)
        yield ask
    finally:
        server.terminate()
        server.wait(20)
        worker.stop()


def test_a_real_prometheus_answers_every_panel(asked: Callable[[str], list[Any]]) -> None:
    for title, expression in expressions():
        query = expression.replace("$__rate_interval", "1m").replace("$namespace", ".*").replace("$job", ".*")
        answer = asked(query)
        if title.startswith("Offnormal"):
            assert not answer or title in ("OffnormalDeadLetters", "OffnormalAlarmFlood"), f"{title} fires: {answer}"
        elif not any(name in expression for name in ("drift", "sensor_faults", "p_value", "challenger")):
            assert answer, f"nothing in the panel {title}: {query}"
    assert asked('offnormal_model_info{device="cpu"}') and asked('offnormal_decisions{what="promoted"} == 1')
    assert float(asked("offnormal_false_alarm_budget_ratio")[0]["value"][1]) > 0
