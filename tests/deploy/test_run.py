"""What the chart renders, run as real processes against Kafka: command, environment, mounts and probes of each pod."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kafka import KafkaAdminClient, KafkaProducer

from tests.brokers import Broker
from tests.deploy.chart import Document, one, pod, render
from tests.models import normal_rows
from tests.stage import until
from worker.demo.broker import free_port

BIN = Path(sys.executable).parent
GROUP = "chart"


class Cluster:
    """Runs a release's containers here, one process each, with their volumes as folders."""

    def __init__(self, documents: list[Document], folder: Path, secrets: dict[str, dict[str, str]]):
        self._documents, self._folder, self._secrets = documents, folder, secrets
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, document: Document, name: str) -> subprocess.Popen[bytes]:
        spec = pod(document)
        (container,) = spec["containers"]
        mounts = {m["mountPath"]: self._volume(spec, m["name"], name) for m in container["volumeMounts"]}
        environment = {k: v for k, v in os.environ.items() if not k.startswith("OFFNORMAL_")}
        for each in container["env"]:
            assert each["name"] not in environment, "each once"
            environment[each["name"]] = self._mounted(self._value(each, name), mounts)
        command = [
            *container.get("command", ["offnormal-worker"]),
            *container.get("args", []),
        ]  # the image's entry point
        log = (self._folder / f"{name}.log").open("wb")
        process = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]], env=environment, stdout=log, stderr=log, cwd=mounts["/tmp"]
        )
        self._running.append(process)
        return process

    def run(self, document: Document, name: str) -> str:
        """To its end, within the Job's deadline."""
        limit = document["spec"].get("activeDeadlineSeconds", 60)
        code = self.start(document, name).wait(limit)
        said = (self._folder / f"{name}.log").read_text()
        assert code == 0, said
        return said

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.wait(10)

    def _volume(self, spec: Document, volume: str, name: str) -> Path:
        (found,) = [v for v in spec["volumes"] if v["name"] == volume]
        folder = self._folder / name / volume
        folder.mkdir(parents=True, exist_ok=True)
        files: dict[str, str] = {}
        if "configMap" in found:
            (config,) = [
                d
                for d in self._documents
                if d["kind"] == "ConfigMap" and d["metadata"]["name"] == found["configMap"]["name"]
            ]
            files = config["data"]
        elif "secret" in found:
            files = self._secrets[found["secret"]["secretName"]]
        for file, text in files.items():
            (folder / file).write_text(text)
        return folder

    def _value(self, told: dict[str, Any], name: str) -> str:
        if "value" in told:
            return str(told["value"])
        source = told["valueFrom"]
        if "fieldRef" in source:
            assert source["fieldRef"]["fieldPath"] == "metadata.name"
            return name
        return self._secrets[source["secretKeyRef"]["name"]][source["secretKeyRef"]["key"]]

    def _mounted(self, value: str, mounts: dict[str, Path]) -> str:
        for path, folder in mounts.items():
            if value.startswith(f"{path}/"):
                return str(folder / value.removeprefix(f"{path}/"))
        return value


def probe(document: Document, which: str) -> int:
    (container,) = pod(document)["containers"]
    asked = container[which]["httpGet"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    try:
        url = f"http://127.0.0.1:{ports[asked['port']]}{asked['path']}"
        with urllib.request.urlopen(url, timeout=container[which]["timeoutSeconds"]) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.fixture
def release(apache: Broker, tmp_path: Path) -> Iterator[tuple[list[Document], Cluster]]:
    documents = render(
        {
            "settings": {
                "kafka": {"bootstrap": apache.bootstrap, "group": GROUP},
                "http": {"port": free_port()},
                "model": {"signing_key_file": None},
                "training": {"steps": 60},
                "topics": {"sensors": "chart.sensors", "models": "chart.models"},
            },
            "credentials": {"secret": "keys", "signingKey": "signing"},
            "topics": {"partitions": 2, "replication": 1},
            "training": {"mode": "cron"},
        }
    )
    cluster = Cluster(documents, tmp_path, {"keys": {"signing": "a key of sixteen bytes and more"}})
    yield documents, cluster
    cluster.close()


def test_a_release_goes_from_no_topics_to_a_champion(
    release: tuple[list[Document], Cluster], apache: Broker, rng: np.random.Generator
) -> None:
    documents, cluster = release
    cluster.run(one(documents, "Job", "-topics"), "topics")
    worker = one(documents, "StatefulSet")
    first = cluster.start(worker, "plant-offnormal-worker-0")
    until(lambda: probe(worker, "startupProbe") == 200, 60)
    assert probe(worker, "livenessProbe") == 200 and probe(worker, "readinessProbe") == 503, "it waits for a model"

    producer = KafkaProducer(bootstrap_servers=apache.bootstrap)
    for row in normal_rows(3000, rng):
        producer.send("chart.sensors", str(row.tolist()).encode(), b"m")
    producer.flush(30)
    cron = one(documents, "CronJob")
    cluster.run({**cron, "spec": cron["spec"]["jobTemplate"]["spec"] | cron["spec"]}, "training")
    until(lambda: probe(worker, "readinessProbe") == 200, 60)
    assert "champion" in cluster.run(one(documents, "Pod", "-check"), "check")

    first.terminate()
    assert first.wait(pod(worker)["terminationGracePeriodSeconds"]) == 0
    admin = KafkaAdminClient(bootstrap_servers=apache.bootstrap)

    def members() -> list[str]:
        return [m["group_instance_id"] for m in admin.describe_groups([GROUP])[GROUP]["members"]]

    assert members() == ["plant-offnormal-worker-0"], "it may come back"
    leave = one(documents, "Job", "-leave")
    arguments = pod(leave)["containers"][0]["args"]
    arguments[arguments.index("--after") + 1] = "0s"
    cluster.run(leave, "leave")
    assert members() == ["plant-offnormal-worker-0"], "of the two that are kept"
    arguments[arguments.index("--keep") + 1] = "0"
    began = time.monotonic()
    assert "plant-offnormal-worker-0 left" in cluster.run(leave, "leave")
    assert members() == [] and time.monotonic() - began < 40, "long before its session ends"
