"""`make bench-gpu`: rows a second on a CUDA device, and what bounds them. Says so where there is none.

    python -m tests.benchmarks.gpu [--rows 1048576] [--seconds 3] [--device cuda]

The model is that of the other benchmarks: stacked, 32-64-16-64-32. `resident`: rows that lie on the device already, by
eager kernels and by a captured graph. `worker's way`: from host memory and back, beside the copy alone, which is the
limit. `swap`: to load another version beside it. `--device cpu` runs what can run there, to try the program itself.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tests.models import make_artefact
from worker.serving.cuda_scorer import captured
from worker.serving.model_swap import ResidentModels
from worker.settings import BatchSettings, Settings

WIDTH = 32


def rate(once: Callable[[], Any], rows: int, seconds: float, device: torch.device) -> float:
    """Rows a second of `once`, which takes so many; after a warm-up."""
    for _ in range(3):
        once()
    _wait(device)
    rounds, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        for _ in range(10):
            once()
        _wait(device)
        rounds += 10
    return rounds * rows / (time.perf_counter() - begun)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def run(device: torch.device, rows: int, seconds: float) -> dict[str, Any]:
    settings = Settings(device=str(device), batch=BatchSettings(max_rows=min(rows, 1_000_000)))
    features = tuple(f"f{k:02d}" for k in range(WIDTH))
    first, second = (make_artefact(seed=k, features=features) for k in range(2))
    models = ResidentModels(settings)
    resident = models.load(first.dump())
    module = resident._module
    location, scale = (part.cpu().numpy() for part in (module.scaler.location, module.scaler.scale))
    rng = np.random.default_rng(0)
    host = (location + scale * rng.normal(size=(rows, WIDTH))).astype(np.float32)
    found: dict[str, Any] = {"device": str(device), "rows": rows, "rows_per_s": {}}
    speed = found["rows_per_s"]
    with torch.inference_mode():
        x = torch.from_numpy(host).to(device)
        speed["resident, module"] = rate(lambda: module(x), rows, seconds, device)
        batch = host[: settings.batch.max_rows]
        speed["worker's way"] = rate(lambda: resident.score(batch), len(batch), seconds, device)
        if device.type == "cuda":
            found["name"] = torch.cuda.get_device_name(device)
            scores = torch.empty(rows, device=device)
            replay = captured(lambda: scores.copy_(module(x)), torch.cuda.Stream(device))  # type: ignore[arg-type]
            speed["resident, graph"] = rate(replay, rows, seconds, device)
            pinned = torch.from_numpy(host).pin_memory()
            speed["copy alone"] = rate(lambda: x.copy_(pinned, non_blocking=True), rows, seconds, device)
            found["workers_way_of_copy_limit"] = round(speed["worker's way"] / speed["copy alone"], 3)
            found["peak_bytes"] = torch.cuda.max_memory_allocated(device)
    begun = time.perf_counter()
    loaded = models.load(second.dump())
    found["load_seconds"] = round(time.perf_counter() - begun, 4)
    begun = time.perf_counter()
    models.swap(loaded)
    found["swap_microseconds"] = round(1e6 * (time.perf_counter() - begun), 1)
    found["rows_per_s"] = {name: round(value) for name, value in speed.items()}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2**20, help="scored at once")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure")
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device: nothing was measured")
        return 0
    print(json.dumps(run(torch.device(arguments.device), arguments.rows, arguments.seconds), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
