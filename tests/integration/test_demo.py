"""The demo, as a newcomer runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def command() -> list[str]:
    return [sys.executable, "-m", "worker", "demo", "--json"]


def processes_of(marker: str) -> list[str]:
    """Command lines of living processes whose environment or arguments hold the marker."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                if marker.encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
    return found


def test_demo_closes_the_loop_on_real_data() -> None:
    begun = time.monotonic()
    run = subprocess.run(command(), capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    told = json.loads(run.stdout.splitlines()[-1])
    assert told["vectors"] == told["scored"] > 40_000
    assert (told["lost"], told["repeated"]) == (0, 0)
    assert told["swaps"] == 1
    assert sum(told["versions"].values()) == told["scored"]
    assert len(told["versions"]) == 2
    assert min(told["versions"].values()) > 1000, "the swap is in mid-stream"
    assert told["roc_auc"] > 0.99, told
    assert told["precision"] > 0.9
    assert told["recall"] > 0.9, told
    assert told["false_alarm_rate"]["observed"] < 3 * told["false_alarm_rate"]["asked"] == 0.003
    assert told["seconds"] < time.monotonic() - begun
    assert "Summary" in run.stderr


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("after", [1.0, 6.0, 25.0])
def test_ctrl_c_leaves_no_process_behind(after: float, tmp_path: Path) -> None:
    log = tmp_path / "demo.log"
    marker = f"DEMO_TEST_MARKER={time.time_ns()}"
    name, value = marker.split("=")
    environment = os.environ | {name: value, "PYTHONFAULTHANDLER": "1"}
    with log.open("wb") as err:
        demo = subprocess.Popen(command(), env=environment, stdout=subprocess.DEVNULL, stderr=err)
    time.sleep(after)
    demo.send_signal(signal.SIGINT)
    try:
        ended = demo.wait(20)
    except subprocess.TimeoutExpired:
        demo.send_signal(signal.SIGABRT)  # tells what it was about
        demo.wait(20)
        pytest.fail(f"does not end: {log.read_text().partition('Extension modules')[0][-8000:]}")
    assert ended in (130, -signal.SIGINT)  # the latter while Python itself still starts
    assert processes_of(marker) == []
