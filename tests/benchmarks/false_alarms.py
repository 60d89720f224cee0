"""Is the promised false-alarm rate kept on fresh normal rows? `python -m tests.benchmarks.false_alarms FILES...`

For each file, seed and rate asked for: the rate promised, the rate observed on the rows of X_test that are labelled
normal, and a 95 % interval for it, the wider one of Clopper and Pearson's (independent rows) and a block bootstrap's
(stretches of a fiftieth: neighbouring rows are not independent). A case is decided where that interval lies wholly
within a factor of 2 of the promise (kept), or wholly outside (broken).
"""

import argparse
import sys
from pathlib import Path

import torch

from training.evaluation.datasets import Dataset, read
from training.fitting.fit import fit, split
from training.gate.gate import interval

RATES = (1e-2, 1e-3, 1e-4)


def verdict(low: float, high: float, promised: float) -> str:
    if promised / 2 <= low and high <= 2 * promised:
        return "kept"
    return "broken" if high < promised / 2 or low > 2 * promised else "undecided"


def cases(data: Dataset, seed: int, kind: str) -> list[tuple[float, float, float, float, float, str]]:
    assert data.y_test is not None
    detector = fit(*split(data.x_train, 0.2), data.features, kind, seed=seed).detector
    scores = detector.score(torch.from_numpy(data.x_test[data.y_test == 0])).numpy()
    found = []
    for asked in RATES:
        promised = detector.calibration.promised(asked)
        flagged = scores >= detector.calibration.threshold(promised)
        low, high = interval(flagged)
        found.append((asked, promised, float(flagged.mean()), low, high, verdict(low, high, promised)))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--kind", default="denoising")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    total: dict[float, dict[str, int]] = {rate: {"kept": 0, "broken": 0, "undecided": 0} for rate in RATES}
    for file in arguments.files:
        data = read(Path(file))
        for seed in range(arguments.seeds):
            for asked, promised, observed, low, high, told in cases(data, seed, arguments.kind):
                total[asked][told] += 1
                print(
                    f"{data.name:<14} seed {seed}  asked {asked:.0e}  promised {promised:.2g}"
                    f"  observed {observed:.2g}  [{low:.2g}, {high:.2g}]  {told}",
                    flush=True,
                )
    for asked, counts in total.items():
        decided = counts["kept"] + counts["broken"]
        share = f"{counts['kept'] / decided:.2f}" if decided else "-"
        print(f"asked {asked:.0e}: {share} of the decided cases kept; {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
