"""What tells where the time goes: `--profile`, and the benchmark for a GPU, as far as it runs without one."""

import numpy as np
import torch

from tests.benchmarks import gpu
from tests.models import make_artefact, normal_rows
from worker.engine import Engine
from worker.metrics import Metrics
from worker.settings import Settings


def test_the_profile_tells_time_a_row() -> None:
    metrics = Metrics()
    metrics.batch_rows.observe(1000)
    metrics.stage.labels("decode").observe(0.001)
    metrics.stage.labels("score").observe(0.002)
    told = metrics.profile().splitlines()
    assert told[0] == "1,000 rows"
    assert [line.split()[:2] for line in told[2:]] == [["score", "2000"], ["decode", "1000"]]


def test_without_any_row_there_is_nothing_to_divide_by() -> None:
    assert Metrics().profile().startswith("0 rows")


def test_the_gpu_benchmark_runs_where_there_is_no_gpu() -> None:
    found = gpu.run(torch.device("cpu"), 256, 0.01)
    assert found["rows"] == 256 and min(found["rows_per_s"].values()) > 0


def test_what_a_graph_captures_gives_the_modules_scores() -> None:
    module = Engine(Settings(device="cpu")).load(make_artefact(seed=0).dump())._module
    x = torch.from_numpy(normal_rows(500, np.random.default_rng(0)))
    with torch.inference_mode():
        torch.testing.assert_close(gpu.plain(module, x), module(x), rtol=1e-4, atol=1e-5)
