"""Hostile input, through a broker: mutated records of every format, garbage at full speed, damaged artefacts. Each
record becomes a score, a dead letter, or nothing where it has no value; none harms its neighbours, and the worker
neither ends, nor hangs, nor grows without bound.
"""

import importlib.util
import json
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np

from tests.faults import checker
from tests.faults.forgeries import forgeries
from tests.faults.fuzz_guarded.parent import in_child
from tests.faults.fuzz_guarded.targets import TARGETS
from tests.faults.fuzz_world import await_end, fuzzer, producer, put, quiet_world, summed
from tests.faults.hostile_records import AVRO, by_header, headers, key, mutated, seeds
from tests.faults.outcome import Outcome, Skipped, settled, world_of
from tests.faults.rest import usage
from tests.faults.world import Setting
from tests.models import normal_rows
from tests.registry import SmallRegistry
from tests.stage import until


@fuzzer(30_000, 1_000_000)
def records(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """So many records with mutated bytes, keys, headers, nesting, numbers, encodings and times, in all compressions."""
    rows = normal_rows(1000, np.random.default_rng(rng.randrange(1 << 30)))
    registry = SmallRegistry()
    for schema in AVRO:
        registry.add(schema)
    settings = {
        "OFFNORMAL_INPUT__ENTITY_FIELD": "id",
        "OFFNORMAL_INPUT__TIME_FIELD": "ts",
        "OFFNORMAL_SCHEMA_REGISTRY__URL": registry.url,
    }
    with closing(registry), quiet_world(setting, rng, **settings) as world:
        worker = world.worker()
        world.busy(worker)
        codecs = ["none", "gzip", "snappy", "lz4", "zstd"]
        clients = [producer(world, **{"compression.type": codec}) for codec in codecs]
        most = 0
        for k in range(n):
            told = by_header(rng, rows) if rng.random() < 0.2 else (mutated(seeds(rng, rows), rng), headers(rng))
            value = None if rng.random() < 0.002 else told[0]
            when = rng.choice([0, 0, 0, 1, 1_700_000_000_000])  # 0: now
            put(
                clients[k % len(clients)], topic=world.stage.topics.sensors, key=key(rng), headers=told[1],
                timestamp=when, value=value,
            )  # fmt: skip
            if k % 20_000 == 0:
                most = max(most, usage(worker.popen.pid)[0])
        for client in clients:
            client.flush(120)
        return summed(world, worker, Counter({"hostile records": n}), most)


@fuzzer(100_000, 3_000_000)
def garbage(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """A producer of nothing but garbage, at full speed: each record is dead-lettered, and none is let go."""
    with quiet_world(setting, rng) as world:
        worker = world.worker()
        world.busy(worker)
        client, began = producer(world), time.monotonic()
        for k in range(n):
            put(client, topic=world.stage.topics.sensors, key=None, value=b"garbage %d" % k)
        client.flush(120)
        await_end(world, worker)
        seconds = time.monotonic() - began
        outcome = summed(world, worker, Counter({"records of garbage": n}), usage(worker.popen.pid)[0])
        outcome.seen += f"; {n / seconds:,.0f} a second, producer included"
        return outcome


@fuzzer(3, 20)
def replay(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """`worker replay` killed at random moments: each dead letter is put back, once."""
    with quiet_world(setting, rng) as world:
        topic, count = world.stage.topics.sensors, 20_000
        client = producer(world)
        for k in range(count):
            put(client, topic=topic, key=b"e%d" % (k % 9), value=b"rubbish %d" % k)
        client.flush(60)
        world.drain()
        for _ in range(n):
            process = world.stage.worker("replay")
            time.sleep(rng.uniform(0.5, 3.0))
            process.kill()
            world.done["kill -9 of a replay" if process.popen.returncode else "replays done before"] += 1
        last = world.stage.worker("replay", "--json")
        assert last.wait(120) == 0, last.errors[-2000:]
        told = [dict(m.headers() or ()).get("offnormal-replayed") for m in checker.read(world.bootstrap, topic)]
        back = Counter(each for each in told if each)
        complaints = [] if len(back) == count else [f"{count} dead letters, and {len(back)} were put back"]
        twice = sum(times > 1 for times in back.values())
        complaints += [f"{twice} were put back twice"] if twice else []
        return Outcome(dict(world.done), f"{count:,} dead letters, {len(back):,} put back, {twice} twice", complaints)


@fuzzer(12, 60)
def sizes(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """Records at the broker's limit: vectors, rubbish, keys, headers, many rows whose scores are larger than they."""
    limit = 1_048_588 - 120
    with quiet_world(setting, rng) as world:
        worker = world.worker()
        world.busy(worker)
        client, topic = producer(world), world.stage.topics.sensors
        row = b"[1,1,1,1]"
        for k in range(n):
            kind = k % 6
            if kind == 0:
                put(client, topic=topic, value=b"x" * limit)
            elif kind == 1:
                put(client, topic=topic, value=b"[" + b",".join([row] * (limit // 10 - 1)) + b"]")
            elif kind == 2:
                put(client, topic=topic, key=b"k" * (limit - 100), value=b"[1,2,3,4]")
            elif kind == 3:
                put(client, topic=topic, value=b"[1,2,3,4]", headers=[("h", b"v" * (limit - 100))])
            elif kind == 4:
                put(client, topic=topic, value=bytes(16) * (limit // 16), headers=[("content-type", b"f32")])
            else:
                put(client, topic=topic, value=b"[1,2,3,4]" + b" " * (limit - 20))
        client.flush(120)
        outcome = summed(world, worker, Counter({"records at the limit": n}), usage(worker.popen.pid)[0])
        outcome.done["values left out"] = len(world.logged("record_values_dropped"))
        return outcome


@fuzzer(5_000, 2_000_000)
def decoders(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """Coverage-guided runs (atheris) of all that reads bytes from others; from the corpus of the repository."""
    if importlib.util.find_spec("atheris") is None:
        raise Skipped("atheris has no wheel for this Python")
    found = setting.folder / "decoders"
    found.mkdir()
    corpus = Path(__file__).parent / "corpus"
    command = [sys.executable, "-m", "tests.faults.fuzz_decoders", f"-runs={n}", f"-seed={rng.randrange(1, 1 << 30)}"]
    command += ["-timeout=20", "-rss_limit_mb=4096", "-max_len=8192", f"-artifact_prefix={found}/crash-"]
    ran = subprocess.run([*command, str(found), str(corpus)], capture_output=True, text=True, check=False)
    last = next((line for line in reversed(ran.stderr.splitlines()) if " cov: " in line), "no coverage was told")
    complaints = [ran.stderr[-3000:]] if ran.returncode else []
    return Outcome({"runs": n}, f"{last.strip()[:150]}; the inputs that matter are in {found}", complaints)


@fuzzer(30, 200)
def artefacts(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """Artefacts that were damaged or forged, each promoted under a running worker: none is served, each is refused with
    its reason, and the model in service goes on.
    """
    with world_of(setting, rng, swaps=False) as world:
        worker = world.worker()
        world.busy(worker)
        client, topic = producer(world), world.stage.topics.models
        refused, complaints, reasons = 0, [], Counter[str]()
        for name, version, written in forgeries(setting.models[1], rng, n):
            for key_, value, headers_ in written:
                put(client, topic=topic, key=key_, value=value, headers=headers_, partition=0)
            alias = {"version": version, "who": "forger", "when": "now", "why": name}
            put(client, topic=topic, key="alias/default/champion", value=json.dumps(alias), partition=0)
            client.flush(60)
            try:
                until(lambda: any(line["model_version"] == version for line in worker.log("model_refused")), 20)  # noqa: B023
            except AssertionError:
                complaints.append(f"{name} was not refused: {worker.errors[-800:]}")
                break
            refused += 1
            reasons[next(x for x in worker.log("model_refused") if x["model_version"] == version)["reason"][:40]] += 1
        in_service = [line["model_version"] for line in worker.log("model_swapped")]
        if in_service != [setting.models[0].card.version]:
            complaints.append(f"in service were {in_service}")
        if worker.popen.poll() is not None:
            complaints.append(f"the worker has ended: {worker.errors[-2000:]}")
        most = usage(worker.popen.pid)[0]
        assert worker.stop(30) == 0
        world.stage.publish(setting.models[0])
        outcome = settled(world)
        outcome.done |= {"artefacts refused": refused}
        seen = f"{outcome.seen}; {len(reasons)} different reasons; {most} MiB"
        return Outcome(outcome.done, seen, outcome.complaints + complaints)


@fuzzer(20_000, 1_000_000)
def guard_pages(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """So many records through each compiled loop that reads or writes by raw addresses, its memory ending at a page
    that may not be touched.
    """
    return _guarded(setting, rng, n, "guard-pages", bounds=False)


@fuzzer(5_000, 1_000_000)
def bounds_checks(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """The same, by loops that are compiled to look whether each index lies within its array."""
    return _guarded(setting, rng, n, "bounds-checks", bounds=True)


def _guarded(setting: Setting, rng: random.Random, n: int, name: str, bounds: bool) -> Outcome:
    folder = setting.folder / name
    folder.mkdir()
    found = in_child(list(TARGETS), n, rng.randrange(1 << 30), folder, bounds=bounds)
    seen = ", ".join(f"{target} {seconds:.0f} s" for target, seconds in found.seconds.items())
    return Outcome({f"records of {target}": count for target, count in found.records.items()}, seen, found.complaints)
