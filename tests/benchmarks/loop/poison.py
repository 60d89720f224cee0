"""A window of which nearly a third are anomalies that nobody has labelled: does the next model learn them?

A first model is made of normal rows and scores the window; a second training looks back at the window alone. Both
models then judge rows that neither has seen.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from tests.benchmarks.loop.streams import Bools, Rows, poisoned
from tests.stage import Stage
from training.evaluation.scores import roc_auc
from worker.models import Artefact
from worker.registry import Registry

SHARE = 0.3
WITHIN = 0.03  # of ROC-AUC
SECONDS_AGO = 4 * 86_400


def run(bootstrap: str, folder: Path, files: Sequence[Path]) -> dict[str, Any]:
    results: dict[str, Any] = {}
    table = Table("file", "poison", "ROC-AUC before", "after", "gate", "learned")
    for file in files:
        for contiguous in (False, True):
            told = one(bootstrap, folder, file, contiguous)
            name = f"{file.stem}, {'one stretch' if contiguous else 'spread'}"
            results[name] = told
            print(name, json.dumps(told), flush=True)
            cells = (f"{told[k]:.4f}" for k in ("before", "after"))
            table.add_row(
                file.stem, name.split(", ")[1], *cells, "passed" if told["passed"] else "refused", told["verdict"]
            )
    Console(width=160).print(table)
    return results


def one(bootstrap: str, folder: Path, file: Path, contiguous: bool) -> dict[str, Any]:
    first, window, _, judged, anomalous = poisoned(file, SHARE, contiguous)
    stage = Stage(
        bootstrap,
        folder,
        {
            "OFFNORMAL_INPUT__FORMAT": "f32",
            "OFFNORMAL_INPUT__FEATURES": str(first.shape[1]),
            "OFFNORMAL_OUTPUTS": "[]",
            "OFFNORMAL_DETECTION__FALSE_ALARM_RATE": "0.001",
            "OFFNORMAL_TRAINING__MIN_ROWS": "100",
        },
    ).make_topics(1)
    try:
        begin = int(time.time()) - SECONDS_AGO
        send(stage, first, begin)
        assert stage.training(OFFNORMAL_TRAINING__LOOKBACK=f"{len(first)}s").wait(200) == 0
        send(stage, window, begin + len(first))
        assert stage.worker("--until-end").wait(120) == 0
        second = stage.training("--json", OFFNORMAL_TRAINING__LOOKBACK=f"{len(window) - 1}s")
        code = second.wait(200)
        assert code in (0, 3), second.errors[-2000:]
        made = json.loads(second.output.splitlines()[-1])
        view = Registry(stage.settings).view()
        versions = [entry["version"] for entry in view.history()]
        before, after = (auc(view.artefact(version), judged, anomalous) for version in versions)
    finally:
        stage.close()
    learned = after < before - WITHIN
    return {
        "rows": len(window),
        "before": before,
        "after": after,
        "passed": code == 0,
        "verdict": ("yes, refused" if code else "YES") if learned else "no",
        "counts": made["rows"],
        "reasons": made["reasons"],
    }


def send(stage: Stage, x: Rows, begin: int) -> None:
    for i, row in enumerate(x):
        at = (begin + i) * 1000
        stage._producer.send(stage.topics.sensors, row.tobytes(), b"plant", partition=0, timestamp_ms=at)
    stage._producer.flush(30)


def auc(artefact: bytes, x: Rows, anomalous: Bools) -> float:
    score = Artefact.load(artefact).detector.score(torch.from_numpy(np.ascontiguousarray(x))).numpy()
    return float(roc_auc(anomalous.astype(int), score))
