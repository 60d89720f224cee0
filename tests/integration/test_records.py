"""Bad records: a dead letter each, and nothing for their neighbours."""

import json
from collections.abc import Callable

import numpy as np
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from tests.brokers import Broker
from tests.models import normal_rows
from tests.stage import Stage, encode
from worker.models import Artefact

MakeStage = Callable[..., Stage]

BAD = {
    b"": "unparseable",
    b"{": "unparseable",
    b"\xff\xfe": "unparseable",
    b"[1, 2, 3, nan]": "unparseable",
    b"[" * 2000: "unparseable",
    b"[1, 2, 3]": "wrong-length",
    b"[]": "wrong-length",
    b'[1, 2, 3, "4"]': "wrong-type",
    b"[1, 2, 3, true]": "wrong-type",
    b"[[1, 2, 3, 4], [1, 2, 3, 4], [1, 2]]": "wrong-length",
    b"[[1, 2, 3, 4], 5]": "wrong-type",
    b'"text"': "wrong-type",
    b"null": "wrong-type",
    b"[1, 2, 3, 1e39]": "infinite",
    b'{"pressure": {}, "flow": 1, "speed": 1, "heat": 1}': "wrong-type",
}


def test_every_kind_of_bad_record(
    stage: MakeStage, apache: Broker, artefact: Artefact, rng: np.random.Generator
) -> None:
    s = stage().make_topics(2)
    s.publish(artefact)
    good = encode(normal_rows(len(BAD) + 1, rng), "json")
    mixed: list[bytes | None] = [None]
    for before, bad in zip(good, BAD, strict=False):
        mixed += [before, bad]
    mixed += [good[-1]]
    places = s.send(mixed, keys=[b"k%d" % i for i in range(len(mixed))])
    assert s.worker("--until-end").wait() == 0
    assert set(s.scores()) == {p for p, value in zip(places, mixed, strict=True) if value in good}
    letters = s.dead_letters()
    assert len(letters) == len(BAD)
    sent = {place: (value, b"k%d" % i) for i, (place, value) in enumerate(zip(places, mixed, strict=True))}
    for letter in letters:
        headers = {name: value.decode() for name, value in letter.headers}
        assert headers["offnormal-topic"] == s.topics.sensors
        place = int(headers["offnormal-partition"]), int(headers["offnormal-offset"])
        assert (letter.value, letter.key) == sent[place]
        assert headers["offnormal-reason"] == BAD[letter.value], letter.value
        assert headers["offnormal-error"]
        assert int(headers["offnormal-timestamp"]) > 0
    assert sum(s.committed().values()) == len(mixed)


def test_several_vectors_in_a_record(
    stage: MakeStage, apache: Broker, artefact: Artefact, rng: np.random.Generator
) -> None:
    s = stage(OFFNORMAL_BATCH__MAX_ROWS="64").make_topics(1)
    s.publish(artefact)
    x = normal_rows(150, rng)
    x[77] += 50
    s.send(
        [json.dumps(x.astype(float).tolist()).encode(), b"".join(encode(x, "f32"))],
        headers=[[], [("content-type", b"application/x-f32")]],
    )
    assert s.worker("--until-end").wait() == 0
    scores = s.scores()
    assert [len(scores[0, offset][0].rows) for offset in (0, 1)] == [150, 150]
    np.testing.assert_allclose(scores[0, 0][0].rows, scores[0, 1][0].rows, rtol=1e-5)
    ids = {event["id"].removeprefix(s.topics.sensors) for event in s.events()}
    assert {"/0/0/77", "/0/1/77"} <= ids


def test_a_record_near_the_size_limit_has_a_dead_letter(stage: MakeStage, apache: Broker, artefact: Artefact) -> None:
    s = stage().make_topics(1)
    s.publish(artefact)
    big = b"[" + b"1," * 480_000
    s.send([big, b"[10, 0, -5, 100]"])
    assert s.worker("--until-end").wait() == 0
    assert [letter.value for letter in s.dead_letters()] == [big]
    assert len(s.scores()) == 1


def test_an_event_that_does_not_fit_is_told(stage: MakeStage, apache: Broker, artefact: Artefact) -> None:
    s = stage()
    admin = KafkaAdminClient(bootstrap_servers=s.bootstrap)
    admin.create_topics([NewTopic(s.topics.anomalies, 1, 1, topic_configs={"max.message.bytes": "300"})])
    admin.close()
    s.make_topics(1)
    s.publish(artefact)
    s.send([b"[10, 0, -5, 100]", b"[1e6, 1e6, 1e6, 1e6]"])
    for delivery in ("exactly_once", "at_least_once"):
        run = s.worker("--until-end", OFFNORMAL_DELIVERY=delivery)
        code = run.wait()
        assert code == 4, run.errors[-3000:]
        assert "max.message.bytes" in run.errors.splitlines()[-1]
    assert s.committed() == {}, "it is not skipped in silence"


def test_a_row_too_incomplete_has_no_score(stage: MakeStage, apache: Broker, artefact: Artefact) -> None:
    s = stage().make_topics(1)
    s.publish(artefact)
    s.send([b'{"flow": 1}', b"{}", b"[1000, null, 1000, 1000]"])
    assert s.worker("--until-end").wait() == 0
    scores = s.scores()
    assert all(np.isnan(scores[0, offset][0].rows[0]).all() for offset in (0, 1))
    assert [event["id"].rsplit("/", 2)[1] for event in s.events()] == ["2"]
