"""Checks that workers come to rest after the input has ended. All must be members of a stable group that has all
partitions, have read and committed everything, report this, and hold no more resources than before.
"""

import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import confluent_kafka as librdkafka
from confluent_kafka.admin import AdminClient

from tests.faults import checker
from tests.faults.world import World
from tests.stage import Process

WITHIN = 30.0  # seconds after the last record
STOPS_WITHIN = 10.0  # seconds after SIGTERM
MORE_FILES, MORE_THREADS = 10, 5  # connections to other brokers than before, a producer that is on its way out

Usage = tuple[int, int, int]  # MiB, files, threads


def at_rest(world: World, workers: Sequence[Process], before: Mapping[Process, Usage] | None = None) -> list[str]:
    """What is not as it should be, within WITHIN."""
    deadline = time.monotonic() + WITHIN
    while (wrong := _wrong(world, workers)) and time.monotonic() < deadline:
        time.sleep(0.5)
    complaints = [f"{WITHIN:g} s after the last record: {each}" for each in wrong]
    for k, worker in enumerate(workers):
        if before is not None and worker in before and worker.popen.poll() is None:
            _, files, threads = before[worker]
            _, files_now, threads_now = usage(worker.popen.pid)
            if files_now > files + MORE_FILES:
                complaints.append(f"worker {k} has {files_now} files open, {files} before")
            if threads_now > threads + MORE_THREADS:
                complaints.append(f"worker {k} has {threads_now} threads, {threads} before")
    return complaints


def usage(pid: int) -> Usage:
    """Return the resident MiB, open files and threads of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(status["VmRSS"].split()[0]) // 1024, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"])


def stopped(workers: Sequence[Process]) -> tuple[float, list[str]]:
    """Send SIGTERM to all at once. Return the seconds until the last one ended, and what is not as it should be."""
    complaints = []
    alive = [worker for worker in workers if worker.popen.poll() is None]
    for worker in alive:
        worker.popen.terminate()
    began = time.monotonic()
    while any(worker.popen.poll() is None for worker in alive) and time.monotonic() < began + STOPS_WITHIN:
        time.sleep(0.05)
    seconds = time.monotonic() - began
    for k, worker in enumerate(workers):
        if worker.popen.poll() is None:
            complaints.append(f"worker {k} has not ended {STOPS_WITHIN:g} s after SIGTERM: {worker.errors[-500:]}")
            worker.kill()
        elif worker.popen.returncode != 0:
            complaints.append(f"worker {k} ended with {worker.popen.returncode}: {worker.errors[-1500:]}")
    return seconds, complaints


def _wrong(world: World, workers: Sequence[Process]) -> list[str]:
    found = [f"worker {k} has ended" for k, worker in enumerate(workers) if worker.popen.poll() is not None]
    found += group_wrong(world, len(workers))
    ends = _ends(world)
    at = checker.committed(world.bootstrap, world.stage.settings.kafka.group, world.stage.topics.sensors)
    if behind := {p: (at.get(p), end) for p, end in ends.items() if end and at.get(p) != end}:
        found.append(f"committed offset and log end offset, by partition: {behind}")
    lags: dict[str, float] = {}
    for k, worker in enumerate(workers):
        status, _ = _get(worker, "/readyz")
        if status != 200:
            found.append(f"/readyz of worker {k}: {status}")
        for line in _get(worker, "/metrics")[1].splitlines():
            if line.startswith("offnormal_lag_records{"):
                labels, _, lag = line.rpartition(" ")
                lags[labels] = lags.get(labels, 0.0) + float(lag)
    if len(lags) != len(ends) or any(lags.values()):
        told = {labels.partition("{")[2].rstrip("}"): lag for labels, lag in lags.items()}
        found.append(f"offnormal_lag_records of {len(lags)} of {len(ends)} partitions: {told}")
    return found


def group_wrong(world: World, members: int) -> list[str]:
    """What there is to say against the group having so many members, stable, with all partitions."""
    group = world.stage.settings.kafka.group
    client = AdminClient({"bootstrap.servers": world.bootstrap, "log_level": 0})
    try:
        told = client.describe_consumer_groups([group], request_timeout=10)[group].result()
        partitions = sorted(_ends(world))
    except librdkafka.KafkaException as error:
        return [f"the group cannot be described: {error}"]
    found = []
    if told.state is not librdkafka.ConsumerGroupState.STABLE or len(told.members) != members:
        found.append(f"the group is {told.state.name}, {len(told.members)} members of {members}")
    assigned = sorted(place.partition for member in told.members for place in member.assignment.topic_partitions)
    if assigned != partitions:
        found.append(f"assigned are the partitions {assigned} of {partitions}")
    return found


def _ends(world: World) -> dict[int, int]:
    client = librdkafka.Consumer({"bootstrap.servers": world.bootstrap, "group.id": "looker", "log_level": 0})
    try:
        topic = world.stage.topics.sensors
        partitions = client.list_topics(topic, timeout=10).topics[topic].partitions
        return {p: client.get_watermark_offsets(librdkafka.TopicPartition(topic, p), timeout=10)[1] for p in partitions}
    finally:
        client.close()


def _get(worker: Process, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)
