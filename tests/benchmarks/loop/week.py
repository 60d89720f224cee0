"""Some days of operation in fast-forward: a schedule, a drift, labels, a model that floods, a sensor that freezes.

The plant sends a vector each ten seconds. All parts have a clock that runs SPEED times as fast (tests/fast.py).
`EVENTS` lists what happens in which hour. The registry's history has to report it correctly, and nothing may grow.
"""

import json
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tests.models import FEATURES, normal_rows
from tests.stage import Process, Stage, until
from worker.models import Artefact
from worker.registry import Registry, new_version

SPEED = 2000.0
EVERY = 10.0  # seconds between two vectors
HOUR = int(3600 / EVERY)  # vectors
DAY = 24 * HOUR
WAIT = 90.0  # seconds for a first model and a worker; meanwhile it is before the begin
SCHEDULE = "0 3 * * *"
# Hours from the begin of the stream, after a day that the first model is made of.
ANOMALY, DISMISSED, BROKEN, FROZEN, MOVED = 5, 10, 30, 62, 74
LASTS = {ANOMALY: 1.0, DISMISSED: 1.0, FROZEN: 8.0}


class Week:
    def __init__(self, bootstrap: str, folder: Path, days: int):
        self._started = time.time()
        # A day begins at midnight: the schedule is met at the same place in each run.
        self._begin = (int(self._started) // 86_400 - days - 2) * 86_400.0
        self._days = days
        self._rng = np.random.default_rng(0)
        self._sent = 0
        self._stage = Stage(
            bootstrap,
            folder,
            {
                "OFFNORMAL_INPUT__FEATURES": json.dumps(FEATURES),
                "OFFNORMAL_OUTPUTS": "[]",
                "OFFNORMAL_MODEL__KIND": "stacked",
                "OFFNORMAL_MODEL__KEEP": "4",
                "OFFNORMAL_MODEL__PROBATION": "16h",
                "OFFNORMAL_DETECTION__FALSE_ALARM_RATE": "0.002",
                "OFFNORMAL_INCIDENTS__QUIET": "30m",
                "OFFNORMAL_TRAINING__STEPS": "300",
                "OFFNORMAL_TRAINING__MIN_ROWS": str(DAY * 3 // 4),
                "OFFNORMAL_TRAINING__SCHEDULE": SCHEDULE,
                "OFFNORMAL_TRAINING__COOLDOWN": "4h",
            },
        ).make_topics(1)

    @property
    def _now(self) -> float:
        return self._begin + SPEED * (time.time() - self._started)

    def _start(self, *arguments: str) -> Process:
        fast = ["tests.fast", str(SPEED), str(self._begin), str(self._started)]
        return self._stage.start([*fast, *arguments], {})

    def run(self) -> dict[str, Any]:
        stage = self._stage
        try:
            # The day before comes at once, and the clock stands until there is a model of it and a worker.
            self._send_until(DAY)
            self._started = time.time() + WAIT - 86_400 / SPEED
            serve = self._start("training", "serve")
            serve.await_log("champion_promoted", timeout=WAIT)
            worker = self._start("worker")
            worker.await_log("partitions_assigned", timeout=WAIT)
            time.sleep(max(self._started + 86_400 / SPEED - time.time(), 0))
            labelled, broken = 0, None
            memory: list[int] = []
            end = DAY * (1 + self._days)
            while self._sent < end:
                self._send_until(min(int((self._now - self._begin) / EVERY), end))
                hours = (self._sent - DAY) / HOUR
                if labelled < 2 and hours > DISMISSED + 2:
                    labelled = self._label()
                if broken is None and hours > BROKEN:
                    broken = self._publish_broken()
                if worker.log("worker_started"):
                    memory.append(resident(worker))
                assert worker.popen.poll() is None and serve.popen.poll() is None, worker.errors + serve.errors
                time.sleep(0.1)
            until(lambda: stage.committed().get(0, 0) == self._sent, 60)
            time.sleep(1)
            codes = worker.stop(), serve.stop(60)
            return self._told(codes, broken, memory)
        finally:
            stage.close()

    def _send_until(self, number: int) -> None:
        if number <= self._sent:
            return
        x = normal_rows(number - self._sent, self._rng)
        hours = (np.arange(self._sent, number) - DAY) / HOUR
        for begin, lasts in LASTS.items():
            during = (hours >= begin) & (hours < begin + lasts)
            if begin == FROZEN:
                x[during, 1] = 0.5
            else:
                x[during] += np.array([0, 3, 3, 0], np.float32)
        x[hours >= MOVED] += np.array([2, 0, 0, 2], np.float32)
        producer, topic = self._stage._producer, self._stage.topics.sensors
        for i, row in enumerate(x.astype(float).tolist(), self._sent):
            at = int((self._begin + i * EVERY) * 1000)
            producer.send(topic, json.dumps(row).encode(), b"plant", partition=0, timestamp_ms=at)
        producer.flush(30)
        self._sent = number

    def _label(self) -> int:
        """The two anomalous hours: the first was one, the second was not."""
        incidents = [json.loads(r.value)["data"] for r in self._stage.read(self._stage.topics.incidents)]
        long = [i for i in incidents if i["vectors"] > HOUR // 2 and i["state"] == "closed"]
        ids = list(dict.fromkeys(i["incident"] for i in sorted(long, key=lambda i: str(i["started"]))))
        if len(ids) < 2:
            return 0
        for id, verdict in zip(ids[:2], ("confirmed", "dismissed"), strict=True):
            assert self._start("worker", "label", id, verdict, "--who", "shift").wait() == 0
        return 2

    def _publish_broken(self) -> str:
        """Somebody promotes, by hand, a model whose threshold is far too low."""
        registry = Registry(self._stage.settings)
        view = registry.view()
        sound = Artefact.load(view.artefact(view.champion() or ""))
        c = sound.detector.calibration
        quarter = replace(c, body=c.body / 4, sigma=c.sigma / 4, upper=None if c.upper is None else c.upper / 4)
        loud = replace(sound.detector, calibration=quarter)
        version = new_version(datetime.fromtimestamp(self._now, UTC), b"broken")
        registry.add(replace(sound, card=sound.card.model_copy(update={"version": version}), detector=loud))
        assert self._start("training", "models", "promote", version, "--why", "forced").wait() == 0
        return version

    def _told(self, codes: tuple[int, int], broken: str | None, memory: list[int]) -> dict[str, Any]:
        stage = self._stage
        view = Registry(stage.settings).view()
        topics = stage.topics
        drift = [json.loads(r.value)["data"] for r in stage.read(topics.drift)]
        sizes = {name: len(stage.read(getattr(topics, name))) for name in ("drift", "training_requests", "models")}
        quarter = max(len(memory) // 4, 1)
        return {
            "exit_codes": codes,
            "broken": broken,
            "history": view.history(),
            "begin": self._begin + 86_400,
            "kept": view.versions(),
            "champion": view.champion(),
            "drift": Counter((d["kind"], d.get("fault")) for d in drift),
            "requests": sizes["training_requests"],
            "sizes": sizes,
            "events": stage.events(),
            "memory": (int(np.median(memory[quarter : 2 * quarter])), int(np.median(memory[-quarter:]))),
        }


def resident(process: Process) -> int:
    """Bytes of memory that a process has."""
    status = Path(f"/proc/{process.popen.pid}/statm").read_text()
    return int(status.split()[1]) * 4096


def line(entry: dict[str, Any], begin: float) -> str:
    """A decision, by the hours since the begin."""
    hours = (datetime.fromisoformat(entry["when"]).timestamp() - begin) / 3600
    return f"{hours:7.1f} h  {entry['what']:<20} {entry['version']}  {entry['why']}"
