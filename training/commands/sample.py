"""`python -m training sample`: normal vectors from a variational champion."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

from worker.errors import NoModelError, SettingsError
from worker.kafka.topics import require
from worker.models import Artefact
from worker.models.wavelet import newest
from worker.observability.terminal_text import printable
from worker.registry import Registry
from worker.settings import Settings


def run(settings: Settings, arguments: Namespace) -> None:
    """Write normal vectors that the champion generates to a file."""
    out = Path(arguments.out)
    if arguments.rows < 1:
        raise SettingsError(f"--rows {arguments.rows}: at least 1")
    if out.suffix not in (".npz", ".npy", ".csv"):
        raise SettingsError(f"--out {out}: .npz, .npy or .csv")
    require(settings, reads=[settings.topics.models])
    view = Registry(settings).view()
    champion = view.require_champion()
    artefact = Artefact.load(view.artefact(champion))
    if artefact.card.kind != "variational":
        raise NoModelError(
            f"the champion {champion} is of the kind {artefact.card.kind}, which cannot sample: train one with"
            " OFFNORMAL_MODEL__KIND=variational"
        )
    with torch.inference_mode():
        drawn = artefact.detector.module.sample(arguments.rows, torch.Generator().manual_seed(arguments.seed))
        drawn = newest(drawn, artefact.detector.window)
    write(out, drawn.numpy(), artefact.card.features)
    print(printable(f"{arguments.rows:,} vectors from {view.name}/{champion} in {out}"))


def write(out: Path, rows: np.ndarray, features: tuple[str, ...]) -> None:
    """Write `rows` [n, d] by the file's suffix: npz with `X` and `feature_names`, npy, or CSV with a header."""
    try:
        if out.suffix == ".npz":
            np.savez(out, X=rows, feature_names=np.array(features))
        elif out.suffix == ".npy":
            np.save(out, rows)
        else:
            names = ",".join('"' + name.replace('"', '""') + '"' for name in features)
            np.savetxt(out, rows, delimiter=",", header=names, comments="", fmt="%.9g", encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"--out {out}: {error.strerror}") from None
