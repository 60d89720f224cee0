"""What the models give beside events: scores, latents and cleaned vectors in Kafka, sampled vectors in a file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tests.brokers import Broker
from tests.models import FEATURES, normal_rows
from tests.stage import Stage
from worker.models import Artefact

MakeStage = Callable[..., Stage]


def test_every_output_topic_has_a_record_for_each_input_record(
    stage: MakeStage, apache: Broker, artefact: Artefact, rng: np.random.Generator
) -> None:
    s = stage(OFFNORMAL_OUTPUTS='["scores", "latents", "reconstructions"]', OFFNORMAL_INPUT__FORMAT="f32")
    s.make_topics(2)
    s.publish(artefact)
    x = normal_rows(40, rng)
    values = [x[i : i + 2].tobytes() for i in range(0, 40, 2)]
    places = s.send(values, keys=[b"m%d" % i for i in range(20)])
    worker = s.worker("--until-end")
    assert worker.wait() == 0, worker.errors
    module = artefact.detector.module
    given = torch.from_numpy(x)
    expected = {s.topics.latents: module.encode(given), s.topics.reconstructions: module.reconstruct(given)}
    for topic, rows in expected.items():
        found = {dict(r.headers)["offnormal-source"].decode(): r for r in s.read(topic)}
        assert len(found) == 20
        for n, place in enumerate(places):
            record = found["/".join(map(str, (s.topics.sensors, *place)))]
            assert record.key == b"m%d" % n
            got = np.frombuffer(record.value, "<f4").reshape(2, -1)
            np.testing.assert_allclose(got, rows[2 * n : 2 * n + 2].numpy(), rtol=1e-4, atol=1e-4)
            assert dict(record.headers)["offnormal-model"] == f"default/{artefact.card.version}".encode()


def test_normal_vectors_are_sampled_from_a_variational_champion_only(
    stage: MakeStage, artefact: Artefact, rng: np.random.Generator, tmp_path: Path
) -> None:
    s = stage(OFFNORMAL_TRAINING__STEPS="600").make_topics(1)
    out = tmp_path / "normal.csv"
    assert s.training("sample", "--rows", "5", "--out", str(out)).wait() == 5, "there is no champion"
    s.publish(artefact)
    refused = s.training("sample", "--rows", "5", "--out", str(out))
    assert refused.wait() == 5
    assert "OFFNORMAL_MODEL__KIND=variational" in refused.errors
    rows = normal_rows(2000, rng)
    s.send_rows(rows)
    assert s.training(OFFNORMAL_MODEL__KIND="variational").wait() == 0
    sampled = s.training("sample", "--rows", "3000", "--out", str(out))
    assert sampled.wait() == 0, sampled.errors
    drawn = np.loadtxt(out, delimiter=",", skiprows=1)
    assert out.read_text().splitlines()[0] == ",".join(f'"{name}"' for name in FEATURES)
    assert drawn.shape == (3000, 4)
    np.testing.assert_allclose(drawn.mean(0), rows.mean(0), atol=0.5 * rows.std(0).max())
    np.testing.assert_allclose(drawn.std(0), rows.std(0), rtol=0.4)
