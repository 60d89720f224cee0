"""A plant that changes abruptly. Each stream has a first part, from which a model is made, and a labelled part. Then
come the same two parts of another plant. A worker scores, and `training serve` trains on request. There is one vector
per second of event time. The stream waits during a training, since a plant that sends one vector a second would hardly
notice one. For comparison: the first model throughout (loop off), and a model made of the second plant's first part at
the change (oracle).
"""

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

from tests.benchmarks.loop.streams import Stream
from tests.stage import Stage, until
from training.fitting.fit import Fitted, fit, split
from worker.registry import Registry

BUDGET = 1e-3
CHUNK = 1000
SECONDS_AGO = 4 * 86_400
WINDOW_ROWS = 2000  # over which the rate of false alarms is looked at


class Run:
    """A stream through a worker and `training serve`."""

    def __init__(self, stage: Stage, stream: Stream):
        self._stage, self._stream = stage, stream
        self._begin = int(time.time()) - SECONDS_AGO
        self.sent = 0
        self.swaps: list[int] = []  # rows sent when a model went into service

    def send(self, upto: int) -> None:
        stage, x = self._stage, self._stream.x
        for i in range(self.sent, upto):
            stage._producer.send(
                stage.topics.sensors, x[i].tobytes(), b"plant", partition=0, timestamp_ms=(self._begin + i) * 1000
            )
        stage._producer.flush(30)
        self.sent = upto

    def go(self) -> tuple[npt.NDArray[np.bool_], list[dict[str, Any]]]:
        """-> which rows were named [n], and the registry's history."""
        stage, stream = self._stage, self._stream
        first = stream.segments["before"][0]
        serve = stage.training("serve", OFFNORMAL_TRAINING__COOLDOWN="1s")
        self.send(first)
        serve.await_log("champion_promoted", timeout=200)
        worker = stage.worker(OFFNORMAL_KAFKA__START="latest", OFFNORMAL_TRAINING__COOLDOWN="1h")
        worker.await_log("partitions_assigned")
        asked = 0
        for upto in [*range(first + CHUNK, len(stream.x), CHUNK), len(stream.x)]:
            self.send(upto)
            until(lambda: stage.committed().get(0, 0) >= self.sent, 120)
            time.sleep(0.7)  # what has been committed is looked at
            self.swaps += [self.sent] * (len(worker.log("model_swapped")) - len(self.swaps))
            requests = len(stage.read(stage.topics.training_requests))
            if requests > asked:
                asked = requests
                before = len(serve.log("training_started"))
                with contextlib.suppress(AssertionError):  # what was asked for during a training is settled by it
                    until(lambda: len(serve.log("training_started")) > before, 12)  # noqa: B023
            if done(serve) < len(serve.log("training_started")):
                until(lambda: done(serve) >= len(serve.log("training_started")), 200)
                time.sleep(0.5)
        assert worker.stop() == 0 and serve.stop(60) == 0
        named = np.zeros(len(stream.x), bool)
        for event in stage.events():
            named[int(event["id"].rsplit("/", 2)[1])] = True
        return named, Registry(stage.settings).view().history()


def done(serve: Any) -> int:
    ends = ("champion_promoted", "challenger_refused", "training_failed", "training_postponed")
    return sum(len(serve.log(each)) for each in ends)


def fitted(x: npt.NDArray[np.float32]) -> Fitted:
    return fit(*split(x, 0.2), tuple(f"x{i}" for i in range(x.shape[1])), "denoising")


def named_by(model: Fitted, x: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    calibration = model.detector.calibration
    threshold = calibration.promise(BUDGET).threshold
    return np.asarray(model.detector.score(torch.from_numpy(x)).numpy() >= threshold)


def events_found(labels: npt.NDArray[np.bool_], named: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Labelled stretches in which a vector was named, and stretches."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], labels.astype(int), [0]))))
    found = [bool(named[a:b].any()) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return sum(found), len(found)


def quiet_after(stream: Stream, named: npt.NDArray[np.bool_], limit: float) -> int | None:
    """Rows from the change until the false alarms of the next WINDOW_ROWS normal rows are within the limit."""
    begin = stream.segments["change"][0]
    normal = np.flatnonzero(~stream.anomalous[begin:])
    rate = np.convolve(named[begin:][normal], np.ones(WINDOW_ROWS) / WINDOW_ROWS, "valid")
    within = np.flatnonzero(rate <= limit)
    return int(normal[within[0]]) if len(within) else None


def report(stream: Stream, named: npt.NDArray[np.bool_], history: list[dict[str, Any]]) -> dict[str, Any]:
    segments, x = stream.segments, stream.x
    off = fitted(x[slice(*segments["train"])])
    oracle = fitted(x[slice(*segments["change"])])
    told: dict[str, Any] = {"trainings": [entry["what"] for entry in history]}
    told["quiet_after"] = quiet_after(stream, named, 2 * BUDGET)
    after = slice(*segments["after"])
    for name, span in (("before", slice(*segments["before"])), ("after", after)):
        labels = stream.anomalous[span]
        by: dict[str, npt.NDArray[np.bool_]] = {"loop": named[span], "off": named_by(off, x[span])}
        if name == "after":
            by["oracle"] = named_by(oracle, x[span])
        for who, flags in by.items():
            found, of = events_found(labels, flags)
            told[f"{name} {who}"] = {
                "false_alarms": round(float(flags[~labels].mean()), 5),
                "events": f"{found}/{of}",
                "recall": round(float(flags[labels].mean()), 3),
            }
    return told


def run(bootstrap: str, folder: Path, streams: Sequence[Stream]) -> dict[str, Any]:
    """Figures by stream."""
    results: dict[str, Any] = {}
    for stream in streams:
        stage = Stage(
            bootstrap,
            folder,
            {
                "OFFNORMAL_INPUT__FORMAT": "f32",
                "OFFNORMAL_INPUT__FEATURES": str(stream.x.shape[1]),
                "OFFNORMAL_OUTPUTS": "[]",
                "OFFNORMAL_DETECTION__FALSE_ALARM_RATE": str(BUDGET),
                "OFFNORMAL_TRAINING__LOOKBACK": f"{stream.segments['train'][1]}s",
                "OFFNORMAL_TRAINING__MIN_ROWS": str(min(5000, stream.segments["train"][1])),
            },
        ).make_topics(1)
        try:
            run = Run(stage, stream)
            named, history = run.go()
            results[stream.name] = report(stream, named, history) | {"swaps": run.swaps}
            print(stream.name, json.dumps(results[stream.name]), flush=True)
        finally:
            stage.close()
    _show(results)
    return results


def _show(results: dict[str, Any]) -> None:
    columns = ("pair", "quiet after rows", "before", "before, off", "after", "after, off", "after, oracle", "decided")
    table = Table(*columns)
    for name, told in results.items():
        cells = [
            "{false_alarms:.2%}; {events}; {recall}".format(**told[key])
            for key in ("before loop", "before off", "after loop", "after off", "after oracle")
        ]
        table.add_row(name, str(told["quiet_after"]), *cells, str(len(told["trainings"])))
    Console(width=200).print(table, "false alarms of normal rows; labelled events found; share of their rows named")
