"""Trainings are killed while workers score; and a worker lives through minutes of everything."""

import random
import time

from tests.faults.outcome import Outcome, scenario, settled, world_of
from tests.faults.rest import Usage, usage
from tests.faults.world import Setting, World, await_scored
from tests.stage import until
from worker.models import Artefact
from worker.registry import Registry


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


@scenario(1, 30)
def soak(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """So many minutes at moderate load with swaps, workers that come and go and a broker that restarts: one worker
    lives through it all, and its memory, file handles and threads stay flat.
    """
    with world_of(setting, rng) as world, world.pool(1) as workers:
        await_scored(world, 1000)
        world.restart_broker()  # buffers grow to the size of the first backlog, once
        await_scored(world, 5000, timeout=120)
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
