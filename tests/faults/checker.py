"""What must hold of a stream and of what a group has made of it. Reads with librdkafka, under read_committed, and knows
nothing of the worker's code but the names of topics and headers.

Every row of the input is scored exactly once, or its record dead-lettered exactly once, with its own bytes; the score
is that of the model version it names; there is one event for each row whose p-value is within the budget, and for no
other; offsets are committed to the end.
"""

import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import confluent_kafka as librdkafka
import numpy as np
import numpy.typing as npt

Place = tuple[int, int]  # partition, offset
Offline = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]  # [n, d] -> scores [n]
Counts = Callable[[Place, Any], bool]  # whether an output, of the record at this place, is to be looked at


def all_count(_place: Place, _message: Any) -> bool:
    return True


@dataclass
class Verdict:
    records: int = 0
    scored: int = 0
    dead: int = 0
    lost: list[Place] = field(default_factory=list)
    events: int = 0
    repeated: int = 0  # more than one output of a record, or event of a row
    wrong: list[Place] = field(default_factory=list)  # scores that are not the version's, dead letters with other bytes
    how: list[str] = field(default_factory=list)  # some of them are wrong
    strange: list[Place] = field(default_factory=list)  # outputs of no record, or of the wrong kind
    uncommitted: int = 0
    versions: Counter[str] = field(default_factory=Counter)

    def complaints(self, repeats: bool = False, lost: int = 0) -> list[str]:
        """What is not as it has to be. `repeats` with equal ids may be forgiven, and so many `lost`."""
        found = []
        if len(self.lost) != lost:
            found.append(f"{len(self.lost)} lost, {lost} expected: {self.lost[:5]}")
        if self.repeated and not repeats:
            found.append(f"{self.repeated} repeated")
        if self.wrong:
            found.append(f"{len(self.wrong)} wrong: {self.wrong[:5]}; {'; '.join(self.how[:3])}")
        if self.strange:
            found.append(f"{len(self.strange)} outputs of nothing: {self.strange[:5]}")
        if self.uncommitted:
            found.append(f"{self.uncommitted} offsets not committed")
        return found

    def __str__(self) -> str:
        return (
            f"{self.records:,} records: {self.scored:,} scored by {len(self.versions)} versions, {self.dead:,}"
            f" dead-lettered, {self.events:,} events, {len(self.lost)} lost, {self.repeated} repeated,"
            f" {len(self.wrong)} wrong"
        )


def read(bootstrap: str, topic: str) -> list[Any]:
    """All records of a topic that are committed."""
    consumer = librdkafka.Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "checker",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        consumer.assign([librdkafka.TopicPartition(topic, p, librdkafka.OFFSET_BEGINNING) for p in partitions])
        ended: set[int] = set()
        found = []
        while len(ended) < len(partitions):
            for message in consumer.consume(5000, 1.0):
                if message.error() is None:
                    found.append(message)
                    ended.discard(message.partition())
                elif message.error().code() == librdkafka.KafkaError._PARTITION_EOF:
                    ended.add(message.partition())
        return found
    finally:
        consumer.close()


def committed(bootstrap: str, group: str, topic: str) -> dict[int, int]:
    consumer = librdkafka.Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 0})
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        places = [librdkafka.TopicPartition(topic, p) for p in partitions]
        for tries in range(60):
            try:
                found = consumer.committed(places, timeout=30)
                break
            except librdkafka.KafkaException:  # a broker that has just started does not coordinate yet
                if tries == 59:
                    raise
                time.sleep(0.5)
        return {each.partition: each.offset for each in found if each.offset >= 0}
    finally:
        consumer.close()


def vector(value: bytes | None, width: int) -> list[float] | None:
    """What a JSON array of so many numbers says; None where a record is anything else."""
    try:
        found = json.loads(value or b"")
    except (ValueError, RecursionError):
        return None
    if type(found) is not list or len(found) != width or not all(type(each) in (int, float) for each in found):
        return None
    return found if all(map(math.isfinite, found)) and max(map(abs, found)) < 3.4e38 else None


def check(
    bootstrap: str,
    topics: Any,
    group: str,
    models: Mapping[str, Offline],
    width: int,
    budget: float,
    counts: Counts = all_count,
) -> Verdict:
    """`topics` has the names sensors, scores, anomalies and dead_letters; `models` score offline, by version; `budget`
    is the false-alarm rate. Outputs that do not count are passed over.
    """
    verdict = Verdict()
    inputs = {(m.partition(), m.offset()): m.value() for m in read(bootstrap, topics.sensors)}
    verdict.records = len(inputs)
    vectors = {place: x for place, value in inputs.items() if (x := vector(value, width)) is not None}

    scores: dict[Place, list[tuple[str, float]]] = defaultdict(list)
    p_values: dict[Place, float] = {}
    for message in read(bootstrap, topics.scores):
        headers = dict(message.headers())
        _, partition, offset = headers["offnormal-source"].decode().rsplit("/", 2)
        ((score, p_value),) = json.loads(message.value())["rows"]
        place = int(partition), int(offset)
        if not counts(place, message):
            continue
        scores[place].append((headers["offnormal-model"].decode().split("/")[1], score))
        p_values[place] = min(p_value, p_values.get(place, 1.0))  # a repeat may be by another version
    dead: dict[Place, list[bytes]] = defaultdict(list)
    for message in read(bootstrap, topics.dead_letters):
        headers = dict(message.headers())
        place = int(headers["offnormal-partition"]), int(headers["offnormal-offset"])
        if counts(place, message):
            dead[place].append(message.value())

    outputs: dict[Place, list[Any]] = {**scores, **dead}
    verdict.scored, verdict.dead = len(scores), len(dead)
    verdict.lost = sorted(set(inputs) - set(outputs))
    verdict.strange = sorted((set(scores) - set(vectors)) | (set(dead) - (set(inputs) - set(vectors))))
    verdict.repeated = sum(len(found) - 1 for found in outputs.values())
    verdict.wrong = sorted(place for place, values in dead.items() if set(values) != {inputs.get(place)})
    verdict.how = [f"dead letter {dead[place][0]!r:.200} of {inputs.get(place)!r:.200}" for place in verdict.wrong[:3]]
    verdict.wrong += _wrong(scores, vectors, models, verdict.how)
    _judge_events(bootstrap, topics.anomalies, p_values, budget, verdict, counts)
    verdict.versions.update(found[0][0] for found in scores.values())
    ends: dict[int, int] = {}
    for partition, offset in inputs:
        ends[partition] = max(ends.get(partition, 0), offset + 1)
    at = committed(bootstrap, group, topics.sensors)
    verdict.uncommitted = sum(max(end - at.get(partition, 0), 0) for partition, end in ends.items())
    return verdict


def _judge_events(
    bootstrap: str, topic: str, p_values: Mapping[Place, float], budget: float, verdict: Verdict, counts: Counts
) -> None:
    """A p-value that is the budget to its last digits may be on either side."""
    events: Counter[Place] = Counter()
    for message in read(bootstrap, topic):
        _, partition, offset, _row = json.loads(message.value())["id"].rsplit("/", 3)
        place = int(partition), int(offset)
        events[place] += counts(place, message)
    events = +events
    verdict.events = len(events)
    verdict.repeated += events.total() - len(events)
    verdict.lost += sorted(place for place, p in p_values.items() if p < budget * 0.999 and place not in events)
    verdict.strange += sorted(place for place in events if p_values.get(place, 1.0) > budget * 1.001)


def _wrong(
    scores: Mapping[Place, list[tuple[str, float]]],
    vectors: Mapping[Place, list[float]],
    models: Mapping[str, Offline],
    how: list[str],
) -> list[Place]:
    """Scores that differ from the offline score of their version by more than 1e-5 of it, and more than 1e-6: a vector
    that the model expects to the last digits has a score of what rounding leaves. And how some of them differ.
    """
    by_version: dict[str, list[tuple[Place, float]]] = defaultdict(list)
    for place, found in scores.items():
        if place in vectors:
            for version, score in found:
                by_version[version].append((place, score))
    wrong = []
    for version, told in by_version.items():
        if version not in models:
            wrong += [place for place, _ in told]
            continue
        x = np.array([vectors[place] for place, _ in told], np.float32)
        got, want = np.array([score for _, score in told]), models[version](x)
        for i in np.flatnonzero(~(np.abs(got - want) <= 1e-5 * np.abs(want) + 1e-6)).tolist():
            wrong.append(told[i][0])
            by = {name: float(score(x[i : i + 1])[0]) for name, score in models.items()}
            how.append(f"{got[i]!r}, not {want[i]!r} by {version}; of {x[i].tolist()}; by all {by}")
    return sorted(wrong)
