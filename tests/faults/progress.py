"""How long a partition stands still, computed from the times at which the brokers appended its input records and their
committed scores. Nothing is queried during a fault, so the measurement needs nothing that is unavailable.

A record's standstill begins when it is in the input and all records before it in its partition are scored. It ends when
its score is in the output. All clocks are those of one machine, and the topics have the brokers' times
(`LogAppendTime`).
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.cluster import SESSION
from tests.faults import checker

# What is promised, in seconds.
HANDED_OVER_MEDIAN, HANDED_OVER_MOST = 3.0, 10.0  # leaders and coordinators move, and whoever had them lives
LOST_MOST = SESSION + 3.0  # a broker that is gone counts as dead after its session
# Of the controller first the others have to notice (controller.quorum.fetch.timeout.ms, 2 s), and to elect another one
# (1 s), which then gives each broker a new session.
CONTROLLER_LOST_MOST = LOST_MOST + 3.0
NOTICED_MOST = 5.0 + HANDED_OVER_MOST  # partitions that are added: the age of the client's metadata
# What fails a run is what hangs. How long it takes depends on the machine as well, on whose cores the brokers that come
# back start beside all else: it is told, beside what is promised.
MARGIN = 30.0
MEDIAN_OF = 3  # a median of fewer is not held against its limit

LEAST = 0.3  # what is shorter is a batch on its way
IN_FLIGHT = (
    1.0  # a record may be in the input so long before the fault that stops it: a commit interval, and its commit
)


@dataclass(frozen=True)
class Standstill:
    partition: int
    began: float  # seconds since the epoch
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass
class Interruption:
    """Something that was done to the brokers, and how long it may stop a partition. `spares` are partitions that do not
    count.
    """

    what: str
    most: float
    median: float | None = None  # of all that are called the same
    spares: frozenset[int] = frozenset()
    began: float = field(default_factory=time.time)


def standstills(bootstrap: str, topics: Any) -> list[Standstill]:
    begins: dict[int, dict[int, float]] = defaultdict(dict)
    for message in checker.read(bootstrap, topics.sensors):
        begins[message.partition()][message.offset()] = message.timestamp()[1] / 1000
    outputs: dict[int, dict[int, float]] = defaultdict(dict)
    for message in checker.read(bootstrap, topics.scores):
        _, partition, offset = dict(message.headers())["offnormal-source"].decode().rsplit("/", 2)
        times = outputs[int(partition)]
        times[int(offset)] = max(message.timestamp()[1] / 1000, times.get(int(offset), 0.0))
    found = []
    for partition, times in outputs.items():
        scored = 0.0
        for offset in sorted(times):
            lies = max(begins[partition].get(offset, times[offset]), scored)
            if times[offset] - lies > LEAST:
                found.append(Standstill(partition, lies, times[offset]))
            scored = max(times[offset], scored)
    return sorted(found, key=lambda each: each.began)


def judge(interruptions: Sequence[Interruption], found: Iterable[Standstill]) -> tuple[str, list[str]]:
    """What is told of them, and what is broken.

    A standstill is due to the last interruption before it; its record may have been in flight then. If none came
    before, it is due to the first one during it, from which on it counts.
    """
    worst = [0.0] * len(interruptions)
    for each in found:
        before = [k for k, one in enumerate(interruptions) if one.began <= each.began + IN_FLIGHT][-1:]
        during = [k for k, one in enumerate(interruptions) if each.began < one.began < each.ended][:1]
        for k in before or during:
            if each.partition not in interruptions[k].spares:
                worst[k] = max(worst[k], each.ended - max(each.began, interruptions[k].began))
    told, complaints = [], []
    by_name: dict[str, list[int]] = defaultdict(list)
    for k, interruption in enumerate(interruptions):
        by_name[interruption.what].append(k)
    for what, numbers in by_name.items():
        seconds = [worst[k] for k in numbers]
        median, most = statistics.median(seconds), max(seconds)
        limit = interruptions[numbers[0]]
        promised = f"{limit.most:g}" if limit.median is None else f"{limit.median:g} and {limit.most:g}"
        told.append(f"{what} x {len(numbers)}: median {median:.1f} s, at most {most:.1f} s (promised: {promised})")
        if most > limit.most + MARGIN:
            complaints.append(f"{what}: a partition stood still for {most:.1f} s, {limit.most:g} s are promised")
        if limit.median is not None and len(seconds) >= MEDIAN_OF and median > limit.median + MARGIN:
            complaints.append(f"{what}: median standstill {median:.1f} s, {limit.median:g} s are promised")
    return f"standstills after {'; '.join(told)}" if told else "", complaints
