"""python -m tests.benchmarks.autoscaling [--rate 500000]: how late bursts make the workers, by lagThreshold.

No measurement: a simulation, second by second, of what KEDA and the Horizontal Pod Autoscaler do with the lag.

- KEDA's Kafka scaler asks for ceil(lag / lagThreshold) workers, and never for more than there are partitions
  (allowIdleConsumers: false); it looks every pollingInterval.
- The autoscaler follows every 15 s unless the ratio is within a tenth of 1; upwards by 4 pods or by as many as there
  are, whichever is more, every 15 s; downwards to the highest that was asked for within cooldownPeriod.
- A pod takes START seconds until it scores, the two of a rebalance included.
"""

import argparse
import math
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table

SYNC: Final = 15  # seconds between two looks of the autoscaler
TOLERANCE: Final = 0.1
START: Final = 20  # seconds: an image that is there, 4 s to the first event, a rebalance
HOURS: Final = 2


@dataclass(frozen=True)
class Setting:
    threshold: float  # vectors
    least: int = 1
    partitions: int = 6
    polling: int = 15
    cooldown: int = 300


@dataclass(frozen=True)
class Course:
    worst: float  # lag, in seconds of what one worker does
    behind: int  # seconds in which it was more than the threshold a worker
    pods: float  # in the mean
    most: int


def simulate(setting: Setting, load: Callable[[int], float], rate: float) -> Course:
    """`load` is vectors a second at each second, `rate` what a worker scores."""
    lag, seen, wanted = 0.0, 0.0, setting.least
    asked: deque[int] = deque(maxlen=max(setting.cooldown // SYNC, 1))
    ready: list[int] = [0] * setting.least  # when each pod scores
    worst, behind, pods, most = 0.0, 0, 0, 0
    for second in range(HOURS * 3600):
        scoring = sum(at <= second for at in ready)
        lag = max(lag + load(second) - rate * min(scoring, setting.partitions), 0.0)
        if second % setting.polling == 0:
            seen = min(lag, setting.threshold * setting.partitions)
        if second % SYNC == 0:
            now = len(ready)
            if abs(seen / (setting.threshold * now) - 1) > TOLERANCE:
                wanted = max(min(math.ceil(seen / setting.threshold), setting.partitions), setting.least)
            else:
                wanted = now
            asked.append(wanted)
            to = min(wanted, max(now + 4, 2 * now)) if wanted > now else max(asked)
            ready = (ready + [second + START] * (to - now))[: max(to, setting.least)]
        worst, most, pods = max(worst, lag), max(most, len(ready)), pods + len(ready)
        behind += lag > setting.threshold * len(ready)
    return Course(worst / rate, behind, pods / (HOURS * 3600), most)


def loads(rate: float) -> dict[str, Callable[[int], float]]:
    """Traces, in multiples of what a worker does."""
    return {
        "even, .3 of a worker": lambda t: 0.3 * rate,
        "bursts of 3 for 5 min, each half hour": lambda t: rate * (3.0 if t % 1800 < 300 else 0.3),
        "bursts of 5 for 1 min, every 10 min": lambda t: rate * (5.0 if t % 600 < 60 else 0.3),
        "a slow rise to 4 and back": lambda t: rate * (0.3 + 3.7 * math.sin(math.pi * t / (HOURS * 3600)) ** 2),
        "an hour's backlog of .5 at once": lambda t: rate * (0.3 + (1800 if t == 60 else 0)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=500_000, help="vectors a second of a worker (default 500,000)")
    parser.add_argument("--partitions", type=int, default=6)
    rate, partitions = (arguments := parser.parse_args()).rate, arguments.partitions
    table = Table(
        "load, in workers", "lagThreshold, seconds of a worker", "worst lag, s", "s behind", "pods, mean", "most"
    )
    for name, load in loads(rate).items():
        for seconds in (0.5, 1, 5, 30):
            told = simulate(Setting(seconds * rate, partitions=partitions), load, rate)
            table.add_row(
                name, f"{seconds:g}", f"{told.worst:,.0f}", f"{told.behind:,}", f"{told.pods:.2f}", str(told.most)
            )
    Console(width=150).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
