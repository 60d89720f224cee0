"""The worker's resident set while it works through a backlog of gigabytes, and what the kernel saw at most."""

import os
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.benchmarks import stream
from tests.brokers import Broker
from tests.stage import Stage
from worker.models import Artefact

VECTOR: Final = 128  # bytes


def run(broker: Broker, folder: Path, backlog_bytes: int) -> dict[str, Any]:
    n = backlog_bytes // VECTOR // 50 * 50
    topic = stream.fill(broker.bootstrap, "raw", n)
    settings = {
        "OFFNORMAL_INPUT__FORMAT": "f32",
        "OFFNORMAL_OUTPUTS": "[]",
        "OFFNORMAL_TOPICS__SENSORS": topic,
        "OFFNORMAL_DETECTION__FALSE_ALARM_RATE": "1e-3",
    }
    s = Stage(broker.bootstrap, folder, settings)
    try:
        s.make_topics(4)
        s.publish(Artefact.load(stream.model(folder)))
        worker = s.worker("--until-end")
        worker.await_log("start_offsets_chosen")
        seen: list[float] = []
        while worker.popen.poll() is None:
            resident = _resident_mib(worker.popen.pid)
            if resident:
                seen.append(resident)
            time.sleep(0.1)
        if worker.popen.returncode or sum(s.committed().values()) != n:
            raise RuntimeError(f"the worker did not reach the end: {worker.errors[-2000:]}")
        tenth = max(len(seen) // 10, 1)
        return {
            "vectors": n,
            "backlog_mib": n * VECTOR >> 20,
            "fetch_mib": s.settings.kafka.fetch_bytes >> 20,
            "mib_at_start": round(seen[0], 1),
            "mib_first_tenth": round(float(np.median(seen[:tenth])), 1),
            "mib_middle": round(float(np.median(seen)), 1),
            "mib_last_tenth": round(float(np.median(seen[-tenth:])), 1),
            "mib_peak": round(max(seen), 1),
        }
    finally:
        s.close()


def _resident_mib(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
