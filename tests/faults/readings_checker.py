"""What must hold of single readings, and of the vectors that a group has made of them.

Reads with librdkafka and aligns with pandas, and knows nothing of the worker's code but names of topics and headers.
For each machine the scores, in the order of their records and rows, are those of the vectors, in the order of time.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tests.faults.checker import Offline, committed, read


@dataclass
class ReadingsVerdict:
    records: int = 0
    machines: int = 0
    expected: int = 0  # vectors
    scored: int = 0
    dead: int = 0
    versions: set[str] = field(default_factory=set)
    closed_by_silence: int = 0
    complaints: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.records:,} readings of {self.machines} machines: {self.expected:,} vectors, {self.scored:,} scored"
            f" by {len(self.versions)} versions, {self.closed_by_silence} machines closed by silence,"
            f" {self.dead:,} dead-lettered"
        )


def check(
    bootstrap: str,
    topics: Any,
    group: str,
    models: Mapping[str, Offline],
    tags: Sequence[str],
    step: int,
    hold: int,
) -> ReadingsVerdict:
    """`step` and `hold` are in ms. Readings must not come later than the worker is told to wait for them."""
    verdict = ReadingsVerdict()
    readings: dict[bytes, list[Any]] = defaultdict(list)
    machine_at: dict[tuple[int, int], bytes] = {}
    rubbish, ends = set(), dict[int, int]()
    for message in read(bootstrap, topics.sensors):
        place = message.partition(), message.offset()
        ends[place[0]] = max(ends.get(place[0], 0), place[1] + 1)
        verdict.records += 1
        try:
            reading = json.loads(message.value())
            readings[message.key()].append((place[1], reading["tag"], reading["value"], reading["time"]))
            machine_at[place] = message.key()
        except (ValueError, KeyError, TypeError):
            rubbish.add(place)
    dead = [dict(m.headers()) for m in read(bootstrap, topics.dead_letters)]
    told = sorted((int(h["offnormal-partition"]), int(h["offnormal-offset"])) for h in dead)
    verdict.dead = len(told)
    if told != sorted(rubbish):
        verdict.complaints.append(f"{len(told)} dead letters of {len(rubbish)} records that are no reading")

    scores: dict[bytes, list[tuple[int, int, str, float]]] = defaultdict(list)  # of one machine: one partition
    for message in read(bootstrap, topics.scores):
        headers = dict(message.headers())
        _, partition, offset, row = headers["offnormal-source"].decode().split("/")
        version = headers["offnormal-model"].decode().split("/")[1]
        machine = machine_at[int(partition), int(offset)]
        for score, _ in json.loads(message.value())["rows"]:
            number = np.nan if score is None else score
            scores[machine].append((int(offset), int(row), version, number))
    verdict.machines = len(readings)
    for machine, own in readings.items():
        x = vectors(own, tags, step, hold)
        found = sorted(scores[machine], key=lambda score: score[:2])
        verdict.expected += len(x)
        verdict.scored += len(found)
        verdict.versions |= {version for _, _, version, _ in found}
        sources = [offset for offset, *_ in found]
        verdict.closed_by_silence += len(x) > 0 and len(sources) > 0 and sources[-1] == own[-1][0]
        if len({score[:2] for score in found}) < len(found):
            verdict.complaints.append(f"{machine!r}: two vectors have one id")
        if len(found) != len(x):
            verdict.complaints.append(f"{machine!r}: {len(found)} scores of {len(x)} vectors")
            continue
        verdict.complaints += _wrong(machine, x, [(version, score) for _, _, version, score in found], models)
    at = committed(bootstrap, group, topics.sensors)
    behind = sum(max(end - at.get(partition, 0), 0) for partition, end in ends.items())
    if behind:
        verdict.complaints.append(f"{behind} offsets not committed")
    return verdict


def vectors(readings: Sequence[Any], tags: Sequence[str], step: int, hold: int) -> npt.NDArray[np.float32]:
    """Return the vectors [n, d] of one machine at each step from its first reading to its last, by merge_asof."""
    frame = pd.DataFrame(readings, columns=["offset", "tag", "value", "time"])
    grid = np.arange(-(-frame["time"].min() // step) * step, -(-frame["time"].max() // step) * step + 1, step)
    aligned = pd.DataFrame({"time": grid})
    for tag in tags:
        own = frame[frame["tag"] == tag].sort_values(["time", "offset"]).drop_duplicates("time", keep="last")
        own = own[["time", "value"]].rename(columns={"value": tag}).astype({tag: np.float32})
        aligned = pd.merge_asof(aligned, own, on="time", tolerance=hold)
    x = aligned[list(tags)].to_numpy(np.float32)
    return x[~np.isnan(x).all(axis=1)]


def _wrong(
    machine: bytes, x: npt.NDArray[np.float32], found: Sequence[tuple[str, float]], models: Mapping[str, Offline]
) -> list[str]:
    """Return what is wrong with the scores of complete vectors; those with gaps are counted alone."""
    complaints = []
    is_whole = ~np.isnan(x).any(axis=1)
    for version in sorted({version for version, _ in found}):
        rows = [i for i, (by, _) in enumerate(found) if by == version and is_whole[i]]
        got, want = np.array([found[i][1] for i in rows]), models[version](x[rows])
        bad = np.flatnonzero(~(np.abs(got - want) <= 1e-5 * np.abs(want) + 1e-6))
        if len(bad):
            i = int(bad[0])
            complaints.append(
                f"{machine!r}: {len(bad)} scores by {version} are wrong: {got[i]!r}, not {want[i]!r}, of {x[rows[i]]}"
            )
    return complaints
