"""What fails where there are three brokers: they restart, leaders and coordinators move, partitions are added."""

import random
import signal
import time

from tests.cluster import OFFSETS, SESSION, TRANSACTIONS
from tests.faults.cluster_world import ClusterWorld, cluster_world, on_cluster
from tests.faults.doomed import COMMIT
from tests.faults.outcome import Outcome
from tests.faults.progress import HANDED_OVER_MEDIAN, HANDED_OVER_MOST, MARGIN, NOTICED_MOST
from tests.faults.rest import Usage, group_wrong, usage
from tests.faults.world import Setting, await_scored
from tests.stage import until


@on_cluster(1, 5)
def rolling(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """Rounds of controlled restarts (SIGTERM) of all three brokers in turn: each row once, no partition stands still
    for long.
    """
    with cluster_world(setting, rng) as world:
        workers = world.fleet(2)
        for _ in range(n):
            _restart_all(world)
        return world.finish(workers)


def _restart_all(world: ClusterWorld) -> None:
    for number in world.rng.sample((1, 2, 3), 3):
        world.interrupted("controlled restart of a broker", HANDED_OVER_MOST, HANDED_OVER_MEDIAN)
        world.kafka.restart(number, signal.SIGTERM)
        time.sleep(3)


@on_cluster(0, 5)
def rolling_kill(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """Rounds of kill -9 of all three brokers in turn, each away for up to some seconds more than its session: each row
    once, and no partition stands still for longer than that session and what follows takes.
    """
    with cluster_world(setting, rng) as world:
        workers = world.fleet(2)
        for number in (1, 2, 3) * n:
            world.loses(number, "kill -9 and restart of a broker")
            world.kafka.restart(number, signal.SIGKILL, rng.uniform(0, SESSION + 3))
            await_scored(world, world.rate)  # one after another: each standstill is due to one of them
            time.sleep(3)
        return world.finish(workers)


@on_cluster(1, 10)
def leaders(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """All brokers up, leaders of all topics and both coordinators moved: partitions reassigned away from them and back,
    the preferred replica elected. Then a worker is killed, and the other one takes over. Each row once.
    """
    with cluster_world(setting, rng) as world:
        workers = world.fleet(2)
        topics = world.stage.topics
        places = world.places(topics.sensors, topics.scores, topics.incidents, topics.anomalies, topics.dead_letters)
        kafkas = world.places(OFFSETS, TRANSACTIONS)
        for _ in range(n):
            numbers = {place: rng.sample((1, 2, 3), 3) for place in [*places, *kafkas]}
            world.interrupted("leaders reassigned", HANDED_OVER_MOST, HANDED_OVER_MEDIAN)
            world.kafka.assign({place: numbers[place][:2] for place in places})
            time.sleep(3)
            world.kafka.assign(numbers)
            world.interrupted("preferred leaders elected", HANDED_OVER_MOST, HANDED_OVER_MEDIAN)
            world.kafka.elect_preferred()
            time.sleep(5)
            world.interrupted("the other worker takes over", 6 + HANDED_OVER_MOST)  # a session, and a rebalance
            world.kill(workers.pop(0))
            workers.append(world.worker())
            world.settle_in(workers[-1:])
            await_scored(world, 2 * world.rate)
        return world.finish(workers)


@on_cluster(1, 24)
def coordinators(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """kill -9 of the group's coordinator, or the transactions', while a worker is at each of the points of a commit:
    each row once, and the worker neither spins nor floods its log meanwhile.
    """
    with cluster_world(setting, rng) as world:
        folder = setting.folder / f"hold-{time.time_ns()}"
        folder.mkdir()
        workers = [world.doomed("hold", str(folder)), world.worker()]  # type: ignore[arg-type]
        world.settle_in(workers)
        cases = [(point, whose) for point in COMMIT for whose in ("group", "transaction")]
        rng.shuffle(cases)
        for k in range(n):
            point, whose = cases[k % len(cases)]
            (folder / point).write_text(str(rng.randint(1, 12)))
            held = folder / "held"
            until(held.exists, 60)
            if whose == "group":
                number = world.group_coordinator()
            else:
                number = world.transaction_coordinator((folder / "transactional-id").read_text())
            world.done[f"at {point}"] += 1
            world.loses(number, f"kill -9 of the {whose}'s coordinator")
            world.kafka.node(number).kill()
            held.unlink()
            with world.coordinator_away(workers):
                time.sleep(SESSION - 1)
            time.sleep(rng.uniform(0, 4))
            world.kafka.start()
            await_scored(world, world.rate, timeout=90)
        return world.finish(workers)


@on_cluster(1, 9)
def partitions_added(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """Partitions are added under load to the input of one, then two, then three workers: they are read soon, from their
    first record on, and all workers are members.
    """
    # Batches that are full, and wait for their commit: then a poll is shorter than a join takes.
    busy = {"OFFNORMAL_BATCH__MAX_ROWS": "2", "OFFNORMAL_BATCH__COMMIT_INTERVAL": "1"}
    with cluster_world(setting, rng, partitions=2, feed_every=0.005, **busy) as world:
        workers = world.fleet(1)
        for k in range(n):
            if 0 < k < 3:
                workers.append(world.worker())
                world.settle_in(workers[-1:])
            _add_partitions(world, 2, f"partitions added with {len(workers)} workers", len(workers))
        return world.finish(workers)


def _add_partitions(world: ClusterWorld, more: int, what: str, members: int) -> None:
    world.interrupted(what, NOTICED_MOST)
    before = len(world.kafka.leaders(world.stage.topics.sensors))
    with world.admin() as admin:
        admin.create_partitions({world.stage.topics.sensors: before + more})
    deadline = time.monotonic() + NOTICED_MOST + MARGIN
    while (wrong := group_wrong(world, members)) and time.monotonic() < deadline:
        time.sleep(0.5)
    world.complaints += [f"{NOTICED_MOST + MARGIN:g} s after {what}: {each}" for each in wrong]
    time.sleep(5)


@on_cluster(1, 5)
def partitions_latest(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """START=latest, and partitions are added: each record of a new partition is scored, from its first."""
    with cluster_world(setting, rng, paused=True, partitions=2) as world:
        workers = world.fleet(1, OFFNORMAL_KAFKA__START="latest")
        until(lambda: len(world.stage.committed()) == 2, 60)  # for each partition, where it begins
        world.pause.clear()
        for _ in range(n):
            await_scored(world, world.rate)
            _add_partitions(world, 2, "partitions added", 1)
        return world.finish(workers)


@on_cluster(0, 30)
def cluster_soak(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """So many minutes of rolling restarts every two minutes, with two workers, and swaps each ten seconds: memory,
    threads and handles stay flat.
    """
    with cluster_world(setting, rng, swap_every=(9.0, 11.0)) as world:
        workers = world.fleet(2)
        seen: list[list[Usage]] = []
        ends, restart_at = time.monotonic() + 60 * n, time.monotonic()
        while time.monotonic() < ends:
            if time.monotonic() >= restart_at:
                restart_at = time.monotonic() + 120
                _restart_all(world)
            seen.append([usage(worker.popen.pid) for worker in workers])
            time.sleep(2)
        outcome = world.finish(workers)
        third = max(len(seen) // 3, 1)
        for name, k, room in (("MiB", 0, 40), ("files", 1, 10), ("threads", 2, 5)):
            early, late = (max(told[k] for each in part for told in each) for part in (seen[:third], seen[-third:]))
            outcome.seen += f"; {name} {early} -> {late}"
            if late > early + room:
                outcome.complaints.append(f"{name} rose from {early} to {late}")
        return outcome
