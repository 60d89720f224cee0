"""Training: rows of its window read a CPU second, and the CPU seconds of a fit against PyOD's AutoEncoder.

The fits need labelled files (npz: X_train, X_test, y_test): `--files` names them.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from tests.benchmarks import stream
from tests.brokers import Broker
from tests.stage import Stage
from training.data import window
from training.evaluation import baselines, datasets
from training.fitting.fit import fit

STEPS: Final = (100, 300, 1000, 3000)


def read(broker: Broker, folder: Path, rows: int) -> list[dict[str, Any]]:
    """The window of a topic, of each format."""
    found = []
    for form, n in (("raw", rows), ("json", rows // 2)):
        topic = stream.fill(broker.bootstrap, form, n)
        settings = {
            "OFFNORMAL_INPUT__FORMAT": "f32" if form == "raw" else "json",
            "OFFNORMAL_INPUT__FEATURES": "32",
            "OFFNORMAL_TOPICS__SENSORS": topic,
            "OFFNORMAL_TRAINING__LOOKBACK": "30d",
        }
        s = Stage(broker.bootstrap, folder, settings)
        try:
            s.make_topics(4)
            window.read(s.settings, None, lambda seen: None)  # loads machine code
            began = time.process_time()
            seen = window.read(s.settings, None, lambda seen: None).seen
            found.append({"format": form, "rows": seen, "rows_per_cpu_s": round(seen / (time.process_time() - began))})
        finally:
            s.close()
    return found


def fits(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Of each file: ROC-AUC and CPU seconds of PyOD's AutoEncoder by its defaults, and of a fit by steps."""
    torch.set_num_threads(1)
    found = []
    for file in files:
        data = datasets.read(file)
        began = time.process_time()
        theirs = baselines.score("pyod_autoencoder", data.x_train, data.x_test, 0)
        pyod = {"cpu_s": time.process_time() - began, "roc_auc": roc_auc_score(data.y_test, theirs)}
        ours = {}
        for steps in STEPS:
            held = np.arange(len(data.x_train)) % 5 == 0
            began = time.process_time()
            fitted = fit(data.x_train[~held], data.x_train[held], data.features, "denoising", steps=steps)
            scores = fitted.detector.module(torch.from_numpy(data.x_test)).detach().numpy()
            ours[steps] = {"cpu_s": time.process_time() - began, "roc_auc": roc_auc_score(data.y_test, scores)}
        reached = [each["cpu_s"] for each in ours.values() if each["roc_auc"] >= pyod["roc_auc"]]
        found.append(
            {
                "file": file.stem,
                "rows": len(data.x_train),
                "pyod": pyod,
                "steps": ours,
                "share_of_pyods_cpu": round(min(reached) / pyod["cpu_s"], 3) if reached else None,
            }
        )
    return found
