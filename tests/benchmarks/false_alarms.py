"""Is the false-alarm rate that was asked for kept? `python -m tests.benchmarks.false_alarms FILES... [--window 32]`

A model is fitted to each file's X_train. Every other row of those that are held out calibrates it; the rest are fresh,
of the same operation, and seen by nothing. For each rate asked for:

- fresh: the share of the fresh rows over the threshold, over the rate that was asked for. Too many if the 95 % interval
  (training/gate/gate.py) lies above twice that rate.
- later: the same of the rows of X_test that are labelled normal, where the plant may have moved.

Then the share of the fresh rows over the threshold of 1e-2, over 1e-2, with readings taken away: 10, 30, 50 % of them
at random; each single column for good; two and four columns drawn twenty times. With windows, readings are taken away
before the windows are made.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from training.data.series import windows
from training.evaluation.datasets import Dataset, read
from training.fitting.fit import fit
from training.gate.gate import interval
from training.rows.held_out import is_held_out
from worker.errors import OffnormalError
from worker.models import Detector
from worker.models.calibration import WITHIN
from worker.models.incomplete import taken_away
from worker.native.arrays import Bools, Float32s
from worker.settings import ModelSettings, Settings

RATES = (1e-2, 1e-3, 1e-4)
LOOKED_AT = 1e-2  # with readings taken away
DRAWN = 20  # sets of two and of four columns
TAKEN = ("10 %", "30 %", "50 %", "one column", "two", "four")


class Fresh:
    """A file's model, and its fresh rows [n, d] as they are and as they would be with readings missing."""

    def __init__(self, data: Dataset, settings: Settings, seed: int, kind: str):
        self._settings = settings
        x = windows(data.x_train, settings, padded=True)
        held = np.flatnonzero(is_held_out(len(x), 0.2))
        rest = np.ones(len(x), bool)
        rest[held] = False
        fitted = fit(x[rest], x[held[::2]], data.features, kind, window=settings.model.window, seed=seed)
        self.detector: Detector = fitted.detector
        self._raw, self._held = data.x_train, held[1::2]

    def flagged(self, asked: float, change: Callable[[Float32s], Float32s] = lambda x: x) -> Bools:
        """Return [m] which of the fresh rows are over the threshold, after a change of the readings."""
        return self.over(change(self._raw), asked)[self._held]

    def over(self, raw: Float32s, asked: float) -> Bools:
        x = torch.from_numpy(np.ascontiguousarray(windows(raw, self._settings, padded=True)))
        scores = self.detector.score(x).numpy()
        return np.asarray(scores >= self.detector.calibration.promise(asked).threshold)


def taken(fresh: Fresh, d: int) -> dict[str, list[float]]:
    """Return the rates over the one asked for, by what is taken away."""
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {}

    def look(name: str, change: Callable[[Float32s], Float32s]) -> None:
        found.setdefault(name, []).append(float(fresh.flagged(LOOKED_AT, change).mean()) / LOOKED_AT)

    for share in (0.1, 0.3, 0.5):
        look(f"{share * 100:.0f} %", lambda x, share=share: taken_away(x, share, rng))
    draws = [[[j] for j in range(d)]]
    draws += [[rng.choice(d, k, replace=False).tolist() for _ in range(DRAWN)] if d > 2 * k else [] for k in (2, 4)]
    for name, columns in zip(TAKEN[3:], draws, strict=True):
        for dead in columns:
            look(name, lambda x, dead=dead: _without(x, dead))
    return found


def _without(x: Float32s, columns: list[int]) -> Float32s:
    out = x.copy()
    out[:, columns] = np.nan
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--kind", default="denoising")
    parser.add_argument("--window", type=int, default=1)
    parser.add_argument("--complete", action="store_true", help="take no readings away")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(model=ModelSettings(window=arguments.window))
    too_many: dict[float, list[bool]] = {rate: [] for rate in RATES}
    rates: dict[str, list[float]] = {f"{where} {rate:.0e}": [] for where in ("fresh", "later") for rate in RATES}
    missing: dict[str, list[float]] = {name: [] for name in TAKEN}
    for file in arguments.files:
        data = read(Path(file))
        for seed in range(arguments.seeds):
            try:
                fresh = Fresh(data, settings, seed, arguments.kind)
            except OffnormalError as error:
                print(f"{data.name:<14} seed {seed}  left out: {error}", flush=True)
                continue
            line = f"{data.name:<14} seed {seed}"
            for asked in RATES:
                flagged = fresh.flagged(asked)
                too_many[asked].append(interval(flagged)[0] > WITHIN * asked)
                rates[f"fresh {asked:.0e}"].append(float(flagged.mean()) / asked)
                line += f"  {asked:.0e}: {flagged.mean() / asked:.2g}"
                if data.y_test is not None:
                    later = fresh.over(data.x_test, asked)[data.y_test == 0].mean() / asked
                    rates[f"later {asked:.0e}"].append(float(later))
                    line += f" (later {later:.2g})"
            of_missing = {} if arguments.complete else taken(fresh, data.x_train.shape[1])
            for name, values in of_missing.items():
                missing[name] += values
                line += f"  {name}: {np.mean(values):.2g} to {max(values):.2g}"
            print(line, flush=True)
    for asked, broken in too_many.items():
        print(f"{asked:.0e}: too many on {sum(broken)} of {len(broken)} files")
    for name, values in {**rates, **missing}.items():
        if values:
            within = np.mean(np.array(values) <= WITHIN)
            print(f"{name}: mean {np.mean(values):.2f}, at most {max(values):.2f}, within twice {within:.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
