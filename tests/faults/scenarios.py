"""The fault scenarios of workers that die, a broker that dies, the network and the clock. Each makes a world, injects
its fault `n` times, lets the world come to rest, and returns the outcome. Its docstring says what must hold, and is
shown with the result.
"""

import contextlib
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

from tests.brokers import ApacheKafka
from tests.faults.doomed import COMMIT
from tests.faults.outcome import Outcome, Skipped, scenario, settled, world_of
from tests.faults.proxy import Proxy
from tests.faults.world import Setting, await_scored

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
