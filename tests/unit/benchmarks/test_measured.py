"""What tells where the time goes: `--profile`, and the benchmark for a GPU, as far as it runs without one."""

import torch

from tests.benchmarks import gpu
from worker.observability.metrics import Metrics


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
