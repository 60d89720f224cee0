"""Three brokers, and something is unavailable for a while: a network, a disk, a leader, replicas that are in sync."""

import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tests.cluster import SESSION
from tests.faults import checker
from tests.faults.cluster_world import ClusterWorld, cluster_world, on_cluster
from tests.faults.outcome import Outcome, Skipped, ends_of, together
from tests.faults.progress import HANDED_OVER_MOST, LOST_MOST
from tests.faults.world import Setting, await_scored
from tests.stage import until

Layout = dict[str, tuple[Sequence[Sequence[int]], Mapping[str, str]]]


@on_cluster(1, 10)
def cut_off(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """A broker that nobody reaches and that reaches nobody, whose connections are not closed: the group's coordinator,
    the transactions', any. Each row once.
    """
    if setting.kafka.no_rooms:
        raise Skipped(f"no network can be cut: {setting.kafka.no_rooms}")
    with cluster_world(setting, rng) as world:
        workers = world.fleet(2)
        for k in range(n):
            number = world.group_coordinator() if k % 2 == 0 else rng.choice((1, 2, 3))
            world.loses(number, "a broker cut off")
            world.kafka.node(number).room.cut_off()
            with world.coordinator_away(workers):
                time.sleep(SESSION - 1)
            time.sleep(rng.uniform(4, 15))
            world.interrupted("and connected again", HANDED_OVER_MOST)
            world.kafka.node(number).room.reconnect()
            world.kafka.await_whole()
            before = world.stage.committed()
            # Each partition: else the next outage would lengthen the standstill of one that has not recovered yet.
            until(lambda: all(end > before.get(p, -1) for p, end in world.stage.committed().items()), 90)  # noqa: B023
            await_scored(world, world.rate, timeout=90)
        return world.finish(workers)


@on_cluster(0, 5)
def broker_disk_full(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """The disk of one broker fills up: it stops, the others take over. Later it has room again. Each row once."""
    if setting.kafka.no_rooms:
        raise Skipped(f"no disk can be filled: {setting.kafka.no_rooms}")
    with cluster_world(setting, rng) as world:
        workers = world.fleet(2)
        for _ in range(n):
            node = world.kafka.node(rng.choice((1, 2, 3)))
            world.loses(node.number, "a full disk")
            node.room.fill_disk(node.log)
            until(lambda: not node.running(), 60)  # noqa: B023
            time.sleep(SESSION)
            node.room.enlarge_disk(node.log)
            world.kafka.start()
            await_scored(world, world.rate, timeout=90)
        return world.finish(workers)


@on_cluster(1, 10)
def leaderless(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """A partition of replication factor 1 on a broker that was killed: of the incidents; of the input. What needs it
    not goes on, no worker that runs ends by it, and all goes on once the broker is back. A worker that starts meanwhile
    may give up, with a readable line.
    """
    outcomes = {}
    for name in ("incidents", "sensors")[:n]:
        layout: Layout = {name: ([[1], [2], [3]], {"min.insync.replicas": "1"})}
        with cluster_world(setting, rng, layout=layout, partitions=3) as world:
            workers = world.fleet(2)
            for _ in range(max(n // 2, 1)):
                # What is there goes on without the input's partition; incidents may be for all of them.
                if name == "sensors":
                    world.interrupted("a partition of the input without a leader", LOST_MOST, spares=[2])
                world.kafka.node(3).kill()
                time.sleep(2)
                late = world.worker()
                time.sleep(SESSION + 10)
                world.stop_one(workers)
                world.kafka.start()
                world.interrupted("its leader is back", LOST_MOST)
                await_scored(world, 2 * world.rate, timeout=90)
                if late.popen.poll() is not None:  # as an orchestrator does
                    world.done["starts given up"] += 1
                    if "Traceback" in late.errors or "\noffnormal: " not in late.errors:
                        world.complaints.append(f"a start was not given up readably: {late.errors[-1500:]}")
                    late = world.worker()
                workers.append(late)
                world.settle_in(workers[-1:])
            outcomes[name] = world.finish(workers)
    return together(outcomes)


@on_cluster(0, 10)
def few_replicas(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """An output takes nothing, for want of replicas in sync: of min ISR 3 while one broker is down; or two of three are
    down. No worker ends by it, and all goes on when they are back. Each row once.
    """
    outcomes = {}
    for down in (1, 2)[:n]:
        replicas = [[1, 2, 3], [2, 3, 1], [3, 1, 2], [1, 3, 2]]
        layout: Layout = {"scores": (replicas, {"min.insync.replicas": "3"})} if down == 1 else {}
        with cluster_world(setting, rng, layout=layout) as world:
            workers = world.fleet(2)
            for _ in range(max(n // 2, 1)):
                for number in rng.sample((1, 2, 3), down):
                    world.kafka.node(number).kill()
                time.sleep(SESSION + 5)
                world.stop_one(workers)
                world.kafka.start()
                workers.append(world.worker())
                world.interrupted(f"{down} of 3 brokers are back", LOST_MOST)
                await_scored(world, 2 * world.rate, timeout=120)
                world.settle_in(workers[-1:])
            outcomes[f"{down} down"] = world.finish(workers)
    return together(outcomes)


@on_cluster(1, 6)
def unclean(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """An unclean election of the input's leaders (RF 2, min ISR 1): records that only the dead leader had
    are lost by design, though they were scored. The worker goes on with what comes then, running or started anew, and
    scores nothing again of what is still there.
    """
    outcomes = {}
    layout: Layout = {"sensors": ([[1, 2]] * 4, {"min.insync.replicas": "1", "unclean.leader.election.enable": "true"})}
    for k in range(n):
        with cluster_world(setting, rng, layout=layout, idempotent=False) as world:
            outcomes[f"{k}: {'started anew' if k % 2 else 'running'}"] = _lose_leader(world, running=k % 2 == 0)
        setting.kafka.heal()
    return together(outcomes)


def _lose_leader(world: ClusterWorld, running: bool) -> Outcome:
    topic, workers = world.stage.topics.sensors, world.fleet(1)
    world.kafka.node(2).kill()
    until(lambda: all(len(p.isrs) == 1 for p in world.kafka.metadata().topics[topic].partitions.values()), 60)
    time.sleep(5)
    world.pause.set()
    time.sleep(1)
    until(lambda: sum(world.stage.committed().values()) >= sum(ends_of(world).values()), 60)
    lost = ends_of(world)
    if not running:
        world.stop(workers)
        workers = []
    lost_at = time.time()
    world.kafka.node(1).kill()
    world.kafka.node(2).launch()
    world.kafka.node(2).await_open()
    until(lambda: set(world.kafka.leaders(topic).values()) == {2}, 60)
    ends = ends_of(world)
    gone = sum(lost.values()) - sum(ends.values())
    assert gone > 0, "nothing was lost: this proves nothing"
    world.done["scored records that are lost"] += gone
    world.interrupted("unclean election", LOST_MOST)
    world.pause.clear()
    if not running:
        workers = [world.worker()]
        world.busy(workers[0])
    world.kafka.start()
    time.sleep(10)

    def counts(place: checker.Place, output: Any) -> bool:
        """Not that of a record that is gone: another one may lie at its place."""
        return place[1] < ends.get(place[0], 0) or output.timestamp()[1] / 1000 > lost_at

    return world.finish(workers, by_design=True, counts=counts)
