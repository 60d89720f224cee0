"""The columnar client and kafka-python's public API, against a real Kafka: the same records in, the same work done."""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from kafka import KafkaProducer

from tests.brokers import Broker
from tests.integration.test_delivery import check_each_once, some_rows
from tests.stage import Stage, until
from worker.kafka.reader import Reader
from worker.models import Artefact

MakeStage = Callable[..., Stage]


def read(s: Stage, client: str) -> list[tuple[Any, ...]]:
    with closing(Reader(s.load(OFFNORMAL_KAFKA__CLIENT=client).kafka, s.topics.sensors, 70)) as reader:
        return [
            (p, o, t, key, value, list(block.headers.get(i, [])))
            for block in reader.to_end()
            for i, (p, o, t, key, value) in enumerate(
                zip(
                    block.partition.tolist(),
                    block.offset.tolist(),
                    block.timestamp.tolist(),
                    block.keys,
                    block.values,
                    strict=True,
                )
            )
        ]


def test_both_read_the_same_whatever_the_producer(stage: MakeStage, apache: Broker) -> None:
    """Each compression, committed and aborted transactions, headers, nulls."""
    s = stage().make_topics(2)
    for k, codec in enumerate([None, "gzip", "snappy", "lz4", "zstd"]):
        producer = KafkaProducer(
            bootstrap_servers=s.bootstrap,
            compression_type=codec,
            linger_ms=50,
            transactional_id=f"{s.topics.sensors}-{k}" if k % 2 else None,
            acks="all",
        )
        ends = ["abort", "commit"] if k % 2 else ["flush"]
        if k % 2:
            producer.init_transactions()
        for end in ends:
            if k % 2:
                producer.begin_transaction()
            for i in range(200):
                producer.send(
                    s.topics.sensors,
                    None if i % 50 == 7 else b"%d %s %d" % (k, end.encode(), i) * (1 + i % 3),
                    b"key%d" % i if i % 3 or i % 50 == 7 else None,
                    [("h", b"v%d" % i)] if i % 4 == 0 else None,
                    partition=i % 2,
                )
            {"flush": producer.flush}.get(end, getattr(producer, f"{end}_transaction", producer.flush))()
        producer.close()
    columnar, public = (sorted(read(s, client), key=lambda r: r[:2]) for client in ("columnar", "public"))
    assert columnar == public
    assert len(columnar) == 5 * 200
    assert not any(b"abort" in (value or b"") for *_, value, _ in columnar)


def test_a_reader_ends_where_its_topic_ended_even_if_more_comes_all_the_time(stage: MakeStage, apache: Broker) -> None:
    """A training beside a busy input."""
    s = stage().make_topics(1)
    s.send([b"before"] * 1000)
    stop = threading.Event()

    def feed() -> None:
        while not stop.is_set():
            s.send([b"more"] * 20)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        began = time.monotonic()
        found = read(s, "columnar")
        assert time.monotonic() - began < 10
    finally:
        stop.set()
        feeder.join()
    assert len(found) >= 1000


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_the_public_client_does_the_same_work(
    stage: MakeStage, apache: Broker, artefact: Artefact, rng: np.random.Generator, delivery: str
) -> None:
    s = stage(OFFNORMAL_KAFKA__CLIENT="public", OFFNORMAL_DELIVERY=delivery).make_topics()
    s.publish(artefact)
    x = some_rows(1500, rng)
    places = s.send_rows(x)
    assert s.worker("--until-end").wait() == 0
    check_each_once(s, places, x, {artefact.card.version: artefact})


def test_keyed_outputs_go_where_every_client_sends_that_key(
    stage: MakeStage, apache: Broker, artefact: Artefact
) -> None:
    s = stage(OFFNORMAL_INPUT__FORMAT="f32").make_topics(4)
    s.publish(artefact)
    producer = KafkaProducer(bootstrap_servers=s.bootstrap)
    far = np.full(4, 1e6, np.float32).tobytes()
    expected = {b"m%d" % i: producer.send(s.topics.dead_letters, b"x", b"m%d" % i).get(10).partition for i in range(40)}
    for key in expected:
        producer.send(s.topics.sensors, far, key)
    producer.close()
    assert s.worker("--until-end").wait() == 0
    until(lambda: len(s.read(s.topics.anomalies)) == 40, 10)
    assert {r.key: r.partition for r in s.read(s.topics.anomalies)} == expected
