"""A world with three brokers: topics on all of them, workers watched while one is down, and the checks at the end."""

import contextlib
import functools
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic

from tests.cluster import OFFSETS, TRANSACTIONS, Cluster
from tests.faults import checker
from tests.faults.outcome import Outcome, Scenario, scenario
from tests.faults.progress import CONTROLLER_LOST_MOST, LOST_MOST, Interruption, judge, standstills
from tests.faults.rest import Usage, at_rest, stopped, usage
from tests.faults.world import Setting, World, await_scored
from tests.stage import Process

RATE = 300  # records a second, at most: two cores have three brokers to bear
# While a coordinator is away a worker has nothing to do.
LINES, LINES_ROOM = 1.0, 5  # of its log, a second; and what it says of the event itself
LOAD = 1.0  # CPU seconds that a model takes to be loaded: swaps go on
CPU, CPU_ROOM = 0.20, 0.25  # of a core; and what else the machine may be doing


def on_cluster(small: int, full: int) -> Callable[[Scenario], Scenario]:
    """A scenario on the run's cluster, which is whole before it and after it."""

    def register(call: Scenario) -> Scenario:
        @functools.wraps(call)
        def run(setting: Setting, rng: random.Random, n: int) -> Outcome:
            cluster = setting.cluster()
            cluster.heal()
            try:
                return call(replace(setting, kafka=cluster, rate=min(setting.rate, RATE)), rng, n)
            finally:
                cluster.heal()

        return scenario(small, full)(run)

    return register


class ClusterWorld(World):
    """`layout` makes some topics otherwise than by default, before all others are made: name among the settings'
    topics -> replicas of each partition, and its configuration.
    """

    kafka: Cluster

    def __init__(
        self,
        setting: Setting,
        rng: random.Random,
        layout: Mapping[str, tuple[Sequence[Sequence[int]], Mapping[str, str]]] | None = None,
        idempotent: bool = True,
        **more: Any,
    ):
        self._layout, self.idempotent = layout or {}, idempotent
        self.interruptions: list[Interruption] = []
        self.complaints: list[str] = []
        self.before: dict[Process, Usage] = {}
        self._busiest, self._lines, self._slowest_stop = 0.0, 0.0, 0.0
        super().__init__(setting, rng, **more)

    def _make_topics(self, partitions: int) -> None:
        topics = self.stage.topics
        with self.kafka.admin() as admin:
            special = [
                NewTopic(
                    getattr(topics, name), replica_assignments=dict(enumerate(replicas)), topic_configs=dict(config)
                )
                for name, (replicas, config) in self._layout.items()
            ]
            if special:
                admin.create_topics(special)
            super()._make_topics(partitions)
            times = {"message.timestamp.type": "LogAppendTime"}
            for topic in (topics.sensors, topics.scores):
                admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=times)], incremental=True)

    # -- who does what

    def group_coordinator(self) -> int:
        return self.kafka.coordinator(OFFSETS, self.stage.settings.kafka.group)

    def transaction_coordinator(self, transactional_id: str) -> int:
        return self.kafka.coordinator(TRANSACTIONS, transactional_id)

    def places(self, *topics: str) -> list[TopicPartition]:
        return [TopicPartition(topic, p) for topic in topics for p in self.kafka.leaders(topic)]

    # -- workers

    def fleet(self, count: int, **settings: str) -> list[Process]:
        """Workers that live to the end. All of them have partitions, and work."""
        workers = [self.worker(**settings) for _ in range(count)]
        self.settle_in(workers)
        return workers

    def settle_in(self, workers: Sequence[Process]) -> None:
        for worker in workers:
            self.busy(worker, timeout=120)
        if not self.pause.is_set():
            await_scored(self, self.rate)
        time.sleep(2)
        self.before |= {worker: usage(worker.popen.pid) for worker in workers}

    def stop_one(self, workers: list[Process]) -> None:
        """Send SIGTERM to one of them, which has to end though something is away."""
        self.stop([workers.pop(0)])
        self.done["workers stopped meanwhile"] += 1

    def stop(self, workers: Sequence[Process]) -> None:
        """Send SIGTERM to all of them. Whatever is not as it should be is a complaint."""
        seconds, complaints = stopped(workers)
        self._slowest_stop = max(self._slowest_stop, seconds)
        self.complaints += complaints

    # -- what is done to it

    def interrupted(self, what: str, most: float, median: float | None = None, spares: Sequence[int] = ()) -> None:
        """Something begins now, that may stop a partition for `most` seconds."""
        self.interruptions.append(Interruption(what, most, median, frozenset(spares)))
        self.done[what] += 1

    def loses(self, number: int, what: str) -> None:
        """A broker is lost from now on, which may be the controller."""
        if number == self.kafka.controller():
            self.interrupted(f"{what}, the controller", CONTROLLER_LOST_MOST)
        else:
            self.interrupted(what, LOST_MOST)

    @contextlib.contextmanager
    def coordinator_away(self, workers: Sequence[Process]) -> Iterator[None]:
        """Workers are looked at for as long as this lasts."""
        began = time.monotonic()
        cpu = [_cpu_seconds(worker) for worker in workers]
        lines = [worker.errors.count("\n") for worker in workers]
        loads = list(map(_loads, workers))
        yield
        seconds = time.monotonic() - began
        for k, worker in enumerate(workers):
            if worker.popen.poll() is not None:
                continue
            spent = _cpu_seconds(worker) - cpu[k] - LOAD * (_loads(worker) - loads[k])
            share = max(spent, 0.0) / seconds
            more = worker.errors.count("\n") - lines[k]
            self._busiest, self._lines = max(self._busiest, share), max(self._lines, more / seconds)
            if share > CPU + CPU_ROOM:
                self.complaints.append(f"worker {k} took {share:.0%} of a core while a coordinator was away")
            if more > LINES * seconds + LINES_ROOM:
                self.complaints.append(f"worker {k} logged {more} lines in {seconds:.0f} s without a coordinator")

    # -- the end

    def finish(
        self, workers: Sequence[Process], by_design: bool = False, counts: checker.Counts = checker.all_count
    ) -> Outcome:
        """The input rests; the workers come to rest, end, and everything is looked at. `by_design`: what the brokers
        have acknowledged may be gone.
        """
        self.rest()
        self.complaints += at_rest(self, workers, self.before)
        self.stop(workers)
        complaints = list(self.complaints)
        if complaints:
            try:
                self.drain(timeout=90)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                complaints.append(f"what is left is not scored by a new worker either: {error}")
        verdict = self.verdict(counts)
        complaints += verdict.complaints()
        if verdict.records < self.sent and not by_design:
            complaints.append(f"{self.sent} records were sent, and {verdict.records} are there")
        if not verdict.dead:
            complaints.append("no rubbish was dead-lettered: this proves little")
        if not self.done["swaps"]:
            complaints.append("no model was swapped: this proves little")
        told, slow = judge(self.interruptions, standstills(self.bootstrap, self.stage.topics))
        seen = [str(verdict), told, f"SIGTERM ended a worker within {self._slowest_stop:.1f} s"]
        if self._busiest:
            seen.append(
                f"without a coordinator {self._busiest:.0%} of a core, {self._lines:.1f} lines a second at most"
            )
        return Outcome(dict(self.done), "; ".join(filter(None, seen)), complaints + slow)


@contextlib.contextmanager
def cluster_world(setting: Setting, rng: random.Random, **more: Any) -> Iterator[ClusterWorld]:
    world = ClusterWorld(setting, rng, **more)
    try:
        yield world
    finally:
        world.close()


def _loads(worker: Process) -> int:
    return sum(len(worker.log(event)) for event in ("model_swapped", "trial_started"))


def _cpu_seconds(worker: Process) -> float:
    try:
        with open(f"/proc/{worker.popen.pid}/stat", encoding="utf-8") as file:
            told = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")
