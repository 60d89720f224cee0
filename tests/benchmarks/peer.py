"""The worker as a peer of the comparison harness: scores N vectors of a topic, and prints one measured line.

    python tests/benchmarks/peer.py --bootstrap B --topic T --out O --format raw|json|object|raw50 --n N

Run from the harness's folder, whose model.py gives the data. A model of the same shape (32-64-16-64-32) is trained on
rows of it and published to a registry of its own; then the worker runs as in production, exactly once, one CPU thread.
Measured, as for the others: from the first records in hand to the last batch scored and its events handed over; the
CPU seconds (user and system, all threads) of this process over that span, commits in it included.
"""

import argparse
import hashlib
import json
import os
import resource
import sys
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, os.getcwd())

RATE = 1e-3  # false-alarm budget
CACHE = Path(os.environ.get("PEERS_CACHE", Path.home() / ".cache/peers")) / "offnormal-model.safetensors"


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def make_model(names: tuple[str, ...], version: str) -> bytes:
    """Trained on the harness's normal rows; cached, since it is the same for all runs of a format."""
    from training.fit import fit
    from worker.models import Artefact, ModelCard
    from worker.models.artefact import FORMAT_VERSION

    cache = CACHE.with_name(f"{CACHE.name}.{hashlib.sha256(repr((names, FORMAT_VERSION)).encode()).hexdigest()[:8]}")
    if cache.exists():
        return cache.read_bytes()
    import model as harness  # type: ignore[import-not-found]

    x, bad = (np.concatenate(part) for part in zip(*(harness.block(20_000_000 + b) for b in range(12)), strict=True))
    rows = x[~bad].astype(np.float32)
    fitted = fit(rows[:80_000], rows[80_000:], names, "stacked", steps=3000)
    card = ModelCard(
        name="default",
        version=version,
        kind="stacked",
        architecture=fitted.detector.module.autoencoder.architecture(),
        features=names,
        created=datetime.now(UTC).isoformat(),
        rows={},
        trained_on={},
        quality={},
    )
    data = Artefact.make(card, fitted.detector, rows[80_000:]).dump()
    cache.write_bytes(data)
    return data


def main() -> None:
    ap = argparse.ArgumentParser()
    ap.add_argument("--bootstrap", required=True)
    ap.add_argument("--topic", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--format", choices=("raw", "json", "object", "raw50"), required=True)
    ap.add_argument("--n", type=int, required=True)
    ap.add_argument("--delivery", default="exactly_once")
    ap.add_argument("--scores", action="store_true")
    ap.add_argument("--variant", default="")
    a = ap.parse_args()
    peer = "offnormal" + (f"-{a.variant}" if a.variant else "")
    unique = uuid.uuid4().hex[:8]
    environment = {
        "KAFKA__BOOTSTRAP": a.bootstrap,
        "KAFKA__GROUP": f"{peer}-{unique}",
        "KAFKA__SESSION_TIMEOUT": "6",
        "TOPICS__SENSORS": a.topic,
        "TOPICS__ANOMALIES": a.out,
        "TOPICS__SCORES": f"{a.out}-scores",
        "TOPICS__DEAD_LETTERS": f"dead-{unique}",
        "TOPICS__INCIDENTS": f"incidents-{unique}",
        "TOPICS__MODELS": f"models-{unique}",
        "INPUT__FORMAT": "f32" if a.format.startswith("raw") else "json",
        "DETECTION__FALSE_ALARM_RATE": str(RATE),
        "DELIVERY": a.delivery,
        "OUTPUTS": '["scores"]' if a.scores else "[]",
        "HTTP__PORT": "0",
        "LOG__LEVEL": "warning",
        "DEVICE": "cpu",
    }
    os.environ.update({f"OFFNORMAL_{name}": value for name, value in environment.items()})

    from worker import log
    from worker.kafka.topics import create
    from worker.models.artefact import read_card
    from worker.registry import Registry, _records
    from worker.service import Worker
    from worker.settings import load

    settings = load()
    log.configure(settings.log)
    create(settings, 4, 1)
    data = make_model(tuple(f"f{i:02d}" for i in range(32)), "20260101T000000-bench0")
    version = read_card(data).version
    registry = Registry(settings)
    registry._write(_records("default", version, data))
    registry.promote(version, "bench", "bench")

    worker = Worker(settings)
    mark = Marks(worker, a.n)
    before = cpu()
    worker.run()
    if mark.rows < a.n:
        sys.exit(f"{peer}: only {mark.rows} of {a.n}")
    seconds, used = mark.end[0] - mark.start[0], mark.end[1] - mark.start[1]
    line: dict[str, Any] = {
        "peer": peer,
        "format": a.format,
        "group": settings.kafka.group,
        "n": mark.rows,
        "alerts": mark.alerts,
        "seconds": round(seconds, 3),
        "vectors_per_s": round(mark.rows / seconds),
        "cpu_seconds": round(used, 3),
        "vectors_per_cpu_s": round(mark.rows / used),
        "cpu_seconds_before": round(mark.start[1] - before, 3),
        "cpu_seconds_with_startup": round(cpu(), 3),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "mean_batch": round(mark.rows / mark.batches, 1),
        "delivery": a.delivery,
    }
    print(json.dumps(line), flush=True)


class Marks:
    """Wraps the worker's batch step: takes the time of the first and the last batch, and stops the worker after it."""

    def __init__(self, worker: Any, n: int):
        self.rows = self.alerts = self.batches = 0
        self.start = self.end = (0.0, 0.0)
        (lane,) = worker._lanes.values()
        process, score = worker._process, lane.score

        def timed(*arguments: Any) -> None:
            if not self.batches:
                self.start = (time.perf_counter(), cpu())
            self.batches += 1
            process(*arguments)
            if self.rows >= n:
                self.end = (time.perf_counter(), cpu())
                worker.stop()

        def counted(records: Any) -> Any:
            scored = score(records)
            self.rows += len(scored.block)
            self.alerts += len(scored.severities)
            return scored

        worker._process, lane.score = timed, counted


if __name__ == "__main__":
    main()
