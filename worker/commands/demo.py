"""`python -m worker demo`: broker, replay, training, worker, a second training and its swap, and a summary."""

import json
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request
from argparse import Namespace
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from worker.demo.broker import embedded_broker, free_port
from worker.demo.outputs import OutputReader
from worker.demo.processes import Processes
from worker.demo.replay import PARTITIONS, Replay, Rows, TagReplay, shuttle
from worker.demo.screen import Screen
from worker.demo.verdict import DemoVerdict, judge
from worker.errors import OffnormalError
from worker.settings import KafkaSettings, Settings

# Commissioning: the first training sees only good operation, so rows that are labelled as anomalies are left out.
FIRST_STRETCH = 9_000
BUDGET = 0.001
RETRAIN_AT = 0.2  # of the stream
HOLD_AT = 0.85  # share of the stream at which it waits for the swap, in case the machine is slow
LIMIT = 240.0  # seconds for any one stage, beyond what its pace takes
SPEED, SLOWER = 1300, 340  # vectors a second that are replayed; with the page about two minutes of them
TAGS_SPEED, TAGS_ROWS = 400, 12_000  # of single readings: each row is nine records
TAGS: Final = {
    "OFFNORMAL_INPUT__SHAPE": "readings",
    "OFFNORMAL_INPUT__STEP": "1s",
    "OFFNORMAL_INPUT__LATENESS": "0s",
}


def run(settings: Settings, arguments: Namespace) -> int:
    """Run the demo; raise OffnormalError where it does not end as it should."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Only set a flag. With an exception at any point, a process that is being started could be left running.
        signal.signal(number, lambda *_: stop.set())
    started = time.monotonic()
    usual = SLOWER if arguments.page else TAGS_SPEED if arguments.tags else SPEED
    speed = arguments.speed if arguments.speed is not None else usual
    port = free_port()
    stays = arguments.page and not arguments.json
    with (
        Screen(to_stderr=arguments.json) as screen,
        tempfile.TemporaryDirectory(prefix="offnormal-demo-") as folder,
        embedded_broker() as bootstrap,
    ):
        environment = {
            "OFFNORMAL_KAFKA__BOOTSTRAP": bootstrap,
            "OFFNORMAL_KAFKA__SESSION_TIMEOUT": "6s",
            "OFFNORMAL_DETECTION__FALSE_ALARM_RATE": str(BUDGET),
            "OFFNORMAL_OUTPUTS": '["scores"]',
            "OFFNORMAL_HTTP__HOST": "127.0.0.1",
            "OFFNORMAL_HTTP__PORT": str(port),
            "OFFNORMAL_HTTP__PAGE": str(arguments.page),
            "OFFNORMAL_HTTP__LABELS": str(arguments.page),
            "OFFNORMAL_LOG__FORMAT": "json",
            **(TAGS if arguments.tags else {}),
        }
        if arguments.page:
            screen.stage("page", f"open http://127.0.0.1:{port}/ once the stream has begun")
        with Processes(Path(folder), environment) as processes:
            verdict = _Demo(
                screen=screen,
                processes=processes,
                environment=environment,
                stop=stop,
                speed=speed,
                stays=stays,
                tags=arguments.tags,
            ).run(started)
            if stays:
                screen.summary(verdict)
                screen.stage("page", f"is still there: http://127.0.0.1:{port}/; Ctrl-C ends the demo")
                stop.wait()
    if not stays:
        screen.summary(verdict)
    if arguments.json:
        print(json.dumps(verdict.as_json()))
    return 0 if verdict.lost == 0 and verdict.repeated == 0 and verdict.swaps > 0 else 1


class _Demo:
    def __init__(
        self,
        screen: Screen,
        processes: Processes,
        environment: dict[str, str],
        stop: threading.Event,
        speed: int,
        stays: bool,
        tags: bool,
    ):
        self._tags = tags  # single readings are sent
        self._screen, self._processes, self._stop = screen, processes, stop
        self._speed, self._stays = speed, stays  # the worker goes on after the end
        self._port = environment["OFFNORMAL_HTTP__PORT"]
        self._settings = Settings(
            kafka=KafkaSettings(bootstrap=environment["OFFNORMAL_KAFKA__BOOTSTRAP"]), outputs=("scores",)
        )

    def run(self, started: float) -> DemoVerdict:
        screen, settings = self._screen, self._settings
        screen.stage("data", "loading")
        rows = shuttle()
        first, rest = _split(rows, TAGS_ROWS if self._tags else len(rows))
        screen.stage("data", f"{len(rows):,} vectors of 9 sensors, {int(rows.anomalous.sum()):,} labelled as anomalies")
        self._finish("topics", "worker", "topics", "--partitions", str(PARTITIONS), "--replication", "1")

        at = int(time.time() * 1000) - (len(first) + len(rest)) // PARTITIONS * 1000
        with self._replay(first, 0, at) as replay:
            self._wait(replay.done.is_set, lambda: screen.stage("commissioning", f"{replay.sent:,} vectors replayed"))
            screen.stage("commissioning", f"{replay.sent:,} vectors of good operation replayed")
        self._finish("first training", "training")

        begin = time.time()
        hold_at = int(HOLD_AT * len(rest))
        with (
            closing(OutputReader(settings)) as outputs,
            self._replay(rest, self._speed, at + (len(first) // PARTITIONS + 1) * 1000, hold_at) as replay,
        ):
            self._wait(replay.first_acknowledged, lambda: screen.stage("stream", "starting"))
            swap_log = self._stream(replay, outputs, begin, len(rest))
            sent = replay.places()
        in_service = [entry for entry in swap_log if entry["event"] == "model_swapped"]
        swaps = sum(entry.get("replaces") is not None for entry in in_service)
        asked = in_service[-1]["false_alarm_rate"]
        return judge(
            sent,
            rest.anomalous,
            outputs,
            asked,
            swaps,
            _swap_figures(swap_log),
            time.monotonic() - started,
        )

    def _replay(self, rows: Rows, pace: float, begin: int, hold_at: int | None = None) -> Replay:
        """Return what sends the rows, as vectors or as single readings from the time `begin` [ms] on."""
        kafka, topic = self._settings.kafka, self._settings.topics.sensors
        if self._tags:
            return TagReplay(kafka, topic, rows, pace, begin, hold_at)
        return Replay(kafka, topic, rows, pace, hold_at)

    def _stream(self, replay: Replay, outputs: OutputReader, begin: float, total: int) -> list[dict[str, Any]]:
        """Run the worker over the rest of the data, with a second training in between; return the worker's log."""
        start = datetime.fromtimestamp(begin, UTC).isoformat(timespec="milliseconds")
        worker = self._processes.start("worker", "worker", OFFNORMAL_KAFKA__START=start)
        training: subprocess.Popen[bytes] | None = None
        rate = _Rate()

        def show() -> None:
            nonlocal training
            outputs.poll()
            scored = sum(outputs.scored.values())
            if training is None and scored > RETRAIN_AT * total:
                lookback = f"{time.time() - begin:.0f}s"
                training = self._processes.start("second training", "training", OFFNORMAL_TRAINING__LOOKBACK=lookback)
            for name, process in (("worker", worker), ("second training", training)):
                if process is not None and process.poll() is not None:
                    self._processes.require_success(name, process)
            if training is not None and training.poll() == 0:
                replay.released.set()
            doing = "" if training is None else ", a second model is being trained"
            if len(outputs.versions) > 1:
                doing = ", the second model was swapped in"
            self._screen.stage("stream", f"{replay.sent:,} of {total:,} vectors replayed{doing}")
            self._screen.figures(
                {
                    "scored": f"{scored:,}",
                    "vectors/s": f"{rate.of(scored):,.0f}",
                    "lag": f"{self._lag():,.0f}",
                    "model": list(outputs.versions)[-1] if outputs.versions else "-",
                    "events": f"{sum(outputs.events.values()):,}",
                    "incidents": f"{len(outputs.incidents)}",
                    "dead letters": f"{outputs.dead}",
                },
                list(outputs.latest),
            )

        pace = total / self._speed if self._speed else 0.0
        self._wait(lambda: replay.done.is_set() and sum(outputs.scored.values()) >= replay.sent, show, LIMIT + pace)
        time.sleep(0.5)
        outputs.poll()  # whatever still arrives is a duplicate
        if not self._stays:
            self._screen.stage("end", "SIGTERM to the worker")
            worker.terminate()
            self._wait(lambda: worker.poll() is not None, lambda: None)
            self._processes.require_success("worker", worker)
        return [json.loads(line) for line in self._processes.log("worker").read_text().splitlines() if line[:1] == "{"]

    def _finish(self, name: str, *arguments: str) -> None:
        process = self._processes.start(name, *arguments)
        begun = time.monotonic()

        def show() -> None:
            self._screen.stage(name, f"{' '.join(('python -m', *arguments))}  {time.monotonic() - begun:.0f} s")

        self._wait(lambda: process.poll() is not None, show)
        self._processes.require_success(name, process)
        lines = self._processes.log(name).read_text().strip().splitlines()
        if arguments == ("training",) and lines:
            self._screen.stage(name, lines[-1])

    def _wait(self, ready: Callable[[], bool], show: Callable[[], None], limit: float = LIMIT) -> None:
        deadline = time.monotonic() + limit
        while not ready():
            if self._stop.is_set():
                raise KeyboardInterrupt
            if time.monotonic() > deadline:
                raise OffnormalError(
                    f"the demo did not end within {limit:.0f} s; on a slow machine: `python -m worker demo --speed 300`"
                )
            show()
            time.sleep(0.1)

    def _lag(self) -> float:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=1) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return 0.0
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("offnormal_lag_records{"))


class _Rate:
    """The vectors a second over about the last two seconds."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, int]] = []

    def of(self, count: int) -> float:
        now = time.monotonic()
        self._marks = [mark for mark in self._marks if now - mark[0] < 2.0] + [(now, count)]
        earlier, before = self._marks[0]
        return (count - before) / (now - earlier) if now > earlier else 0.0


def _split(rows: Rows, most: int) -> tuple[Rows, Rows]:
    """Return the rows of good operation at the begin, as many for each partition, and at most so many of the others."""
    good = [i for i in range(FIRST_STRETCH) if not rows.anomalous[i]]
    good = good[: len(good) // PARTITIONS * PARTITIONS]
    first = Rows([rows.records[i] for i in good], rows.anomalous[good])
    rest = slice(FIRST_STRETCH, FIRST_STRETCH + most)
    return first, Rows(rows.records[rest], rows.anomalous[rest])


def _swap_figures(log: list[dict[str, Any]]) -> dict[str, Any]:
    """Return when the second model went into service, how long its preparation took, and how long the loop paused."""
    loaded = [entry for entry in log if entry["event"] == "model_swapped" and entry.get("replaces")]
    if not loaded:
        return {}
    serves = [
        e for e in log if e["event"] == "pipeline_model_changed" and e["model_version"] == loaded[0]["model_version"]
    ]
    return {
        "time": serves[0]["timestamp"] if serves else loaded[0]["timestamp"],
        "prepared_seconds": loaded[0]["prepared_seconds"],
        "loop_paused_seconds": serves[0]["loop_paused_seconds"] if serves else 0.0,
    }
