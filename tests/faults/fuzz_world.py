"""What the scenarios of hostile input share: their register, a producer of anything, and a look at each record."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import confluent_kafka as librdkafka

from tests.faults import checker
from tests.faults.outcome import Outcome, Scenario, ends_of, world_of
from tests.faults.world import Setting, World
from tests.stage import Process, until

FUZZERS: dict[str, tuple[Scenario, int, int]] = {}


def fuzzer(small: int, full: int) -> Callable[[Scenario], Scenario]:
    def register(call: Scenario) -> Scenario:
        FUZZERS[call.__name__.replace("_", "-")] = (call, small, full)
        return call

    return register


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


def quiet_world(setting: Setting, rng: random.Random, **settings: Any) -> Any:
    """Without an input of its own."""
    return world_of(setting, rng, swaps=False, feeds=False, **settings)


def await_end(world: World, worker: Process, at: int | None = None, timeout: float = 180) -> None:
    ends = at if at is not None else sum(ends_of(world).values())

    def there() -> bool:
        assert worker.popen.poll() is None, f"it has ended: {worker.errors[-3000:]}"
        return sum(world.stage.committed().values()) >= ends

    until(there, timeout, every=0.5)


def summed(world: World, worker: Process, done: Counter[str], most: int) -> Outcome:
    """Each record was scored or dead-lettered, once; or it has no value."""
    await_end(world, worker, timeout=300)
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
