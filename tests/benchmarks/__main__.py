"""`make bench`: what the worker costs and how long it takes, on the Kafka that the tests would use.

    python -m tests.benchmarks [PART...] [--rows 4000000] [--repeats 3] [--seconds 30] [--files NPZ...]

Parts: throughput (each format, against a reference by hand in the same run), compressed, flat (partitions, backlog),
storm, latency (with swaps, and of a trickle), startup, memory, training. All but training's fits need no data.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.benchmarks import latency, memory, startup, throughput, training
from tests.brokers import Broker, any_broker

_PACKAGES: Final = ("torch", "numba", "numpy", "kafka-python", "confluent-kafka")
_CASES: Final = {
    "throughput": throughput.FORMATS,
    "others": throughput.OTHERS,
    "compressed": throughput.COMPRESSED,
    "flat": throughput.FLAT,
    "storm": throughput.STORM,
}
_COLUMNS: Final = ("case", "way", "vectors", "vectors_per_cpu_s", "least", "greatest", "ratio", "target")

console = Console(stderr=True, width=None if sys.stderr.isatty() else 120)


def main() -> None:
    arguments = _arguments()
    results: dict[str, Any] = {"machine": machine()}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with any_broker() as broker:
        results["kafka"] = broker.name
        for part in arguments.parts:
            console.print(f"[bold]{part}[/bold]")
            results[part] = _part(part, broker, arguments)
            _show(part, results[part])
            (arguments.folder / "bench.json").write_text(json.dumps(results, indent=2))
    results["machine"]["load_at_end"] = round(os.getloadavg()[0], 2)
    (arguments.folder / "bench.json").write_text(json.dumps(results, indent=2))
    console.print(f"{arguments.folder / 'bench.json'}: {results['machine']}")


def _arguments() -> argparse.Namespace:
    parts = [*_CASES, "latency", "startup", "memory", "training"]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=str(__doc__).splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(parts)} (default: all)")
    parser.add_argument("--rows", type=int, default=4_000_000, help="raw vectors of a run; JSON half (default 4 M)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, in turn (default 3)")
    parser.add_argument("--seconds", type=float, default=30, help="of stream for each latency (default 30)")
    parser.add_argument("--backlog-mib", type=int, default=2048, help="of the part memory (default 2048)")
    parser.add_argument("--files", type=Path, nargs="*", default=[], help="labelled npz files for training's fits")
    parser.add_argument("--folder", type=Path, default=Path("build"), help="where bench.json goes (default build)")
    arguments = parser.parse_args()
    arguments.parts = arguments.parts or parts
    if unknown := set(arguments.parts) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    return arguments


def _part(part: str, broker: Broker, a: argparse.Namespace) -> Any:
    if part in _CASES:
        return throughput.run(broker, a.folder, _CASES[part], a.rows, a.repeats, console.print)
    runs: Mapping[str, Callable[[], Any]] = {
        "latency": lambda: latency.run(broker, a.folder, a.seconds),
        "startup": lambda: startup.run(broker, a.folder, a.repeats),
        "memory": lambda: memory.run(broker, a.folder, a.backlog_mib << 20),
        "training": lambda: {"read": training.read(broker, a.folder, a.rows), "fits": training.fits(a.files)},
    }
    return runs[part]()


def _show(part: str, result: Any) -> None:
    if part not in _CASES:
        console.print_json(json.dumps(result))
        return
    table = Table(title=part)
    for column in _COLUMNS:
        table.add_column(column.replace("_", " "), justify="left" if column in ("case", "way") else "right")
    for row in result:
        shown = (row[column] for column in _COLUMNS)
        table.add_row(*("" if v is None else f"{v:,}" if isinstance(v, int) else str(v) for v in shown))
    console.print(table)


def machine() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    processor = next((line for line in _cpuinfo() if line.startswith("model name")), "").partition(":")[2].strip()
    return {
        "processor": processor or platform.processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "commit": commit.stdout.strip() or None,
    }


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(main())
