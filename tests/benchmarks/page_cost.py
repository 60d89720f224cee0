"""What the live page costs: `python -m tests.benchmarks.page_cost --rows 4000000 --repeats 5`.

Vectors per CPU second of the worker as in production, in turn: without the page, with it but without viewers, and with
four viewers. The page's CPU time is smaller than the differences between such runs. So it is also measured on a worker
that reads a thousand vectors a second and has ongoing incidents, in turn with no viewer and with four.
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
from worker.page.feed import LINGER

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


def steady(
    bootstrap: str, folder: Path, model: Artefact, turns: int, seconds: float
) -> tuple[list[float], list[float]]:
    """CPU seconds a second of a worker, while nobody looks, and while four do."""
    settings, port, _ = http("nobody looks")
    stage = Stage(bootstrap, folder, settings | {"OFFNORMAL_INPUT__FORMAT": "f32", "OFFNORMAL_DEVICE": "cpu"})
    over = threading.Event()

    def send() -> None:
        for i in range(10**6):
            values = stream.encoded(stream.rows(200, i)[0], "raw")
            stage.send(values, keys=[b"machine-%d" % (k % 50) for k in range(len(values))])
            if over.wait(0.2):
                return

    sender = threading.Thread(target=send)
    alone: list[float] = []
    looked: list[float] = []
    try:
        stage.make_topics(4)
        stage.publish(model)
        worker = stage.worker()
        worker.await_log("partitions_assigned")
        sender.start()
        time.sleep(10)

        def measured() -> float:
            before, begun = used(worker.popen.pid), time.monotonic()
            time.sleep(seconds)
            return (used(worker.popen.pid) - before) / (time.monotonic() - begun)

        for _ in range(turns):
            alone.append(measured())
            with viewers(port, VIEWERS):
                time.sleep(3)  # what was there before is read once
                looked.append(measured())
            time.sleep(LINGER + 3)
        return alone, looked
    finally:
        over.set()
        if sender.is_alive():
            sender.join()
        stage.close()


def used(process: int) -> float:
    """CPU seconds of a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--turns", type=int, default=5, help="of nobody and four who look")
    parser.add_argument("--seconds", type=float, default=15, help="that each of these takes")
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
        alone, looked = steady(broker.bootstrap, Path(folder), model, arguments.turns, arguments.seconds)
    without = median(rates["without"])
    for way, each in rates.items():
        told = f"{median(each):>10,.0f} a CPU second  {median(each) / without:.3f}  {each}  peak {peaks[way]} MB"
        print(f"{way:<14} {told}")
    print(f"those who looked have read {bytes_read / max(VIEWERS * arguments.repeats, 1) / 1e3:,.0f} kB each")
    for way, shares in (("nobody looks", alone), (f"{VIEWERS} look", looked)):
        print(f"{way:<14} {median(shares):.2%} of a core at 1,000 vectors a second  {[round(s, 4) for s in shares]}")
    differ = [b - a for a, b in zip(alone, looked, strict=True)]
    print(f"so they cost   {median(differ):.2%} of a core  {[round(d, 4) for d in differ]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
