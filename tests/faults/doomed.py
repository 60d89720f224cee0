"""The worker with an injected fault. It is killed by SIGKILL when it passes a point of its loop for the n-th time, or
waits there until it is released. Or its clock jumps. Or its clients go deaf: after a while their polls return nothing.

python -m tests.faults.doomed POINT N [worker's arguments]
python -m tests.faults.doomed hold FOLDER [worker's arguments]
python -m tests.faults.doomed clock SEED [worker's arguments]
python -m tests.faults.doomed deaf N [worker's arguments]
python -m tests.faults.doomed reconnect FILE [worker's arguments]
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer

from worker.kafka import AtLeastOnceSink, ExactlyOnceSink, Source
from worker.kafka.client.produce import Produce
from worker.runtime.connections import Connections
from worker.runtime.pipeline import Pipeline

# point -> what is called there, and whether it dies before or after it
POINTS: dict[str, tuple[list[type], str, str]] = {
    "fetch": ([Source], "poll", "after"),
    "score": ([Pipeline], "score", "after"),
    "send": ([ExactlyOnceSink, AtLeastOnceSink], "send", "after"),
    "offsets": ([ExactlyOnceSink], "_send_offsets", "after"),
    "before-commit": ([ExactlyOnceSink], "_commit_transaction", "before"),
    "after-commit": ([ExactlyOnceSink], "_commit_transaction", "after"),
    "flush": ([Produce], "await_sent", "after"),
    "offset-commit": ([Source], "commit", "before"),
}
COMMIT = ("fetch", "score", "send", "offsets", "before-commit", "after-commit")  # the way of a batch, exactly once


def pass_by(point: str, act: Callable[[], None]) -> None:
    """`act` is called each time that the point is passed."""
    owners, name, when = POINTS[point]

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def passing(*arguments: Any, **more: Any) -> Any:
            if when == "before":
                act()
            found = call(*arguments, **more)
            if when == "after" and (found is not None or point != "fetch"):  # an empty poll is no fetch
                act()
            return found

        return passing

    for owner in owners:
        setattr(owner, name, wrap(getattr(owner, name)))


def die_at(point: str, nth: int) -> None:
    passed = 0

    def count() -> None:
        nonlocal passed
        passed += 1
        if passed >= nth:
            os.kill(os.getpid(), signal.SIGKILL)

    pass_by(point, count)


def hold(folder: Path) -> None:
    """Once a file with a point's name is there, which says a number n, the worker stops where it passes the point for
    the n-th time, writes `held`, and goes on when `held` is removed. `transactional-id` says its producer's.
    """
    for point in COMMIT:
        pass_by(point, _Hold(folder, point))
    begin = ExactlyOnceSink.__init__

    def begin_and_tell(sink: ExactlyOnceSink, *arguments: Any) -> None:
        begin(sink, *arguments)
        (folder / "transactional-id").write_text(sink._transactional_id)

    ExactlyOnceSink.__init__ = begin_and_tell  # type: ignore[method-assign]


class _Hold:
    def __init__(self, folder: Path, point: str):
        self._wanted, self._held = folder / point, folder / "held"
        self._passed = 0

    def __call__(self) -> None:
        if not self._wanted.exists():
            return
        self._passed += 1
        if self._passed < int(self._wanted.read_text()):
            return
        self._passed = 0
        self._wanted.unlink()
        self._held.touch()
        while self._held.exists():
            time.sleep(0.005)


def jump(seed: int) -> None:
    """The wall clock goes back and forth by up to a year, every other second."""
    right = time.time

    def jumping() -> float:
        now = right()
        return now + random.Random(f"{seed}/{int(time.monotonic() / 2)}").choice([0, -3600, 7200, 86400 * 365, -60])

    time.time = jumping


def deafen(count: int) -> None:
    """The first source hears nothing any more once it has read what there was at first, and `count` - 1 others that
    come after it never do.
    """
    poll = KafkaConsumer.poll
    members: list[KafkaConsumer] = []
    quiet = -1  # polls of the first one without a record, since it has read some

    def deaf(consumer: KafkaConsumer, timeout_ms: int = 0, **more: Any) -> Any:
        nonlocal quiet
        if consumer.config["group_id"] is None:
            return poll(consumer, timeout_ms=timeout_ms, **more)
        if consumer not in members:
            members.append(consumer)
        place = members.index(consumer)
        if (place == 0 and quiet >= 10) or 0 < place < count:
            time.sleep(timeout_ms / 1000)
            return {}
        found = poll(consumer, timeout_ms=timeout_ms, **more)
        if place == 0 and (found or quiet >= 0):
            quiet = 0 if found else quiet + 1
        return found

    KafkaConsumer.poll = deaf


def reconnect_late(file: Path) -> None:
    """The first client goes deaf, and the worker connects again only once the file is there."""
    deafen(1)
    begin = Connections.__init__
    made = 0

    def wait_and_begin(connections: Connections, *arguments: Any) -> None:
        nonlocal made
        made += 1
        while made > 1 and not file.exists():
            time.sleep(0.05)
        begin(connections, *arguments)

    Connections.__init__ = wait_and_begin  # type: ignore[method-assign]


def main() -> int:
    what, which, *rest = sys.argv[1:]
    if what == "clock":
        jump(int(which))
    elif what == "deaf":
        deafen(int(which))
    elif what == "reconnect":
        reconnect_late(Path(which))
    elif what == "hold":
        hold(Path(which))
    else:
        die_at(what, int(which))
    from worker.__main__ import main as run

    return run(rest)


if __name__ == "__main__":
    sys.exit(main())
