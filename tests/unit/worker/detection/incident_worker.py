"""Incidents, driven as the service does: over batches, commits, takeovers and crashes in any order."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hypothesis import strategies as st

from tests.unit.worker.detection.incident_reference import Outcome
from tests.unit.worker.detection.incident_streams import Sent, anomalies_of, block_of, long, scorer
from worker.blocks import TopicSet
from worker.detection import Incidents
from worker.detection.incident import Incident
from worker.kafka import Output
from worker.publishing.encoder import EventEncoder
from worker.publishing.incident_event import read_incident
from worker.runtime.partition_state import PartitionState
from worker.settings import IncidentSettings, Settings

SOURCE, ENCODER = Settings().source, EventEncoder(Settings())


@dataclass
class Worker:
    """Drives incidents as worker/runtime/session.py does, by a Kafka of a few lists. It owns partitions 0 and 1."""

    stream: Sequence[Sent]
    rules: IncidentSettings
    topic: list[Output] = field(default_factory=list)  # the incidents
    metadata: dict[int, dict[str, Any]] = field(default_factory=dict)
    committed: int = 0
    at: int = 0
    named: dict[str, list[str | None]] = field(default_factory=dict)
    handed: list[list[Incident]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.adopt(Incidents(self.rules, TopicSet.of("t")))

    def adopt(self, incidents: Incidents) -> None:
        """Goes on from what was committed. Of the topic, no more is left than after a compaction."""
        self.incidents, self.at = incidents, self.committed
        last: dict[int, dict[int, Incident]] = {0: {}, 1: {}}
        for output in {output.key: output for output in self.topic}.values():
            incident = read_incident(output.value, SOURCE)
            assert incident is not None
            last[incident.partition][incident.identity] = incident
        for partition in (0, 1):
            incidents.forget(partition)
            state = PartitionState.load(self.metadata.get(partition, {}))
            incidents.restore(partition, state.suspects, last[partition])

    def score(self, records: int) -> None:
        sent = self.stream[self.at : self.at + records]
        self.at += len(sent)
        block, anomalies = block_of(sent), anomalies_of(sent)
        self.incidents.observe(block, anomalies, scorer())
        for index, incident in zip(anomalies.index.tolist(), anomalies.incident, strict=True):
            place = sent[block.record[index]].place(int(block.row[index]))
            self.named.setdefault(place, []).append(incident)

    def commit(self) -> None:
        self.handed.append(self.incidents.changed())
        self.topic += ENCODER.incidents(self.handed[-1])
        for partition in {sent.partition for sent in self.stream[self.committed : self.at]}:
            self.metadata[partition] = PartitionState(None, self.incidents.suspects(partition)).dump()
        self.committed = self.at

    def run(self, plan: Iterable["Step"]) -> "Worker":
        for records, then, published in plan:
            self.score(records)
            match then:
                case "commit":
                    self.commit()
                case "take over":
                    self.commit()
                    self.adopt(Incidents(self.rules, TopicSet.of("t")))
                case "crash":
                    self.adopt(Incidents(self.rules, TopicSet.of("t")))
                case "redo":
                    self.adopt(self.incidents)
                case "publish and crash":
                    self.topic += ENCODER.incidents(self.incidents.changed())[:published]
                    self.adopt(Incidents(self.rules, TopicSet.of("t")))
        self.score(len(self.stream))
        self.commit()
        return self

    def outcome(self) -> Outcome:
        told = [json.loads(output.value)["data"] for output in self.topic]
        pages = [data["incident"] for data in told if data.pop("notify")]
        for data in told:
            shares = {f["name"]: f["contribution"] * data["evidence"] for f in data.pop("features")}
            data["evidence"] = {name: round(total, 6) for name, total in shares.items()}
        named = {place: names[-1] for place, names in self.named.items()}
        return Outcome({data["incident"]: data for data in told}, named, sorted(pages))


Then = Literal["score on", "commit", "take over", "crash", "redo", "publish and crash"]
Step = tuple[int, Then, int]  # so many records, and then; of an unfinished commit, so many incidents are published


def plans(*then: Then) -> st.SearchStrategy[list[Step]]:
    return long(st.tuples(st.integers(0, 9), st.sampled_from(then), st.integers(0, 5)), 20)
