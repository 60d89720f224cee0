"""What the live page costs: `python -m tests.benchmarks.page_cost --rows 4000000 --repeats 5`.

Vectors a CPU second of the worker as in production, in turn: without the page; with it, and nobody there; and with four
who look, while incidents are published. And the CPU that a worker without work takes, in each way.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.benchmarks import stream
from tests.benchmarks.loop_cost import once
from tests.brokers import any_broker
from tests.stage import Stage
from worker.demo.broker import free_port
from worker.models import Artefact

VIEWERS = 4
WAYS = {"without": ("false", 0), "nobody looks": ("true", 0), f"{VIEWERS} look": ("true", VIEWERS)}


@contextlib.contextmanager
def viewers(port: int, n: int) -> Iterator[list[int]]:
    """So many read the stream as soon as there is one; how many bytes each has read."""
    over, read = threading.Event(), [0] * n

    def look(i: int) -> None:
        while not over.is_set():
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/page/stream") as told:
                while not over.is_set() and (line := told.readline()):
                    read[i] += len(line)
            time.sleep(0.1)

    threads = [threading.Thread(target=look, args=(i,), daemon=True) for i in range(n)]
    for thread in threads:
        thread.start()
    yield read
    over.set()


def http(way: str) -> tuple[dict[str, str], int, int]:
    """Settings, port, and how many look."""
    page, n = WAYS[way]
    port = free_port()
    told = {"OFFNORMAL_HTTP__HOST": "127.0.0.1", "OFFNORMAL_HTTP__PORT": str(port), "OFFNORMAL_HTTP__PAGE": page}
    return told, port, n


def idle(bootstrap: str, folder: Path, model: Artefact, way: str, seconds: float) -> float:
    """CPU seconds a second of a worker that has nothing to do."""
    settings, port, n = http(way)
    stage = Stage(bootstrap, folder, settings | {"OFFNORMAL_INPUT__FORMAT": "f32", "OFFNORMAL_DEVICE": "cpu"})
    try:
        stage.make_topics(4)
        stage.publish(model)
        worker = stage.worker()
        worker.await_log("partitions_assigned")
        with viewers(port, n):
            time.sleep(5)
            before = used(worker.popen.pid)
            time.sleep(seconds)
            return (used(worker.popen.pid) - before) / seconds
    finally:
        stage.close()


def used(process: int) -> float:
    """CPU seconds of a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--idle", type=float, default=20, help="seconds of a worker without work")
    arguments = parser.parse_args()
    rates: dict[str, list[int]] = {way: [] for way in WAYS}
    peaks: dict[str, int] = dict.fromkeys(WAYS, 0)
    bytes_read = 0
    with any_broker() as broker, tempfile.TemporaryDirectory() as folder:
        model = Artefact.load(stream.model(Path(folder)))
        topic = stream.fill(broker.bootstrap, "raw", arguments.rows, 4, "none", stream.ANOMALIES)
        for _ in range(arguments.repeats):
            for way in WAYS:
                settings, port, n = http(way)
                with viewers(port, n) as read:
                    found = once(broker.bootstrap, Path(folder), topic, model, arguments.rows, settings)
                rates[way].append(found["vectors_per_cpu_s"])
                peaks[way] = max(peaks[way], found["peak_rss_mb"])
                bytes_read += sum(read)
        without = median(rates["without"])
        for way, each in rates.items():
            rest = idle(broker.bootstrap, Path(folder), model, way, arguments.idle) if arguments.idle else float("nan")
            print(
                f"{way:<14} {median(each):>10,.0f} a CPU second  {median(each) / without:.3f}  {each}"
                f"  peak {peaks[way]} MB  idle {rest:.2%} of a core"
            )
        print(f"those who looked have read {bytes_read / max(VIEWERS * arguments.repeats, 1) / 1e3:,.0f} kB each")
    return 0


if __name__ == "__main__":
    sys.exit(main())
