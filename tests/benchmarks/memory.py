"""Memory over a million vectors: the worker's resident set while it works through a backlog."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.brokers import Broker
from tests.models import make_artefact, normal_rows
from tests.stage import Stage, encode


def run(broker: Broker, folder: Path, rows: int) -> dict[str, Any]:
    s = Stage(broker.bootstrap, folder, {"OFFNORMAL_INPUT__FORMAT": "f32", "OFFNORMAL_OUTPUTS": "[]"})
    try:
        s.make_topics(4)
        s.publish(make_artefact(seed=0))
        values = encode(normal_rows(10_000, np.random.default_rng(0)), "f32")
        for _ in range(rows // len(values)):
            s.send(values)
        worker = s.worker("--until-end")
        worker.await_log("starts")
        seen: list[float] = []
        while worker.popen.poll() is None:
            resident = _resident_mib(worker.popen.pid)
            if resident:
                seen.append(resident)
            time.sleep(0.1)
        tenth = max(len(seen) // 10, 1)
        return {
            "vectors": rows,
            "samples": len(seen),
            "mib_first_tenth": round(float(np.median(seen[:tenth])), 1),
            "mib_middle": round(float(np.median(seen)), 1),
            "mib_last_tenth": round(float(np.median(seen[-tenth:])), 1),
            "mib_peak": round(max(seen), 1),
        }
    finally:
        s.close()


def _resident_mib(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(found[0].split()[1]) / 1024 if found else 0.0
