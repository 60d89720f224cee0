"""What runs during a fault: a stream of vectors with invalid records in it, swaps of models, and workers."""

import contextlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import confluent_kafka as librdkafka
import numpy as np
import torch
from kafka import KafkaAdminClient

from tests.brokers import ApacheKafka
from tests.cluster import Cluster
from tests.faults import checker
from tests.models import FEATURES, make_artefact, normal_rows
from tests.stage import Process, Stage, until
from worker.demo.broker import free_port
from worker.errors import OffnormalError
from worker.models import Artefact
from worker.registry import Registry

RUBBISH = (b"", b"no vector", b"[1, 2, 3]", b"[1, 2, 3, 1e999]", b'[1, 2, 3, "4"]', b"[[]]", b"\xff\xfe\x00", b"{")


@dataclass(frozen=True)
class Setting:
    """What all worlds of a run share."""

    kafka: ApacheKafka | Cluster
    folder: Path
    models: Sequence[Artefact]
    rate: int  # records a second
    cluster: Callable[[], Cluster]  # of three brokers, started by the first who asks

    @classmethod
    def make(cls, kafka: ApacheKafka, cluster: Callable[[], Cluster], folder: Path, rate: int) -> "Setting":
        return cls(kafka, folder, [make_artefact(seed) for seed in range(4)], rate, cluster)


class World:
    """Topics of its own, a producer that never rests, and a registry in which somebody promotes and rolls back."""

    idempotent = True  # a broker that dies must not make the input repeat

    def __init__(
        self,
        setting: Setting,
        rng: random.Random,
        swaps: bool = True,
        feeds: bool = True,
        partitions: int = 4,
        paused: bool = False,
        swap_every: tuple[float, float] = (1.5, 3.0),
        feed_every: float = 0.05,
        **settings: str,
    ):
        self.kafka, self.rng, self.rate = setting.kafka, rng, setting.rate
        folder = setting.folder / f"{time.time_ns()}"
        folder.mkdir()
        bootstrap = settings.pop("bootstrap", setting.kafka.bootstrap)
        # The checker makes scores again by the version alone; those by trims: tests/integration/test_following.py.
        fixed = {"OFFNORMAL_BATCH__COMMIT_INTERVAL": "0.1", "OFFNORMAL_DETECTION__FOLLOW": "false"}
        self.stage = Stage(bootstrap, folder, fixed | settings)
        self.done: Counter[str] = Counter()  # what was done to it
        self.bootstrap = setting.kafka.bootstrap
        self._models = setting.models
        self._published = [setting.models[0]]
        self._make_topics(partitions)
        self.stage.publish(setting.models[0])
        self._stop = threading.Event()
        jobs = [self._feed] * feeds + [self._swap] * swaps
        self._threads = [threading.Thread(target=self._run, args=(job,), daemon=True) for job in jobs]
        self._failed: list[Exception] = []
        self._swap_every, self._feed_every = swap_every, feed_every  # seconds; of swaps at least and at most
        self.pause = threading.Event()  # set: the input rests
        if paused:
            self.pause.set()
        self.sent = 0
        for thread in self._threads:
            thread.start()

    def _make_topics(self, partitions: int) -> None:
        self.stage.make_topics(partitions, self.kafka.replication)

    # -- what goes on

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:
            self._failed.append(error)

    def _feed(self) -> None:
        client = librdkafka.Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "enable.idempotence": self.idempotent,
                "message.timeout.ms": 300_000,
                "linger.ms": 5,
                "log_level": 0,
                "topic.metadata.refresh.interval.ms": 2000,
            }
        )
        rng = np.random.default_rng(self.rng.randrange(1 << 30))
        while not self._stop.is_set():
            began = time.monotonic()
            if not self.pause.is_set():
                for row in normal_rows(max(int(self.rate * self._feed_every), 1), rng):
                    if rng.random() < 0.02:
                        row[rng.integers(len(FEATURES))] += rng.normal() * 30
                    told = json.dumps(row.tolist()).encode()
                    value = RUBBISH[rng.integers(len(RUBBISH))] if rng.random() < 0.005 else told
                    with contextlib.suppress(BufferError):
                        client.produce(self.stage.topics.sensors, value, b"e%d" % rng.integers(20))
                        self.sent += 1
                    client.poll(0)
            self._stop.wait(max(self._feed_every - (time.monotonic() - began), 0))
        client.flush(120)

    def _swap(self) -> None:
        registry = Registry(self.stage.settings)
        while not self._stop.wait(self.rng.uniform(*self._swap_every)):
            try:
                fresh = [model for model in self._models if model not in self._published]
                if fresh and self.rng.random() < 0.5:
                    self._published.append(fresh[0])  # it may be there even if nobody has said so
                    registry.publish(fresh[0], "faults", "published")
                elif self.rng.random() < 0.3:
                    registry.rollback("faults", "rolled back")
                else:
                    registry.promote(self.rng.choice(self._published).card.version, "faults", "promoted")
                self.done["swaps"] += 1
            except OffnormalError:
                self.done["swaps that failed"] += 1

    # -- workers

    def worker(self, *arguments: str, **settings: str) -> Process:
        self.done["workers started"] += 1
        return self.stage.worker(*arguments, **self._with_port(settings))

    def _with_port(self, settings: Mapping[str, str]) -> dict[str, str]:
        return {"OFFNORMAL_HTTP__HOST": "127.0.0.1", "OFFNORMAL_HTTP__PORT": str(free_port()), **settings}

    def doomed(self, point: str, number: int, **settings: str) -> Process:
        self.done["workers started"] += 1
        return self.stage.start(["tests.faults.doomed", point, str(number)], self._with_port(settings))

    def busy(self, worker: Process, timeout: float = 60) -> None:
        """Waits until it has partitions."""
        worker.await_log("partitions_assigned", timeout=timeout)

    def kill(self, worker: Process) -> None:
        assert worker.popen.poll() is None, f"it has ended by itself:\n{worker.errors[-2000:]}"
        worker.kill()
        self.done["kill -9 of a worker"] += 1

    @contextlib.contextmanager
    def admin(self) -> Iterator[KafkaAdminClient]:
        client = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            yield client
        finally:
            client.close()

    def restart_broker(self, pause: float = 0.0) -> None:
        self.kafka.kill()
        time.sleep(pause)
        self.kafka.start()
        self.done["kill -9 and restart of the broker"] += 1

    @contextlib.contextmanager
    def pool(self, count: int, **settings: str) -> Iterator[list[Process]]:
        """So many workers that must not end by themselves."""
        workers = [self.worker(**settings) for _ in range(count)]
        self.busy(workers[0])
        yield workers
        for worker in workers:
            if worker.popen.poll() is None:
                assert worker.stop(30) == 0, worker.errors[-2000:]
            else:
                assert worker.popen.returncode in (0, -9), worker.errors[-2000:]

    # -- the end

    def rest(self) -> None:
        """The input ends, and so do the swaps."""
        self._stop.set()
        for thread in self._threads:
            thread.join(150)
            assert not thread.is_alive(), "the input, or the swaps, do not end"
        for error in self._failed:
            raise error

    def drain(self, timeout: float = 240, **settings: str) -> None:
        """What is left is scored by a worker to which nothing happens."""
        last = self.worker("--until-end", **settings)
        assert last.wait(timeout) == 0, last.errors[-3000:]

    def verdict(self, counts: checker.Counts = checker.all_count) -> checker.Verdict:
        offline = {model.card.version: _offline(model) for model in self._models}
        settings = self.stage.settings
        budget = settings.detection.false_alarm_rate
        return checker.check(
            self.bootstrap, settings.topics, settings.kafka.group, offline, len(FEATURES), budget, counts
        )

    def knows(self, models: Sequence[Artefact]) -> None:
        """Which versions may have scored."""
        self._models = models

    def close(self) -> None:
        self._stop.set()
        self.stage.close()

    def logged(self, event: str) -> list[dict[str, Any]]:
        """By all workers so far."""
        return [line for process in self.stage.processes for line in process.log(event)]


def _offline(model: Artefact) -> checker.Offline:
    return lambda x: model.detector.score(torch.from_numpy(x)).numpy()


def await_scored(world: World, more: int, timeout: float = 60) -> None:
    """Until the group has committed so many records more."""
    group, topic = world.stage.settings.kafka.group, world.stage.topics.sensors

    def total() -> int:
        return sum(checker.committed(world.bootstrap, group, topic).values())

    begin = total()
    until(lambda: total() >= begin + more, timeout, every=0.5)
