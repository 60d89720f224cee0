"""A part of Offnormal with a wall clock that runs fast: `python -m tests.fast SPEED BEGIN STARTED worker|training ...`

Seconds since the epoch are BEGIN + SPEED (now - STARTED): the same for all parts that are given the same numbers.
"""

import sys
import time

_real = time.time


def clock(speed: float, begin: float, started: float) -> None:
    """From here on time.time is fast, in this process."""
    time.time = lambda: begin + speed * (_real() - started)


def main() -> int:
    speed, begin, started, part, *rest = sys.argv[1:]
    clock(float(speed), float(begin), float(started))
    if part == "worker":
        from worker.__main__ import main as run
    else:
        from training.__main__ import main as run
    return run(rest)


if __name__ == "__main__":
    sys.exit(main())
