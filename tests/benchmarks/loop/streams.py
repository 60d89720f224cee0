"""Streams with labels, made of labelled files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.evaluation.datasets import read

Rows = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

# How far the set points of a tenth of TEP's variables are moved: by so much of themselves, up or down.
SCALED, SHARE = 0.05, 0.1
COPIES = 6  # of TEP's 2,100 normal rows in the first part, in stretches of 20 in another order each


@dataclass(frozen=True)
class Stream:
    """Rows [n, d] and labels [n], false where there are none; `segments` are name -> its first row and the one after
    its last: `train` for the first model, `before` and `after` with labels, `change` between them.
    """

    name: str
    x: Rows
    anomalous: Bools
    segments: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, name: str, parts: Sequence[tuple[str, Rows, Bools | None]]) -> "Stream":
        segments, begin = {}, 0
        for segment, x, _ in parts:
            segments[segment] = (begin, begin + len(x))
            begin += len(x)
        labels = [np.zeros(len(x), bool) if y is None else y for _, x, y in parts]
        return cls(name, np.concatenate([x for _, x, _ in parts]), np.concatenate(labels), segments)

    def part(self, segment: str) -> slice:
        return slice(*self.segments[segment])


def machines(first: Path, second: Path) -> Stream:
    """The one's training and test rows, then the other's."""
    a, b = read(first), read(second)
    assert a.y_test is not None and b.y_test is not None
    parts = [("train", a.x_train, None), ("before", a.x_test, a.y_test > 0)]
    parts += [("change", b.x_train, None), ("after", b.x_test, b.y_test > 0)]
    return Stream.of(f"{first.stem} > {second.stem}", parts)


def scaled_set_points(files: Sequence[Path], seed: int = 0) -> Stream:
    """TEP's normal rows, with stretches of its faults as anomalies; then the same with set points scaled."""
    rng = np.random.default_rng(seed)
    sets = [read(file) for file in files]
    normal = np.concatenate([sets[0].x_train, *(s.x_test[s.y_test == 0] for s in sets if s.y_test is not None)])
    faults = [s.x_test[s.y_test > 0][-200:] for s in sets if s.y_test is not None]

    def copies(n: int) -> Rows:
        stretches = np.array_split(normal, len(normal) // 20)
        made = [stretches[i] for _ in range(n) for i in rng.permutation(len(stretches))]
        x = np.concatenate(made)
        return (x + 0.1 * normal.std(0) * rng.normal(size=x.shape)).astype(np.float32)

    def with_faults(x: Rows) -> tuple[Rows, Bools]:
        parts, labels = [], []
        for stretch, fault in zip(np.array_split(x, len(faults)), faults, strict=True):
            parts += [stretch, fault]
            labels += [np.zeros(len(stretch), bool), np.ones(len(fault), bool)]
        return np.concatenate(parts), np.concatenate(labels)

    scale = np.ones(normal.shape[1], np.float32)
    moved = rng.choice(normal.shape[1], round(SHARE * normal.shape[1]), replace=False)
    scale[moved] += SCALED * rng.choice([-1, 1], len(moved))
    before, labels = with_faults(copies(COPIES))
    after, labels_after = with_faults(copies(COPIES))
    parts = [("train", copies(COPIES), None), ("before", before, labels)]
    parts += [("change", copies(COPIES) * scale, None), ("after", after * scale, labels_after)]
    return Stream.of("TEP, set points scaled", parts)


def poisoned(file: Path, share: float, contiguous: bool, seed: int = 0) -> tuple[Rows, Rows, Bools, Rows, Bools]:
    """Normal rows to begin with; a window of which `share` are anomalies, spread or in one stretch, and which; rows to
    judge by that are in neither, and which are anomalies.
    """
    data, rng = read(file), np.random.default_rng(seed)
    assert data.y_test is not None
    bad, good = (rng.permutation(data.x_test[data.y_test > 0]), rng.permutation(data.x_test[data.y_test == 0]))
    half, clean = len(bad) // 2, good[: len(good) // 2]
    others, wanted = bad[half:], int(len(clean) * share / (1 - share))
    # Where there are too few anomalies they come again, a little different each time.
    poison = bad[rng.integers(half, size=wanted)] if wanted > half else bad[:wanted]
    poison = (poison + 0.02 * good.std(0) * rng.normal(size=poison.shape)).astype(np.float32)
    if contiguous:
        cut = len(clean) // 2
        window = np.concatenate((clean[:cut], poison, clean[cut:]))
        flags = np.concatenate((np.zeros(cut, bool), np.ones(len(poison), bool), np.zeros(len(clean) - cut, bool)))
    else:
        order = rng.permutation(len(clean) + len(poison))
        window = np.concatenate((clean, poison))[order]
        flags = (np.arange(len(clean) + len(poison)) >= len(clean))[order]
    judged = np.concatenate((good[len(clean) :], others))
    return data.x_train, window, flags, judged, np.arange(len(judged)) >= len(judged) - len(others)
