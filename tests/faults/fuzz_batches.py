"""Hostile batches, through a broker: some are damaged on the broker's disk, some unpack to far more than they are. Each
becomes a dead letter, none harms its neighbours, and the worker neither ends, nor hangs, nor grows without bound.
"""

import json
import random
import struct
import time
from collections import Counter
from pathlib import Path

import numpy as np

from tests.faults.fuzz_world import await_end, fuzzer, producer, put, quiet_world
from tests.faults.outcome import Outcome
from tests.faults.rest import usage
from tests.faults.world import Setting
from tests.models import normal_rows


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
        await_end(world, worker, at=sent, timeout=60 + 3 * n)
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
