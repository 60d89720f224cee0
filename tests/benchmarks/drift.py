"""How often drift detection errs, and how late it is, on simulated plants: `python -m tests.benchmarks.drift`.

A plant of 20 sensors with 5 hidden causes gives 500 vectors a minute. It is trained on a day of it, then watched: for
months in which nothing changes, however its readings depend on each other over time; and for a day in which a tenth of
the sensors shifts by one standard deviation at a time that is known.
"""

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from scipy.signal import lfilter

from training.fitting.drift_reference import reference
from worker.drift.detectors import Monitor
from worker.drift.summary import Tally
from worker.models import Calibration

Float64s = npt.NDArray[np.float64]

D, CAUSES = 20, 5
PER_MINUTE = 25  # vectors that are simulated, each for 20
STANDS_FOR = 20.0
DAY = 1440 * PER_MINUTE
BUDGET = 1e-4


@dataclass(frozen=True)
class Plant:
    """`memory` is the correlation time of the causes in minutes, `daily` the amplitude of a daily cycle in standard
    deviations, `tails` the degrees of freedom of the noise, `bursts` the anomalies a day, of ten minutes each.
    """

    memory: float = 0.0
    daily: float = 0.0
    tails: float = 0.0
    bursts: float = 0.0

    def rows(self, rng: np.random.Generator, n: int, mix: Float64s, anomalous: bool) -> Float64s:
        causes = rng.normal(size=(n, CAUSES))
        if self.memory:
            phi = np.exp(-1 / (self.memory * PER_MINUTE))
            causes[1:] *= np.sqrt(1 - phi**2)
            causes = lfilter([1], [1, -phi], causes, axis=0)
        if self.daily:
            causes = causes + self.daily * np.sin(2 * np.pi * np.arange(n) / DAY)[:, None]
        noise = rng.standard_t(self.tails, size=(n, D)) if self.tails else rng.normal(size=(n, D))
        x = causes @ mix + 0.5 * noise
        if anomalous and self.bursts:
            for start in rng.integers(0, n, rng.poisson(self.bursts * n / DAY)).tolist():
                x[start : start + 10 * PER_MINUTE, rng.integers(0, D, 3)] += 8
        return x


PLANTS = {
    "independent": Plant(),
    "memory of 5 minutes": Plant(memory=5),
    "memory of an hour": Plant(memory=60),
    "daily cycle": Plant(memory=5, daily=0.7),
    "heavy tails": Plant(memory=5, tails=4),
    "an anomaly a day": Plant(memory=5, bursts=1),
}


class Watched:
    """A plant that was trained on for a day: whitened residuals to five principal components, as of a linear model."""

    def __init__(self, plant: Plant, rng: np.random.Generator):
        self._plant, self._rng = plant, rng
        self._mix = rng.normal(size=(CAUSES, D)) / np.sqrt(CAUSES)
        day = plant.rows(rng, DAY, self._mix, anomalous=False)
        self._mean = day.mean(0)
        _, _, axes = np.linalg.svd(day - self._mean, full_matrices=False)
        self._axes = axes[:CAUSES]
        self._scale = self._residuals(day).std(0)
        held = np.array_split(np.arange(DAY), 50)[4::5]
        scores = [self._scores(day[part]) for part in held]
        self._calibration = Calibration.fit(np.concatenate(scores))
        self._threshold = self._calibration.threshold(BUDGET)
        p_values = [self._calibration.p_value(part) for part in scores]
        nobody = np.zeros(DAY, np.int64)
        self.reference = reference(day.astype(np.float32), nobody, [""], p_values, STANDS_FOR, DAY * STANDS_FOR)

    def _residuals(self, x: Float64s) -> Float64s:
        off = x - self._mean
        return off - off @ self._axes.T @ self._axes

    def _scores(self, x: Float64s) -> Float64s:
        return np.square(self._residuals(x) / self._scale).mean(1)

    def drifts(self, days: int, shift: float = 0.0, at: float = 0.0) -> Iterator[tuple[float, list[str]]]:
        """Minute and detectors of each drift; from minute `at` on a tenth of the sensors is off by `shift` standard
        deviations.
        """
        monitor, tally, minute = Monitor(self.reference, 0), Tally(D), 0
        size = max(int(self.reference.rows / STANDS_FOR), 1)
        off = np.zeros(D)
        off[: max(D // 10, 1)] = shift * self.reference.deviation[: max(D // 10, 1)]
        for day in range(days):
            x = self._plant.rows(self._rng, DAY, self._mix, anomalous=True)
            x += np.where(np.arange(DAY)[:, None] + day * DAY >= at * PER_MINUTE, off, 0.0)
            scores = self._scores(x)
            p_values, over = self._calibration.p_value(scores), scores >= self._threshold
            for begin in range(0, DAY, size):
                part = slice(begin, begin + size)
                minute = (day * DAY + begin + size) // PER_MINUTE
                tally.add(x[part], p_values[part], over[part], np.array([minute]), size * STANDS_FOR)
                noticed = monitor.take(tally.take())
                if noticed is not None:
                    yield minute, noticed.detectors


def stationary(plant: Plant, days: int, seed: int) -> tuple[Counter[str], int]:
    """False drifts by detector, at most one an hour each as a cool-down allows, and the minutes of a summary."""
    watched = Watched(plant, np.random.default_rng(seed))
    found, last = Counter[str](), -1e9
    for minute, detectors in watched.drifts(days):
        if minute - last >= 60:
            found.update(["any", *detectors])
            last = minute
    return found, round(watched.reference.rows / (PER_MINUTE * STANDS_FOR))


def delays(plant: Plant, seed: int) -> dict[str, float]:
    """Minutes from a shift to its notice by each detector, within a day."""
    watched = Watched(plant, np.random.default_rng(seed))
    found: dict[str, float] = {}
    for minute, detectors in watched.drifts(2, shift=1.0, at=720):
        if minute >= 720:
            for name in ("any", *detectors):
                found.setdefault(name, minute - 720)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--months", type=int, default=4, help="of each plant")
    parser.add_argument("--days", type=int, default=30, help="of a month: fewer for a quick look")
    arguments = parser.parse_args()
    names = ("any", "adwin", "kswin", "page_hinkley", "features")
    table = Table(
        "plant", "summary, min", *(f"false a month: {n}" for n in names), *(f"delay, min: {n}" for n in names)
    )
    seeds = range(arguments.months)
    with ProcessPoolExecutor(2) as pool:
        for name, plant in PLANTS.items():
            began = time.monotonic()
            false = list(pool.map(partial(stationary, plant, arguments.days), seeds))
            late = list(pool.map(partial(delays, plant), seeds))
            total = sum((counts for counts, _ in false), Counter[str]())
            minutes = np.median([length for _, length in false])
            rates = [total[n] / arguments.months * 30 / arguments.days for n in names]
            told = [[d[n] for d in late if n in d] for n in names]
            seen = [f"{np.median(t):.0f} ({len(t)}/{len(late)})" if t else "-" for t in told]
            table.add_row(name, f"{minutes:.0f}", *(f"{rate:.2f}" for rate in rates), *seen)
            print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
