"""The worker as a peer of the comparison harness: scores N vectors of a topic, and prints one measured line.

    python tests/benchmarks/peer.py --bootstrap B --topic T --out O --format raw|json|object|raw50 --n N

Run from the harness's folder, whose model.py gives the data. A model of the same shape (32-64-16-64-32) is trained on
rows of it and published to a registry of its own; then the worker runs as in production, exactly once, one CPU thread.
Measured, as for the others: from the first records in hand to the last batch scored and its events handed over; the
CPU seconds (user and system, all threads) of this process over that span, commits in it included.
"""

import argparse
import json
import os
import sys
import uuid
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, os.getcwd())

RATE = 1e-3  # false-alarm budget
CACHE = Path(os.environ.get("PEERS_CACHE", Path.home() / ".cache/peers")) / "offnormal-model"


def normal_rows() -> np.ndarray:
    """The harness's, without its anomalies."""
    import model as harness  # type: ignore[import-not-found]

    x, bad = (np.concatenate(part) for part in zip(*(harness.block(20_000_000 + b) for b in range(12)), strict=True))
    return x[~bad].astype(np.float32)


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

    from tests.benchmarks.measured import measure
    from tests.benchmarks.stream import kept
    from worker.kafka.topics import create
    from worker.models import Artefact
    from worker.observability import log
    from worker.registry import Registry
    from worker.settings import load

    settings = load()
    log.configure(settings.log)
    create(settings, 4, 1)
    Registry(settings).publish(Artefact.load(kept(CACHE, normal_rows())), "bench", "bench")
    found = measure(settings, a.n)
    del found["stages"]
    line = {"peer": peer, "format": a.format, "group": settings.kafka.group, **found, "delivery": a.delivery}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
