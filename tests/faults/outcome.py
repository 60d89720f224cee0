"""What a scenario is, and what it hands over: how it is registered, the usual beginning and the usual end."""

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from tests.faults.rest import at_rest
from tests.faults.world import Setting, World
from tests.stage import Process


@dataclass
class Outcome:
    """What was done, what was seen, and what must not have been."""

    done: dict[str, int]
    seen: str
    complaints: list[str] = field(default_factory=list)


class Skipped(Exception):
    """It cannot be done here, and why."""


Scenario = Callable[[Setting, random.Random, int], Outcome]
SCENARIOS: dict[str, tuple[Scenario, int, int]] = {}  # name -> scenario, times in CI, times in full


def scenario(small: int, full: int) -> Callable[[Scenario], Scenario]:
    def register(call: Scenario) -> Scenario:
        SCENARIOS[call.__name__.replace("_", "-")] = (call, small, full)
        return call

    return register


@contextlib.contextmanager
def world_of(setting: Setting, rng: random.Random, **more: Any) -> Iterator[World]:
    world = World(setting, rng, **more)
    try:
        yield world
    finally:
        world.close()


def settled(world: World, repeats: bool = False, workers: Sequence[Process] = (), **settings: str) -> Outcome:
    """The usual end: the input rests, what is left is scored, and everything is looked at. By `workers` first, if any
    are left: they have to come to rest by themselves.
    """
    world.rest()
    unrest = at_rest(world, workers) if workers else []
    world.drain(**settings)  # type: ignore[arg-type]
    verdict = world.verdict()
    complaints = unrest + verdict.complaints(repeats)
    if verdict.records < world.sent:
        complaints.append(f"{world.sent} records were sent, and {verdict.records} are there")
    if not verdict.dead:
        complaints.append("no rubbish was dead-lettered: this proves little")
    return Outcome(dict(world.done), str(verdict), complaints)


def together(outcomes: dict[str, Outcome]) -> Outcome:
    """Of some worlds, by their names."""
    done = {f"{what} ({name})": count for name, each in outcomes.items() for what, count in each.done.items()}
    seen = "; ".join(f"{name}: {each.seen}" for name, each in outcomes.items())
    return Outcome(done, seen, [f"{name}: {what}" for name, each in outcomes.items() for what in each.complaints])


# -- looking


def ends_of(world: World) -> dict[int, int]:
    consumer = KafkaConsumer(bootstrap_servers=world.bootstrap)
    try:
        topic = world.stage.topics.sensors
        places = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
        return {place.partition: end for place, end in consumer.end_offsets(places).items()}
    finally:
        consumer.close()
