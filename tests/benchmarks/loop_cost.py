"""What the closed loop costs the hot path: `python -m tests.benchmarks.loop_cost --rows 2000000 --repeats 3`.

Vectors a CPU second of the worker as in production, in turn: without it; with drift detection; with a champion in
probation too; and with a challenger that scores a tenth.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks import stream
from tests.benchmarks.throughput import RATE, _run
from tests.brokers import any_broker
from tests.stage import Stage
from worker.models import Artefact
from worker.registry import Registry

NOTHING = {"OFFNORMAL_DRIFT__ENABLED": "false", "OFFNORMAL_MODEL__PROBATION": "0"}
WAYS: dict[str, dict[str, str]] = {
    "without": NOTHING,
    "drift": {"OFFNORMAL_MODEL__PROBATION": "0"},
    "drift, probation": {},
    "drift, a tenth in the shadow": {"OFFNORMAL_MODEL__PROBATION": "0", "OFFNORMAL_MODEL__SHADOW_SHARE": "0.1"},
}


def once(bootstrap: str, folder: Path, topic: str, model: Artefact, n: int, settings: dict[str, str]) -> dict[str, Any]:
    more = {
        "OFFNORMAL_TOPICS__SENSORS": topic,
        "OFFNORMAL_INPUT__FORMAT": "f32",
        "OFFNORMAL_DETECTION__FALSE_ALARM_RATE": str(RATE),
        "OFFNORMAL_OUTPUTS": "[]",
        "OFFNORMAL_LOG__LEVEL": "warning",
        "OFFNORMAL_DEVICE": "cpu",
    }
    stage = Stage(bootstrap, folder, more | settings)
    try:
        stage.make_topics(4)
        stage.publish(model)
        other = replace(model, card=model.card.model_copy(update={"version": model.card.version + "b"}))
        registry = Registry(stage.settings)
        if "OFFNORMAL_MODEL__SHADOW_SHARE" in settings:
            registry.add(other)
            registry.promote(other.card.version, "bench", "bench", "challenger")
        else:
            registry.publish(other, "bench", "bench")
        clean = {k: v for k, v in os.environ.items() if not k.startswith("OFFNORMAL_")}
        return _run("tests.benchmarks.measured", [str(n)], clean | stage.environment)
    finally:
        stage.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rates: dict[str, list[int]] = {name: [] for name in WAYS}
    with any_broker() as broker, tempfile.TemporaryDirectory() as folder:
        model = Artefact.load(stream.model(Path(folder)))
        topic = stream.fill(broker.bootstrap, "raw", arguments.rows, 4, "none", stream.ANOMALIES)
        for _ in range(arguments.repeats):
            for name, settings in WAYS.items():
                found = once(broker.bootstrap, Path(folder), topic, model, arguments.rows, settings)
                rates[name].append(found["vectors_per_cpu_s"])
        without = median(rates["without"])
        for name, each in rates.items():
            print(f"{name:<30} {median(each):>12,.0f} a CPU second  {median(each) / without:.3f}  {each}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
