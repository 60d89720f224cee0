"""The demo with single readings, as a newcomer runs it. It takes too long for `make test`."""

import json
import subprocess
import sys


def test_the_demo_aligns_single_readings() -> None:
    command = [sys.executable, "-m", "worker", "demo", "--tags", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    told = json.loads(run.stdout.splitlines()[-1])
    assert told["vectors"] == told["scored"] == 12_000
    assert (told["lost"], told["repeated"], told["swaps"]) == (0, 0, 1)
    assert told["roc_auc"] > 0.99, told
    assert told["recall"] > 0.9, told
