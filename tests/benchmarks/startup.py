"""Seconds from the worker's process start until its first events can be read under read_committed; and the share of a
core that it takes while nothing comes.
"""

import os
import time
from pathlib import Path
from statistics import median
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from tests.benchmarks import stream
from tests.brokers import Broker
from tests.stage import Stage
from worker.models import Artefact

IDLE = 20.0  # seconds


def run(broker: Broker, folder: Path, repeats: int) -> dict[str, Any]:
    s = Stage(broker.bootstrap, folder, {"OFFNORMAL_INPUT__FORMAT": "f32", "OFFNORMAL_OUTPUTS": "[]"})
    try:
        s.make_topics(4)
        s.publish(Artefact.load(stream.model(folder)))
        x, _ = stream.rows(1000, 0, share=0.1)
        s.send(stream.encoded(x, "raw"))
        started = [_first_event(s, i) for i in range(repeats + 1)]
        worker = s.worker()
        worker.await_log("partitions_assigned")
        time.sleep(3)
        before = _cpu_seconds(worker.popen.pid)
        time.sleep(IDLE)
        return {
            "seconds_to_first_event": round(median(started[1:]), 2),  # the first one warms the page cache
            "each": [round(each, 2) for each in started],
            "idle_share_of_a_core": round((_cpu_seconds(worker.popen.pid) - before) / IDLE, 4),
        }
    finally:
        s.close()


def _first_event(s: Stage, i: int) -> float:
    """As a group of its own, so that it finds the whole backlog."""
    consumer = KafkaConsumer(bootstrap_servers=s.bootstrap, isolation_level="read_committed", enable_auto_commit=False)
    try:
        partitions = [TopicPartition(s.topics.anomalies, p) for p in range(4)]
        consumer.assign(partitions)
        consumer.seek_to_end()
        for partition in partitions:
            consumer.position(partition)
        began = time.perf_counter()
        worker = s.worker(OFFNORMAL_KAFKA__GROUP=f"{s.settings.kafka.group}-{i}")
        while not consumer.poll(timeout_ms=100):
            if worker.popen.poll() is not None or time.perf_counter() > began + 60:
                raise RuntimeError(f"no event: {worker.errors[-2000:]}")
        seconds = time.perf_counter() - began
        worker.stop()
        return seconds
    finally:
        consumer.close()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
