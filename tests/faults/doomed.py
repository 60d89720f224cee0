"""The worker, made to die by SIGKILL when it passes a point of its loop for the n-th time, or with a clock that jumps.

python -m tests.faults.doomed POINT N [worker's arguments]
python -m tests.faults.doomed clock SEED [worker's arguments]
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from kafka import KafkaProducer

from worker.kafka import AtLeastOnceSink, ExactlyOnceSink, Source
from worker.lane import Lane

# point -> what is called there, and whether it dies before or after it
POINTS: dict[str, tuple[list[type], str, str]] = {
    "fetch": ([Source], "poll", "after"),
    "score": ([Lane], "score", "after"),
    "send": ([ExactlyOnceSink, AtLeastOnceSink], "send", "after"),
    "offsets": ([ExactlyOnceSink], "_send_offsets", "after"),
    "before-commit": ([ExactlyOnceSink], "_commit_transaction", "before"),
    "after-commit": ([ExactlyOnceSink], "_commit_transaction", "after"),
    "flush": ([KafkaProducer], "flush", "after"),
    "offset-commit": ([Source], "commit", "before"),
}


def die_at(point: str, nth: int) -> None:
    owners, name, when = POINTS[point]
    passed = 0

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def doomed(*arguments: Any, **more: Any) -> Any:
            nonlocal passed
            if when == "before":
                passed += 1
                if passed >= nth:
                    os.kill(os.getpid(), signal.SIGKILL)
            found = call(*arguments, **more)
            if when == "after" and (found is not None or point != "fetch"):  # an empty poll is no fetch
                passed += 1
                if passed >= nth:
                    os.kill(os.getpid(), signal.SIGKILL)
            return found

        return doomed

    for owner in owners:
        setattr(owner, name, wrap(getattr(owner, name)))


def jump(seed: int) -> None:
    """The wall clock goes back and forth by up to a year, every other second."""
    right = time.time

    def jumping() -> float:
        now = right()
        return now + random.Random(f"{seed}/{int(time.monotonic() / 2)}").choice([0, -3600, 7200, 86400 * 365, -60])

    time.time = jumping


def main() -> int:
    point, number, *rest = sys.argv[1:]
    if point == "clock":
        jump(int(number))
    else:
        die_at(point, int(number))
    from worker.__main__ import main as run

    return run(rest)


if __name__ == "__main__":
    sys.exit(main())
