"""The fault scenarios. Each makes a world, injects its fault `n` times, lets the world come to rest, and returns the
outcome. Its docstring says what must hold, and is shown with the result.
"""

import contextlib
import json
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from kafka import TopicPartition

from tests.brokers import ApacheKafka
from tests.faults.doomed import COMMIT
from tests.faults.outcome import Outcome, Skipped, ends_of, scenario, settled, world_of
from tests.faults.proxy import Proxy
from tests.faults.rest import Usage, usage
from tests.faults.world import Setting, World, await_scored
from tests.models import normal_rows
from tests.stage import until
from worker.kafka.topics import create
from worker.models import Artefact
from worker.registry import Registry

# -- workers die


@scenario(5, 100)
def kill(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """kill -9 of the worker at random moments under load: each row once, by one version."""
    with world_of(setting, rng) as world:
        for _ in range(n):
            worker = world.worker()
            world.busy(worker)
            time.sleep(rng.uniform(0.0, 1.5))
            world.kill(worker)
        return settled(world)


@scenario(6, 30)
def points(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """kill -9 at each named point of the loop in turn, when it is passed for a random time: each row once."""
    with world_of(setting, rng) as world:
        for k in range(n):
            doomed = world.doomed(COMMIT[k % len(COMMIT)], rng.randint(1, 12))
            assert doomed.wait(90) == -signal.SIGKILL, f"{COMMIT[k % len(COMMIT)]}: {doomed.errors[-2000:]}"
            world.done[f"killed at {COMMIT[k % len(COMMIT)]}"] += 1
        return settled(world)


@scenario(3, 20)
def at_least_once(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """The other delivery mode, killed at its own points and at random: nothing lost; repeats only, with equal ids."""
    with world_of(setting, rng, OFFNORMAL_DELIVERY="at_least_once") as world:
        for k in range(n):
            point = ("flush", "offset-commit", "")[k % 3]
            if point:
                assert world.doomed(point, rng.randint(1, 12)).wait(90) == -signal.SIGKILL
                world.done[f"killed at {point}"] += 1
            else:
                worker = world.worker()
                world.busy(worker)
                time.sleep(rng.uniform(0.2, 1.5))
                world.kill(worker)
        return settled(world, repeats=True)


@scenario(1, 20)
def zombie(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """SIGSTOP for longer than the session, while another worker takes over, then SIGCONT: the zombie is fenced, and
    lives on as a member.
    """
    with world_of(setting, rng) as world, world.pool(2) as workers:
        world.busy(workers[1])
        for _ in range(n):
            victim = rng.choice(workers)
            await_scored(world, 200)
            victim.popen.send_signal(signal.SIGSTOP)
            time.sleep(7.5 + rng.uniform(0, 2))  # the session is 6 s
            await_scored(world, 200)
            victim.popen.send_signal(signal.SIGCONT)
            world.done["SIGSTOP beyond the session, SIGCONT"] += 1
            time.sleep(rng.uniform(1, 3))
        return settled(world, workers=workers)


@scenario(4, 40)
def members(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """Workers join and leave every few seconds among three, by SIGTERM or by kill -9: each row once."""
    with world_of(setting, rng) as world:
        workers = [world.worker() for _ in range(2)]
        for _ in range(n):
            time.sleep(rng.uniform(1, 4))
            if len(workers) >= 3 or (len(workers) > 1 and rng.random() < 0.4):
                gone = workers.pop(rng.randrange(len(workers)))
                if rng.random() < 0.5:
                    gone.kill()
                    world.done["kill -9 of a worker"] += 1
                else:
                    # One that has not begun yet ends by the signal itself.
                    assert gone.stop(30) in (0, -signal.SIGTERM), gone.errors[-2000:]
                    world.done["workers stopped"] += 1
            else:
                workers.append(world.worker())
        for worker in workers:
            assert worker.popen.poll() is None, worker.errors[-2000:]
            worker.stop(30)
        world.done["rebalances"] = len(world.logged("partitions_assigned"))
        return settled(world)


# -- the broker dies


@scenario(1, 20)
def broker(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """kill -9 and restart of the broker under load: each row once, and no worker ends by it."""
    with world_of(setting, rng) as world, world.pool(1) as workers:
        for _ in range(n):
            await_scored(world, 500)
            world.restart_broker(rng.uniform(0, 3))
        await_scored(world, 500, timeout=120)
        assert workers[0].popen.poll() is None, workers[0].errors[-2000:]
        return settled(world, workers=workers)


@scenario(1, 10)
def both(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """The broker and the worker killed at once: each row once."""
    with world_of(setting, rng) as world:
        for _ in range(n):
            worker = world.worker()
            world.busy(worker, timeout=120)
            time.sleep(rng.uniform(0.2, 2))
            killer = threading.Thread(target=world.kill, args=(worker,))
            killer.start()
            world.restart_broker()
            killer.join()
        return settled(world)


@scenario(1, 3)
def disk_full(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """The broker's disk fills up, and has room again later: what was acknowledged is scored once each."""
    for _ in range(n):
        with _small_disk(160) as disk, ApacheKafka(log_dirs=str(disk / "log"), log_segment_bytes="1048576") as kafka:
            small = replace(setting, kafka=kafka)
            with world_of(small, rng) as world:
                worker = world.worker()
                world.busy(worker)
                await_scored(world, 500)
                ballast = disk / "ballast"
                with contextlib.suppress(OSError), ballast.open("wb") as file:
                    while True:
                        file.write(b"\0" * 65536)
                world.done["disk filled up"] += 1
                time.sleep(8)
                ballast.unlink()
                if kafka.running():
                    kafka.kill()  # a log that could not be written stays away until a restart
                kafka.start()
                world.done["restart of the broker"] += 1
                await_scored(world, 500, timeout=120)
                assert worker.popen.poll() is None, worker.errors[-2000:]
                assert worker.stop(30) == 0
                outcome = settled(world)
                if outcome.complaints:
                    return outcome
    return outcome


@contextlib.contextmanager
def _small_disk(megabytes: int) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="offnormal-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        if mounted.returncode:
            raise Skipped(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
        yield folder
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", "-l", str(folder)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


# -- the network, the clock


@scenario(2, 20)
def network(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """A network that is slow, stands still for seconds, and cuts all connections: each row once."""
    proxy = Proxy(0, rng)
    with ApacheKafka(advertised_listeners=f"PLAINTEXT://127.0.0.1:{proxy.port}") as kafka:
        proxy.target = int(kafka.bootstrap.rpartition(":")[2])
        slow = replace(setting, kafka=kafka)
        with world_of(slow, rng, swaps=False, bootstrap=f"127.0.0.1:{proxy.port}") as world, world.pool(1) as workers:
            for _ in range(n):
                await_scored(world, 200, timeout=120)
                proxy.latency, proxy.stall = rng.uniform(0, 0.05), 0.01
                time.sleep(4)
                proxy.cut()
                time.sleep(2)
                proxy.latency = proxy.stall = 0.0
            assert workers[0].popen.poll() is None, workers[0].errors[-2000:]
            world.done |= {"stretches of latency": n, "connections cut": proxy.cuts, "stalls": proxy.stalls}
            outcome = settled(world, workers=workers)
    proxy.close()
    return outcome


@scenario(1, 5)
def clock(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """The worker's wall clock jumps back and forth, by up to a year: each row once."""
    with world_of(setting, rng) as world:
        for _ in range(n):
            worker = world.doomed("clock", rng.randrange(1000))
            world.busy(worker)
            time.sleep(10)
            assert worker.popen.poll() is None, worker.errors[-2000:]
            world.kill(worker)
            world.done["stretches with a jumping clock"] += 1
        return settled(world)


# -- topics change


@scenario(2, 6)
def partitions(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """Partitions are added while workers run: they are read from their first record on."""
    with world_of(setting, rng) as world, world.pool(2) as workers:
        for k in range(n):
            await_scored(world, 300)
            with world.admin() as admin:
                admin.create_partitions({world.stage.topics.sensors: 4 + 2 * (k + 1)})
            world.done["partitions added"] += 2
            time.sleep(3)
        return settled(world, workers=workers)


@scenario(1, 3)
def away(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """The dead-letter topic, and the topic of models, are deleted, and made anew after a while, as the input goes on:
    no record is lost meanwhile, and the worker goes on with the model it has.
    """
    with world_of(setting, rng, swaps=False) as world, world.pool(1) as workers:
        topics = world.stage.topics
        await_scored(world, 500)
        for topic in [topics.dead_letters, topics.models] * n:
            world.pause.set()
            time.sleep(2)  # what is on its way to it is there, and would be lost with it
            kept = len(world.stage.dead_letters()) if topic == topics.dead_letters else 0
            with world.admin() as admin:
                admin.delete_topics([topic])
            world.pause.clear()
            world.done[f"deleted {topic.partition('.')[2]}"] += 1
            time.sleep(8)
            create(world.stage.settings, 4, 1)
            world.done["dead letters deleted with their topic"] += kept
            if topic == topics.models:
                world.stage.publish(setting.models[1])
            await_scored(world, 500, timeout=120)
        assert workers[0].popen.poll() is None, workers[0].errors[-2000:]
        world.rest()
        assert workers[0].stop(30) == 0
        world.drain()
        verdict = world.verdict()
        complaints = verdict.complaints(lost=world.done["dead letters deleted with their topic"])
        return Outcome(dict(world.done), str(verdict), complaints)


@scenario(1, 3)
def retention(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """Retention overtakes the worker: no system can score what is gone. It is counted, said as an error, and what comes
    after it is scored once each.
    """
    with world_of(setting, rng) as world:
        gone = 0
        for _ in range(n):
            worker = world.worker()
            world.busy(worker)
            await_scored(world, 300)
            world.kill(worker)
            time.sleep(2)
            with world.admin() as admin:
                places = [TopicPartition(world.stage.topics.sensors, p) for p in range(4)]
                ends = ends_of(world)
                at = {place: ends[place.partition] for place in places}
                before = world.stage.committed()
                admin.delete_records({place: end - 50 for place, end in at.items()})
            gone += sum(max(end - 50 - before.get(place.partition, 0), 0) for place, end in at.items())
            world.done["records deleted unread"] = gone
        world.rest()
        world.drain()
        verdict = world.verdict()
        told = sum(max(line["earliest"] - line["wanted"], 0) for line in world.logged("records_expired"))
        complaints = [] if told == gone else [f"{gone} are gone, and {told} were told"]
        # What was scored before is gone from the input, too: outputs of nothing are the rule here.
        complaints += [f"lost: {verdict.lost[:5]}"] if verdict.lost else []
        complaints += [f"{verdict.repeated} repeated"] if verdict.repeated else []
        return Outcome(dict(world.done), str(verdict), complaints)


@scenario(1, 3)
def remade(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """The topics of input and outputs are deleted and made anew while a worker runs: each row of the new one once."""
    with world_of(setting, rng, swaps=False) as world, world.pool(1) as workers:
        topics = world.stage.topics
        for _ in range(n):
            await_scored(world, 300)
            world.pause.set()
            time.sleep(1)
            until(lambda: sum(world.stage.committed().values()) >= sum(ends_of(world).values()), 60)
            with world.admin() as admin:
                # The outputs too: places would be named twice, and what is lost of the new topic not be seen.
                admin.delete_topics([topics.sensors, topics.scores, topics.dead_letters, topics.anomalies])
            time.sleep(3)
            create(world.stage.settings, 4, 1)
            world.done["topic deleted and made anew"] += 1
            for place in world.stage.send(
                [
                    json.dumps(r.tolist()).encode()
                    for r in normal_rows(400, np.random.default_rng(rng.randrange(1 << 30)))
                ]
            ):
                assert place[1] < 400
            until(lambda: sum(world.stage.committed().values()) == 400, 90)  # noqa: B023
            world.done["records in the new topic"] += 400
            world.pause.clear()
        assert workers[0].popen.poll() is None, workers[0].errors[-2000:]
        world.rest()
        assert workers[0].stop(30) == 0
        world.drain()
        verdict = world.verdict()
        return Outcome(dict(world.done), str(verdict), verdict.complaints())


@scenario(1, 1)
def offsets_deleted(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """Somebody deletes the group's offsets: it begins again where OFFNORMAL_KAFKA__START says, so at the earliest
    record nothing is lost, and all there is comes again with equal ids.
    """
    with world_of(setting, rng, swaps=False) as world:
        worker = world.worker()
        world.busy(worker)
        await_scored(world, 500)
        assert worker.stop(30) == 0
        with world.admin() as admin:
            group = world.stage.settings.kafka.group
            admin.delete_groups([group])
        world.done["offsets deleted"] += 1
        outcome = settled(world, repeats=True)
        if " 0 repeated" in outcome.seen:
            outcome.complaints.append("nothing was repeated: the offsets were still there")
        return outcome


# -- training


@scenario(2, 20)
def training(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """Trainings killed at any moment, and two at once, while workers score: never half a model, the next training
    succeeds, each row by one version that was whole.
    """
    with world_of(setting, rng, swaps=False, OFFNORMAL_TRAINING__STEPS="200") as world, world.pool(1) as workers:
        await_scored(world, 4000, timeout=120)
        for _ in range(n):
            trainer = world.stage.training()
            time.sleep(rng.uniform(2.0, 7.0))
            trainer.kill()
            world.done["kill -9 of a training" if trainer.popen.returncode else "trainings done before"] += 1
        pair = [world.stage.training() for _ in range(2)]
        codes = [trainer.wait(180) for trainer in pair]
        world.done["trainings at once"] += 2
        complaints = [] if codes == [0, 0] else [f"two trainings at once: exit codes {codes}: {pair[1].errors[-800:]}"]
        view = Registry(world.stage.settings).view()
        made = {line["model_version"] for line in world.logged("champion_promoted")}
        if view.champion() not in made:
            complaints.append(f"the champion {view.champion()} is of neither of the two trainings")
        told = {entry["version"] for entry in view.history()}
        complaints += [f"not in the history: {made - told}"] if made - told else []
        for version in view.versions():
            view.card(version)  # raises where it is not whole
        until(lambda: workers[0].log("model_swapped")[-1]["model_version"] == view.champion(), 30)
        complaints += [f"refused: {line}" for line in world.logged("model_refused")]
        world.knows([*setting.models, *_trained(world)])
        outcome = settled(world)
        outcome.complaints += complaints
        return outcome


def _trained(world: World) -> list[Artefact]:
    view = Registry(world.stage.settings).view()
    return [Artefact.load(view.artefact(version)) for version in view.versions()]


# -- for long


@scenario(1, 30)
def soak(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """So many minutes at moderate load with swaps, workers that come and go and a broker that restarts: one worker
    lives through it all, and its memory, file handles and threads stay flat.
    """
    with world_of(setting, rng) as world, world.pool(1) as workers:
        await_scored(world, 1000)
        seen: list[Usage] = []
        ends, broker_at = time.monotonic() + 60 * n, time.monotonic() + 60 * max(n / 6, 0.4)
        while time.monotonic() < ends:
            guest = world.worker()
            world.busy(guest, timeout=120)
            for _ in range(8):
                time.sleep(1)
                seen.append(usage(workers[0].popen.pid))
            (guest.kill if rng.random() < 0.5 else guest.stop)()
            world.done["guests that came and went"] += 1
            if time.monotonic() > broker_at:
                world.restart_broker()
                await_scored(world, 500, timeout=120)
                broker_at = time.monotonic() + 60 * max(n / 6, 0.4)
        third = max(len(seen) // 3, 1)
        complaints, told = [], []
        for name, early, late, room in zip(
            ("MiB", "files", "threads"),
            map(max, zip(*seen[:third], strict=True)),
            map(max, zip(*seen[-third:], strict=True)),
            (40, 10, 5),
            strict=True,
        ):
            told.append(f"{name} {early} -> {late}")
            if late > early + room:
                complaints.append(f"{name} rose from {early} to {late}")
        outcome = settled(world, workers=workers)
        return Outcome(outcome.done, f"{outcome.seen}; {', '.join(told)}", outcome.complaints + complaints)
