"""The fault scenarios of single readings, which the worker aligns."""

import contextlib
import json
import random
import time

import confluent_kafka as librdkafka

from tests.faults import readings_checker
from tests.faults.outcome import Outcome, scenario
from tests.faults.world import Setting, World, _offline, await_scored
from tests.models import FEATURES
from tests.stage import until

MACHINES, STEP, LATENESS, HOLD = 12, 100, 300, 1000  # ms
RUBBISH = (b"", b"{", b'{"tag": 1.5}', b'{"value": 1, "time": 1}', b"[1, 2]")


class ReadingsWorld(World):
    """Sends readings of single tags, each at its own pace and up to LATENESS late; some records are rubbish."""

    def __init__(self, setting: Setting, rng: random.Random):
        super().__init__(
            setting,
            rng,
            OFFNORMAL_INPUT__SHAPE="readings",
            OFFNORMAL_INPUT__STEP=f"{STEP}ms",
            OFFNORMAL_INPUT__LATENESS=f"{LATENESS}ms",
            OFFNORMAL_INPUT__HOLD=f"{HOLD}ms",
            OFFNORMAL_INPUT__IDLE="3s",
        )

    def _feed(self) -> None:
        client = librdkafka.Producer(
            {"bootstrap.servers": self.bootstrap, "enable.idempotence": True, "linger.ms": 5, "log_level": 0}
        )
        rng = random.Random(self.rng.randrange(1 << 30))
        newest = [0] * MACHINES
        while not self._stop.is_set():
            began = time.monotonic()
            for _ in range(max(int(self.rate * self._feed_every), 1)):
                machine = rng.randrange(MACHINES)
                newest[machine] = max(newest[machine], int(time.time() * 1000))
                tag = rng.choices(range(len(FEATURES)), range(1, len(FEATURES) + 1))[0]
                at = newest[machine] - rng.randrange(LATENESS)
                reading = {"tag": FEATURES[tag], "value": round(rng.gauss(10 * tag, 1), 3), "time": at}
                value = rng.choice(RUBBISH) if rng.random() < 0.005 else json.dumps(reading).encode()
                with contextlib.suppress(BufferError):
                    client.produce(self.stage.topics.sensors, value, b"m%d" % machine)
                    self.sent += 1
                client.poll(0)
            self._stop.wait(max(self._feed_every - (time.monotonic() - began), 0))
        client.flush(120)

    def check(self) -> readings_checker.ReadingsVerdict:
        models = {model.card.version: _offline(model) for model in self._models}
        settings = self.stage.settings
        return readings_checker.check(
            self.bootstrap, settings.topics, settings.kafka.group, models, FEATURES, STEP, HOLD
        )


@scenario(4, 50)
def readings(setting: Setting, rng: random.Random, n: int) -> Outcome:
    """kill -9 of the worker while it aligns single readings: each vector once, and as pandas aligns it."""
    world = ReadingsWorld(setting, rng)
    try:
        for _ in range(n):
            worker = world.worker()
            world.busy(worker)
            if rng.random() < 0.7:
                await_scored(world, 500)
            time.sleep(rng.uniform(0.0, 1.5))
            world.kill(worker)
        world.rest()
        # The last vector of each machine is closed by silence: also if the worker dies before or after that.
        for pause in (2.0, 5.0):
            worker = world.worker()
            world.busy(worker)
            time.sleep(pause)
            world.kill(worker)
        last = world.worker()
        world.busy(last)
        with contextlib.suppress(AssertionError):
            until(lambda: not world.check().complaints, 60, every=5)
        time.sleep(5)
        assert last.stop(30) == 0, last.errors[-2000:]
        verdict = world.check()
        complaints = list(verdict.complaints)
        if not verdict.dead or not verdict.closed_by_silence or len(verdict.versions) < 2:
            complaints.append("no rubbish dead-lettered, nothing closed by silence, or no swap: this proves little")
        return Outcome(dict(world.done), str(verdict), complaints)
    finally:
        world.close()
