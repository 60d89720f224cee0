"""`make bench`: what the loop costs and what a swap costs, on the Kafka that the tests would use.

    python -m tests.benchmarks [swap] [memory] [--seconds 60]

The comparison with other workers needs their environments: see CONTRIBUTING.md, Benchmarks.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tests.benchmarks import memory, swap
from tests.brokers import any_broker


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("which", nargs="*", default=["swap", "memory"], help="swap, memory (default: both)")
    parser.add_argument("--seconds", type=float, default=60, help="of stream for each part of `swap`")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of `memory`")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"))
    arguments = parser.parse_args()
    results: dict[str, Any] = {"machine": machine()}
    with any_broker() as broker, tempfile.TemporaryDirectory() as folder:
        results["kafka"] = broker.name
        if "swap" in arguments.which:
            results["swap"] = swap.run(broker, Path(folder), arguments.seconds)
        if "memory" in arguments.which:
            results["memory"] = memory.run(broker, Path(folder), arguments.rows)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=2))
    Console().print_json(json.dumps(results))


def machine() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit.stdout.strip() or None,
    }


if __name__ == "__main__":
    sys.exit(main())
