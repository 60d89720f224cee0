"""Vectors a CPU second: the worker and the reference by hand, in turn over the same topics, on one machine.

What is written is counted, too: each vector that was made far off, and few others, must have become an event.
"""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from tests.benchmarks import stream
from tests.brokers import Broker
from tests.registry import SmallRegistry
from tests.stage import Stage
from worker.models import Artefact

INPUTS: Final = {
    "raw": "f32",
    "raw50": "f32",
    "json": "json",
    "object": "json",
    "avro": "avro",
    "arrow50": "arrow",
    "reading": "json",
    "readings": "json",
}
_GRID: Final = {"ALIGN": "true", "STEP": "1s", "LATENESS": "0s", "HOLD": "10s"}
_IN_ARRAY: Final = {"TAG_FIELD": "m[].tag", "VALUE_FIELD": "m[].value", "TIME_FIELD": "m[].time"}
INPUT: Final = {  # settings of the section
    "reading": {**_GRID, "TAG_FIELD": "tag", "VALUE_FIELD": "value", "TIME_FIELD": "time"},
    "readings": {**_GRID, **_IN_ARRAY},
}
RATE: Final = 1e-3  # false-alarm budget


@dataclass(frozen=True)
class Case:
    name: str
    form: str
    share: float  # of the rows asked for
    target: str = ""  # times the reference
    partitions: int = 4
    compression: str = "none"
    anomalies: float = stream.ANOMALIES
    scores: bool = False
    deliveries: tuple[str, ...] = ("exactly_once",)
    reference: bool = True


BOTH: Final = ("exactly_once", "at_least_once")
FORMATS: Final = [
    Case("raw", "raw", 1, "1.9, at least once 2.1", deliveries=BOTH),
    Case("JSON array", "json", 0.5, "2.9, at least once 3.2", deliveries=BOTH),
    Case("JSON object", "object", 0.5, "3.8"),
    Case("50 vectors a record", "raw50", 1, "2.5"),
    Case("raw, with scores", "raw", 0.5, "2.5", scores=True),
]
OTHERS: Final = [
    Case("Avro, 32 fields", "avro", 0.5),
    Case("Arrow, 50 vectors a record", "arrow50", 1),
    Case("32 readings, each a record", "reading", 1 / 16, reference=False),
    Case("32 readings in an array", "readings", 1 / 8, reference=False),
]
COMPRESSED: Final = [
    Case(f"raw, {codec}", "raw", 0.5, "1.5", compression=codec) for codec in ("lz4", "zstd", "snappy", "gzip")
]
FLAT: Final = [
    *(Case(f"raw, {n} partitions", "raw", 0.5, partitions=n, reference=False) for n in (1, 4, 16, 64)),
    *(Case(f"raw, backlog x {share:g}", "raw", share, reference=False) for share in (0.025, 0.25, 5)),
]
STORM: Final = [
    Case("normal", "raw", 0.25, anomalies=0, reference=False),
    Case("alarm storm", "raw", 0.05, anomalies=1, reference=False),
]


def run(
    broker: Broker, folder: Path, cases: list[Case], rows: int, repeats: int, tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Each case: its median, least and greatest vectors a CPU second, and the ratio to the reference."""
    model = folder / "model.safetensors"
    model.write_bytes(stream.model(folder))
    found = []
    for case in cases:
        n = int(rows * case.share) // 50 * 50
        topic = stream.fill(broker.bootstrap, case.form, n, case.partitions, case.compression, case.anomalies)
        runs: dict[str, list[dict[str, Any]]] = {}
        for _ in range(repeats):  # in turn: what else the machine does meets all of them
            for name, once in _ways(broker, folder, model, case, topic, n):
                runs.setdefault(name, []).append(once)
        reference = median(_rates(runs.get("reference", []))) if "reference" in runs else None
        for name, each in runs.items():
            rates = _rates(each)
            result = {
                "case": case.name,
                "way": name,
                "vectors": n,
                "runs": repeats,
                "vectors_per_cpu_s": round(median(rates)),
                "least": min(rates),
                "greatest": max(rates),
                "ratio": round(median(rates) / reference, 2) if reference else None,
                "target": case.target if name != "reference" else "",
                "vectors_per_s": round(median(r["vectors_per_s"] for r in each)),
                "peak_rss_mb": max(r["peak_rss_mb"] for r in each),
                "mean_batch": each[-1]["mean_batch"],
                "alerts": each[-1]["alerts"],
                "stages": each[-1].get("stages"),
            }
            tell(f"{case.name:<22} {name:<14} {result['vectors_per_cpu_s']:>10,} a CPU second  {result['ratio'] or ''}")
            found.append(result)
    return found


def _rates(runs: list[dict[str, Any]]) -> list[int]:
    return [r["vectors_per_cpu_s"] for r in runs]


def _ways(
    broker: Broker, folder: Path, model: Path, case: Case, topic: str, n: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    if case.reference:
        out = f"bench-out-{uuid.uuid4().hex[:8]}"
        for name in (out, f"{out}-scores"):
            stream.make_topic(broker.bootstrap, name, 4)
        arguments = ["--bootstrap", broker.bootstrap, "--topic", topic, "--out", out, "--model", str(model)]
        arguments += ["--format", case.form, "--rows", str(n), *(["--scores"] if case.scores else [])]
        yield "reference", _checked(case, n, _run("tests.benchmarks.byhand", arguments, dict(os.environ)))
    for delivery in case.deliveries:
        yield delivery, _checked(case, n, _worker(broker, folder, model, case, topic, n, delivery))


def _worker(broker: Broker, folder: Path, model: Path, case: Case, topic: str, n: int, delivery: str) -> dict[str, Any]:
    registry = SmallRegistry()
    registry.add(stream.SCHEMA)
    stage = Stage(
        broker.bootstrap,
        folder,
        {
            "OFFNORMAL_TOPICS__SENSORS": topic,
            "OFFNORMAL_INPUT__FORMAT": INPUTS[case.form],
            **{f"OFFNORMAL_INPUT__{name}": value for name, value in INPUT.get(case.form, {}).items()},
            **({"OFFNORMAL_SCHEMA_REGISTRY__URL": registry.url} if case.form == "avro" else {}),
            "OFFNORMAL_DETECTION__FALSE_ALARM_RATE": str(RATE),
            "OFFNORMAL_DELIVERY": delivery,
            "OFFNORMAL_OUTPUTS": '["scores"]' if case.scores else "[]",
            "OFFNORMAL_LOG__LEVEL": "warning",
            "OFFNORMAL_DEVICE": "cpu",
        },
    )
    try:
        stage.make_topics(4)
        stage.publish(Artefact.load(model.read_bytes()))
        clean = {k: v for k, v in os.environ.items() if not k.startswith("OFFNORMAL_")}
        # The last vector of each partition is not made: nothing comes after it.
        made = n - case.partitions if case.form in INPUT else n
        return _run("tests.benchmarks.measured", [str(made)], clean | stage.environment)
    finally:
        stage.close()
        registry.close()


def _run(module: str, arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], env=environment, capture_output=True, text=True, timeout=900
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"{module} failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _checked(case: Case, n: int, result: dict[str, Any]) -> dict[str, Any]:
    made, alerts = case.anomalies * n, result["alerts"]
    if not 0.95 * made - 100 <= alerts <= 1.05 * made + 5 * RATE * n + 100:
        raise RuntimeError(f"{case.name}: {alerts} alerts of {n} vectors, {made:.0f} of them far off")
    return result
