"""Hostile input, through a broker: mutated records of every format, garbage at full speed, batches that were damaged on
the broker's disk or unpack to far more than they are. Each record becomes a score, a dead letter, or nothing where it
has no value; none harms its neighbours, and the worker neither ends, nor hangs, nor grows without bound.
"""

import importlib.util
import json
import random
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import confluent_kafka as librdkafka
import numpy as np

from tests.faults import checker, fuzz_guarded
from tests.faults.forgeries import forgeries
from tests.faults.outcome import Outcome, Scenario, Skipped, ends_of, settled, world_of
from tests.faults.rest import usage
from tests.faults.world import Setting, World
from tests.models import FEATURES, normal_rows
from tests.registry import SmallRegistry
from tests.stage import VECTOR, Process, arrow, until

FUZZERS: dict[str, tuple[Scenario, int, int]] = {}
TOKENS = [
    b"1e999", b"-1e999", b"NaN", b"Infinity", b"-0", b"0.1e-400", b"9" * 400, b"1e-45", b"null", b"true", b'"1"', b"{}",
    b"[]", b"[[", b"]]", b"\\u0000", b"\\ud800", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x00", b"1.", b".5", b"+1", b"01",
    b'"values":', b'"speed":1,"speed":2', b" " * 50, b"\n", b",", b":", b'"', b"\\",
]  # fmt: skip


def fuzzer(small: int, full: int) -> Callable[[Scenario], Scenario]:
    def register(call: Scenario) -> Scenario:
        FUZZERS[call.__name__.replace("_", "-")] = (call, small, full)
        return call

    return register


# -- records


AVRO = [  # by their numbers in the registry, from 1 on
    VECTOR,
    VECTOR | {"fields": [{"name": "id", "type": "string"}, *reversed(VECTOR["fields"])]},
    {"type": "array", "items": {"type": "array", "items": ["null", "float"]}},
    {"type": "record", "name": "Deep", "fields": [{"name": "next", "type": ["null", "Deep"]}]},
    {"type": "array", "items": "null"},
]


def by_header(rng: random.Random, rows: np.ndarray[Any, Any]) -> tuple[bytes, list[tuple[str, bytes | None]]]:
    """A record of one of the formats that a worker does not expect by default, nearly in order."""
    some = rows[rng.randrange(len(rows) - 5) :][: rng.randrange(1, 5)]
    if rng.random() < 0.5:
        return mutated(arrow(some), rng), [("content-type", b"application/vnd.apache.arrow.stream")]
    number = rng.choice([1, 1, 1, 2, 3, 4, 5, 6, 2**32 - 1])
    body = some[0].tobytes() if number == 1 else b"\x02x" + some[0].tobytes() if number == 2 else rng.randbytes(9)
    return mutated(b"\0" + struct.pack(">I", number) + body, rng), [("content-type", b"avro")]


def seeds(rng: random.Random, rows: np.ndarray[Any, Any]) -> bytes:
    """A record that is in order."""
    row = rows[rng.randrange(len(rows))].tolist()
    kind = rng.randrange(6)
    if kind == 0:
        return json.dumps(row).encode()
    if kind == 1:
        return json.dumps({"id": "x", "ts": 1, "values": row}).encode()
    if kind == 2:
        return json.dumps(dict(zip(FEATURES, row, strict=True))).encode()
    if kind == 3:
        return json.dumps([row] * rng.randrange(1, 5), separators=(",", ":")).encode()
    return struct.pack(f"<{len(row)}f", *row) * rng.randrange(1, 4)


def mutated(value: bytes, rng: random.Random) -> bytes:
    data = bytearray(value)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 5, 20])):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(8)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at:at] = rng.choice(TOKENS)
        elif kind == 2:
            del data[at : at + rng.randrange(1, 9)]
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 4:
            data[at:at] = data[rng.randrange(len(data) + 1) :][: rng.randrange(40)]
        elif kind == 5:
            del data[at:]
        elif kind == 6 and rng.random() < 0.02:
            data[at:at] = b"[" * rng.choice([100, 2000, 200_000]) if rng.random() < 0.5 else b'{"a":' * 3000
        elif kind == 7 and rng.random() < 0.002:
            data *= rng.randrange(1, 5000)
    return bytes(data[:1_000_000])


def headers(rng: random.Random) -> list[tuple[str, bytes | None]] | None:
    kind = rng.randrange(12)
    if kind > 4:
        return None
    if kind == 0:
        return [("content-type", rng.choice([b"f32", b"application/x-f32; v=1", b"JSON", b"avro", b"\xff", b""]))]
    if kind == 1:
        return [("Content-Type", None), ("content-type", b"json"), ("content-type", b"f32")]
    if kind == 2:
        return [("offnormal-reason", b"forged"), ("offnormal-partition", b"-1"), ("content-type", rng.randbytes(5))]
    if kind == 3:
        return [(f"h{k}", rng.randbytes(rng.randrange(9))) for k in range(rng.randrange(30))]
    return [("content-type", b"application/vnd.offnormal.record-batch"), ("offnormal-error", rng.randbytes(900))]


def key(rng: random.Random) -> bytes | None:
    kind = rng.randrange(20)
    if kind == 0:
        return None
    if kind == 1:
        return rng.randbytes(rng.randrange(40))
    if kind == 2 and rng.random() < 0.05:
        return rng.randbytes(rng.choice([1024, 1025, 5000, 500_000]))
    if kind == 3:
        return rng.choice([b"", b"\x00", "☃\u2028</script>".encode(), b'"\\', b"\xff" * 1024])
    return b"e%d" % rng.randrange(50)


def producer(world: World, **more: Any) -> librdkafka.Producer:
    options = {"bootstrap.servers": world.bootstrap, "linger.ms": 5, "message.max.bytes": 200_000_000, "log_level": 0}
    return librdkafka.Producer(options | {"queue.buffering.max.kbytes": 1_000_000} | more)


def put(client: librdkafka.Producer, **record: Any) -> None:
    while True:
        try:
            client.produce(**record)
            client.poll(0)
            return
        except BufferError:
            client.poll(0.1)


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
        return _summed(world, worker, Counter({"hostile records": n}), most)


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
        _await_end(world, worker)
        seconds = time.monotonic() - began
        outcome = _summed(world, worker, Counter({"records of garbage": n}), usage(worker.popen.pid)[0])
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
        outcome = _summed(world, worker, Counter({"records at the limit": n}), usage(worker.popen.pid)[0])
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
    found = fuzz_guarded.in_child(list(fuzz_guarded.TARGETS), n, rng.randrange(1 << 30), folder, bounds=bounds)
    seen = ", ".join(f"{target} {seconds:.0f} s" for target, seconds in found.seconds.items())
    return Outcome({f"records of {target}": count for target, count in found.records.items()}, seen, found.complaints)


# -- batches


@fuzzer(6, 200)
def damaged_batches(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """Bytes of record batches changed on the broker's disk: each batch becomes a dead letter once it was tried three
    times, and its neighbours are scored.
    """
    rows = normal_rows(1000, np.random.default_rng(rng.randrange(1 << 30)))
    with quiet_world(setting, rng, partitions=1) as world:
        topic, sent = world.stage.topics.sensors, 0
        for _ in range(3 * n):  # a batch each
            client = producer(
                world, **{"compression.type": rng.choice(["none", "none", "gzip", "lz4", "zstd", "snappy"])}
            )
            for _ in range(rng.randrange(1, 8)):
                put(client, topic=topic, key=b"e", value=json.dumps(rows[rng.randrange(1000)].tolist()).encode())
                sent += 1
            client.flush(60)
        lost = _damage(setting, topic, n, rng)
        worker = world.worker()
        world.busy(worker)
        _await_end(world, worker, at=sent, timeout=60 + 3 * n)
        assert worker.stop(30) == 0, worker.errors[-2000:]
        scores, dead = world.stage.scores(), world.stage.dead_letters()
        reasons = Counter(dict(letter.headers)["offnormal-reason"].decode() for letter in dead)
        complaints = []
        whole = sent - lost
        if len(scores) < whole:
            complaints.append(f"{whole} records lie in sound batches, and {len(scores)} were scored")
        if set(reasons) != {"unreadable-batch"} or len(dead) < n:
            complaints.append(f"{n} batches were damaged: {reasons}")
        seen = f"{sent} records, {whole} of them sound: {len(scores)} scored; {len(dead)} dead letters of batches"
        return Outcome({"batches damaged on disk": n}, seen, complaints)


def _damage(setting: Setting, topic: str, n: int, rng: random.Random) -> int:
    """Flips a bit that the checksum covers in n of the batches of partition 0. -> the records of these."""
    (log,) = Path(setting.kafka.home, "log", f"{topic}-0").glob("*.log")
    data, at, found = log.read_bytes(), 0, []
    while at + 61 <= len(data):
        (size,) = struct.unpack_from(">i", data, at + 8)
        found.append((at, 12 + size))
        at += 12 + size
    lost = 0
    with log.open("r+b") as file:
        for begin, size in rng.sample(found, n):
            place = begin + rng.randrange(61, size)
            file.seek(place)
            file.write(bytes([data[place] ^ 1 << rng.randrange(8)]))
            lost += struct.unpack_from(">i", data, begin + 57)[0]
    return lost


@fuzzer(5, 60)
def bombs(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """Batches of some KiB that unpack to 200 MiB: each becomes a dead letter, its neighbours are scored, and the
    worker's memory stays bounded.
    """
    with quiet_world(setting, rng, partitions=1, OFFNORMAL_KAFKA__UNPACKED_BYTES=str(16 * 2**20)) as world:
        topic, bomb = world.stage.topics.sensors, b"\0" * (50 * 2**20)
        sound = 0
        for k in range(n):
            for codec in ("gzip", "zstd", "lz4")[: 1 + k % 3]:
                client = producer(world, **{"compression.type": codec})
                put(client, topic=topic, value=bomb)
                client.flush(60)
            client = producer(world)
            put(client, topic=topic, value=b"[1, 2, 3, 4]")
            client.flush(60)
            sound += 1
        made = sum(1 + k % 3 for k in range(n))
        worker = world.worker()
        world.busy(worker)
        before = most = usage(worker.popen.pid)[0]
        deadline = time.monotonic() + 60 + 4 * made
        while sum(world.stage.committed().values()) < sound + made and time.monotonic() < deadline:
            most = max(most, usage(worker.popen.pid)[0])
            time.sleep(0.2)
        assert worker.stop(30) == 0, worker.errors[-2000:]
        scores, dead = world.stage.scores(), world.stage.dead_letters()
        complaints = []
        if len(scores) != sound or len(dead) != made:
            complaints.append(f"{sound} sound and {made} bombs: {len(scores)} scores, {len(dead)} dead letters")
        if most > before + 300:
            complaints.append(f"it grew from {before} to {most} MiB")
        seen = f"{len(scores)} of {sound} sound ones scored, {len(dead)} dead letters, {before} -> {most} MiB at most"
        return Outcome({"bombs": made}, seen, complaints)


# -- tools


def quiet_world(setting: Setting, rng: random.Random, **settings: Any) -> Any:
    """Without an input of its own."""
    return world_of(setting, rng, swaps=False, feeds=False, **settings)


def _await_end(world: World, worker: Process, at: int | None = None, timeout: float = 180) -> None:
    ends = at if at is not None else sum(ends_of(world).values())

    def there() -> bool:
        assert worker.popen.poll() is None, f"it has ended: {worker.errors[-3000:]}"
        return sum(world.stage.committed().values()) >= ends

    until(there, timeout, every=0.5)


def _summed(world: World, worker: Process, done: Counter[str], most: int) -> Outcome:
    """Each record was scored or dead-lettered, once; or it has no value."""
    _await_end(world, worker, timeout=300)
    assert worker.stop(30) == 0, worker.errors[-2000:]
    topics = world.stage.topics
    inputs = {(m.partition(), m.offset()): m for m in checker.read(world.bootstrap, topics.sensors)}
    nulls = {place for place, m in inputs.items() if m.value() is None}
    outputs: Counter[checker.Place] = Counter()
    wrong = 0
    for message in checker.read(world.bootstrap, topics.scores):
        _, partition, offset = dict(message.headers())["offnormal-source"].decode().rsplit("/", 2)
        outputs[int(partition), int(offset)] += 1
    scored = len(outputs)
    for message in checker.read(world.bootstrap, topics.dead_letters):
        told = dict(message.headers())
        place = int(told["offnormal-partition"]), int(told["offnormal-offset"])
        outputs[place] += 1
        if "offnormal-left-out" not in told:
            original = inputs[place]
            wrong += message.value() != original.value() or message.key() != original.key()
    complaints = []
    if lost := set(inputs) - set(outputs) - nulls:
        complaints.append(f"{len(lost)} lost: {[(p, inputs[p].value()[:60]) for p in sorted(lost)[:3]]}")
    if twice := [place for place, count in outputs.items() if count > 1]:
        complaints.append(f"{len(twice)} twice: {twice[:3]}")
    if wrong:
        complaints.append(f"{wrong} dead letters have other bytes than their records")
    if strange := set(outputs) - set(inputs) | set(outputs) & nulls:
        complaints.append(f"outputs of nothing: {sorted(strange)[:3]}")
    seen = (
        f"{len(inputs):,} records: {scored:,} scored, {len(outputs) - scored:,} dead-lettered, {len(nulls):,} without a"
        f" value; {most} MiB"
    )
    return Outcome(dict(done), seen, complaints)
