"""Topics change while workers run: partitions are added, topics or records or offsets are deleted."""

import json
import random
import time

import numpy as np
from kafka import TopicPartition

from tests.faults.outcome import Outcome, ends_of, scenario, settled, world_of
from tests.faults.world import Setting, await_scored
from tests.models import normal_rows
from tests.stage import until
from worker.kafka.topics import create


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
