"""The worker as in production, measured: `python -m tests.benchmarks.measured VECTORS`, settings from the environment.

Prints one JSON line. Measured is the span from the first records in hand to the last batch scored and its events handed
over: vectors a CPU second count user and system time of all threads of the process, commits in it included.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

from worker.blocks import RecordBlock
from worker.observability import log
from worker.runtime.session import Session
from worker.runtime.worker import Worker
from worker.settings import Settings, load


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_mb() -> int:
    """Of this process alone: getrusage's figure begins with that of the process that has started it."""
    status = Path("/proc/self/status").read_text()
    return next(int(each.split()[1]) >> 10 for each in status.splitlines() if each.startswith("VmHWM"))


def line(rows: int, alerts: int, batches: int, start: tuple[float, float], end: tuple[float, float]) -> dict[str, Any]:
    """What a run comes to. `start`, `end`: seconds on the clock, seconds of CPU."""
    seconds, used = end[0] - start[0], end[1] - start[1]
    return {
        "n": rows,
        "alerts": alerts,
        "seconds": round(seconds, 3),
        "vectors_per_s": round(rows / seconds),
        "cpu_seconds": round(used, 3),
        "vectors_per_cpu_s": round(rows / used),
        "cpu_seconds_with_startup": round(cpu(), 3),
        "peak_rss_mb": peak_mb(),
        "mean_batch": round(rows / batches, 1),
    }


def measure(settings: Settings, n: int) -> dict[str, Any]:
    """Runs a worker in this process until it has scored n vectors. Exits where it stops before."""
    worker = Worker(settings)
    rows = alerts = batches = 0
    start = end = (0.0, 0.0)
    (pipeline,) = worker._dispatcher.pipelines.values()
    process, score = Session._process, pipeline.score

    def timed(session: Session, records: RecordBlock) -> None:
        nonlocal batches, start, end
        if not batches:
            start = (time.perf_counter(), cpu())
        batches += 1
        process(session, records)
        if rows >= n:
            end = (time.perf_counter(), cpu())
            worker.stop()

    def counted(*arguments: Any) -> Any:
        nonlocal rows, alerts
        batch = score(*arguments)
        rows += len(batch.block)
        alerts += batch.counts.events.total()
        return batch

    pipeline.score = counted
    with mock.patch.object(Session, "_process", timed):
        worker.run()
    if rows < n:
        sys.exit(f"only {rows} of {n} vectors")
    return {**line(rows, alerts, batches, start, end), "stages": worker.metrics.profile()}


def main() -> None:
    settings = load()
    log.configure(settings.log)
    print(json.dumps(measure(settings, int(sys.argv[1]))), flush=True)


if __name__ == "__main__":
    main()
