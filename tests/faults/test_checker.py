"""The checker of the fault suite finds what it is there to find: what is lost, doubled, wrong, or not committed."""

from collections.abc import Callable

import numpy as np
import torch
from kafka import KafkaAdminClient, KafkaProducer, OffsetAndMetadata, TopicPartition

from tests.brokers import Broker
from tests.faults.checker import Verdict, check
from tests.models import normal_rows
from tests.stage import Stage
from worker.models import Artefact


def test_it_complains(
    stage: Callable[..., Stage], apache: Broker, artefact: Artefact, rng: np.random.Generator
) -> None:
    s = stage().make_topics(1)
    s.publish(artefact)
    x = normal_rows(300, rng)
    x[::50] += 30
    s.send_rows(x)
    s.send([b"rubbish"])

    def verdict() -> Verdict:
        def offline(rows: np.ndarray) -> np.ndarray:
            return artefact.detector.score(torch.from_numpy(rows)).numpy()

        return check(s.bootstrap, s.topics, s.settings.kafka.group, {artefact.card.version: offline}, 4, 0.01)

    before = verdict().complaints()
    assert before[0].startswith("301 lost") and before[-1] == "301 offsets not committed"
    assert s.worker("--until-end").wait() == 0
    found = verdict()
    assert found.complaints() == []
    assert (found.scored, found.dead) == (300, 1) and found.events >= 6

    producer = KafkaProducer(bootstrap_servers=s.bootstrap)

    def repeat(topic: str, change: Callable[[bytes], bytes] = lambda value: value) -> None:
        record = s.read(topic)[0]
        producer.send(topic, change(record.value), record.key, record.headers).get(10)

    for topic in (s.topics.scores, s.topics.dead_letters, s.topics.anomalies):
        repeat(topic)
    assert verdict().complaints() == ["3 repeated"]
    assert verdict().complaints(repeats=True) == []
    repeat(s.topics.scores, lambda value: b'{"rows": [[1e9, 0.5]]}')
    repeat(s.topics.dead_letters, lambda value: b"other bytes")
    told = verdict().complaints(repeats=True)
    assert len(told) == 1 and told[0].startswith("2 wrong")
    repeat(s.topics.anomalies, lambda value: value.replace(b"/0/0/0", b"/0/7/0"))
    assert any(line.startswith("1 outputs of nothing") for line in verdict().complaints(repeats=True))
    producer.close()

    client = KafkaAdminClient(bootstrap_servers=s.bootstrap)
    place = TopicPartition(s.topics.sensors, 0)
    client.alter_group_offsets(s.settings.kafka.group, {place: OffsetAndMetadata(100, "", -1)})
    client.close()
    assert verdict().uncommitted == 201
