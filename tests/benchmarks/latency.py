"""Latency at a steady rate, and with a swap every second; what was lost or repeated on the way.

Latency: from the producer's send of a vector that becomes an event until a read_committed reader has the event. The
send time travels in the vector's own timestamp. Of a swap: from the moment at which a promotion begins until the worker
has swapped (`model_swapped` in its log).
"""

import itertools
import threading
import time
from datetime import datetime
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any, Final

import numpy as np
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from tests.brokers import Broker
from tests.models import make_artefact, normal_rows
from tests.stage import Process, Stage, encode, until
from worker.registry import Registry
from worker.settings import Settings

SLICE: Final = 0.005  # seconds between sends
EVENT_EVERY: Final = 50  # every so many vectors one that is certain to be an event


def run(broker: Broker, folder: Path, seconds: float) -> list[dict[str, Any]]:
    found = []
    for delivery in ("exactly_once", "at_least_once"):
        for rate, swaps in ((5000, False), (5000, True), (1000, False)):
            s = Stage(
                broker.bootstrap,
                folder,
                {
                    "OFFNORMAL_INPUT__FORMAT": "f32",
                    "OFFNORMAL_DELIVERY": delivery,
                    "OFFNORMAL_OUTPUTS": "[]",
                    "OFFNORMAL_DETECTION__FALSE_ALARM_RATE": "1e-4",
                },
            )
            try:
                found.append({"delivery": delivery, **_measure(s, rate, seconds, swaps)})
            finally:
                s.close()
    return found


def _measure(s: Stage, rate: int, seconds: float, swaps: bool) -> dict[str, Any]:
    s.make_topics(4)
    models = [make_artefact(seed=i) for i in range(2)]
    registry = Registry(s.settings)
    for one in models:
        registry.publish(one, "bench", "bench")
    worker = s.worker()
    worker.await_log("partitions_assigned")
    ended = threading.Event()
    arrivals: dict[str, list[float]] = {}
    listener = threading.Thread(target=_listen, args=(s, arrivals, ended), daemon=True)
    listener.start()
    # In a process of its own: to promote takes time of a processor, and it is not the sender's to lose.
    context = get_context("spawn")
    promotions: SimpleQueue[tuple[str, float]] = context.SimpleQueue()
    versions = [one.card.version for one in models]
    swapper = context.Process(target=_swap, args=(s.settings, versions, promotions))
    if swaps:
        swapper.start()
    sent = _send(s, rate, seconds)
    until(lambda: sum(s.committed().values()) >= sent["rows"], 60)
    time.sleep(1)
    ended.set()
    listener.join()
    if swaps:
        swapper.terminate()
    worker.stop()
    swap_seconds = _swap_seconds(promotions, worker)
    expected = sent["events"]
    latencies = sorted(arrivals[i][0] - at for i, at in expected.items() if i in arrivals)
    return {
        "vectors_per_s": rate,
        "vectors": sent["rows"],
        "events_expected": len(expected),
        "lost": sum(i not in arrivals for i in expected),
        "repeated": sum(len(times) - 1 for times in arrivals.values()),
        "swaps": len(worker.log("model_swapped")) - 1,
        "swap_s": {"median": round(float(np.median(swap_seconds)), 2), "most": round(max(swap_seconds), 2)}
        if swap_seconds
        else {},
        "latency_ms": {
            q: round(1000 * float(np.quantile(latencies, p)), 1)
            for q, p in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
        },
    }


def _send(s: Stage, rate: int, seconds: float) -> dict[str, Any]:
    producer = KafkaProducer(bootstrap_servers=s.bootstrap, linger_ms=0)
    producer.partitions_for(s.topics.sensors)  # the first record need not wait for it
    per_slice = int(rate * SLICE)
    x = normal_rows(per_slice * 200, np.random.default_rng(0))
    normal = encode(np.clip(x, -1e6, 1e6), "f32")
    far = encode(np.full((1, 4), 1e6, np.float32), "f32")[0]
    futures: list[tuple[float, Any]] = []
    rows, begun = 0, time.monotonic()
    for i in range(int(seconds / SLICE)):
        ahead = begun + i * SLICE - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
        for _ in range(per_slice):
            event = rows % EVENT_EVERY == 0
            now = time.time()
            future = producer.send(s.topics.sensors, far if event else normal[rows % len(normal)], partition=rows % 4)
            if event:
                futures.append((now, future))
            rows += 1
    producer.flush()
    events = {}
    for at, future in futures:
        placed = future.get(10)
        events[f"{placed.topic}/{placed.partition}/{placed.offset}/0"] = at
    producer.close()
    return {"rows": rows, "events": events}


def _listen(s: Stage, arrivals: dict[str, list[float]], ended: threading.Event) -> None:
    import orjson

    consumer = KafkaConsumer(
        bootstrap_servers=s.bootstrap,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    consumer.assign([TopicPartition(s.topics.anomalies, p) for p in range(4)])
    while not ended.is_set():
        for records in consumer.poll(timeout_ms=100).values():
            now = time.time()
            for record in records:
                arrivals.setdefault(orjson.loads(record.value)["id"], []).append(now)
    consumer.close()


def _swap(settings: Settings, versions: list[str], promotions: "SimpleQueue[tuple[str, float]]") -> None:
    registry, begun = Registry(settings), time.monotonic()
    for i in itertools.count(1):
        time.sleep(max(begun + i - time.monotonic(), 0))
        promotions.put((versions[i % 2], time.time()))
        registry.promote(versions[i % 2], "bench", "swap")


def _swap_seconds(promotions: "SimpleQueue[tuple[str, float]]", worker: Process) -> list[float]:
    """Seconds from each promotion to the worker's swap to that version; the last one may have come too late."""
    swaps = [
        (line["model_version"], datetime.fromisoformat(line["timestamp"]).timestamp())
        for line in worker.log("model_swapped")
    ]
    seconds = []
    while not promotions.empty():
        version, begun = promotions.get()
        later = [at - begun for swapped, at in swaps if swapped == version and at >= begun]
        seconds += later[:1]
    return seconds
