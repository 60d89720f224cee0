"""The swap of a model: what is taken into service, what is left in place, and the scores that it gives."""

import numpy as np
import pytest
import torch

from tests.models import FEATURES, make_artefact, normal_rows
from tests.record_blocks import block_of
from tests.unit.worker.models.test_artefact import forged
from worker.decoding import Decoder
from worker.errors import ArtefactError, SettingsError
from worker.models import Artefact
from worker.models.calibration import RATES
from worker.serving.cpu_scorer import FusedScorer
from worker.serving.device import pick_device
from worker.serving.model_swap import ResidentModels
from worker.settings import BatchSettings, DetectionSettings, InputSettings, ModelSettings, Settings


@pytest.fixture(scope="module")
def data(artefact: Artefact) -> bytes:
    return artefact.dump()


def models(
    rate: float = 1e-3, missing: float = 0.5, rows: int = 4096, name: str = "default", threads: int = 1
) -> ResidentModels:
    return ResidentModels(
        Settings(
            device="cpu",
            threads=threads,
            detection=DetectionSettings(false_alarm_rate=rate, max_missing=missing),
            batch=BatchSettings(max_rows=rows),
            model=ModelSettings(name=name),
        )
    )


def test_the_model_of_another_name_is_refused_by_both_names(data: bytes) -> None:
    with pytest.raises(ArtefactError, match="'default', not 'press'"):
        models(name="press").load(data)


def test_another_window_is_refused(data: bytes) -> None:
    with pytest.raises(ArtefactError, match="window of 4, not 1"):
        models().load(make_artefact(seed=1, window=4).dump())
    with pytest.raises(ArtefactError, match="12 columns"):
        models().load(forged(data, lambda tensors, card: card.update(window=4)))


@pytest.mark.parametrize("features", [("a", "b", "c", "d"), tuple(reversed(FEATURES)), (*FEATURES, "more")])
def test_other_features_are_refused_once_a_model_is_in_service(data: bytes, features: tuple[str, ...]) -> None:
    running = models()
    running.swap(running.load(data))
    before = running.serving("default")
    with pytest.raises(ArtefactError, match="features"):
        running.load(make_artefact(seed=1, features=features).dump())
    assert running.serving("default") is before


def test_any_features_are_taken_while_none_is_in_service() -> None:
    assert models().load(make_artefact(seed=1, features=("a", "b")).dump()).features == ("a", "b")


def test_a_damaged_artefact_leaves_the_one_in_service(data: bytes) -> None:
    running = models()
    running.swap(running.load(data))
    before, x = running.serving("default"), normal_rows(10, np.random.default_rng(0))
    assert before is not None
    scores = before.score(x)
    with pytest.raises(ArtefactError):
        running.load(data[:-1])
    assert running.serving("default") is before
    np.testing.assert_array_equal(before.score(x), scores)


def test_loading_alone_does_not_swap(data: bytes) -> None:
    running = models()
    loaded = running.load(data)
    assert running.serving("default") is None
    running.swap(loaded)
    assert running.serving("default") is loaded


def test_the_resident_scores_and_explains_as_the_artefact_does(artefact: Artefact, data: bytes) -> None:
    resident, x = models().load(data), normal_rows(50, np.random.default_rng(1)) * 3
    np.testing.assert_array_equal(resident.score(x), artefact.detector.score(torch.from_numpy(x)).numpy())
    expected, contributions, strength, lags = resident.explain(x)
    assert lags is None
    wanted = artefact.detector.module.explain(torch.from_numpy(x))
    np.testing.assert_array_equal(expected, wanted[0].numpy())
    np.testing.assert_array_equal(contributions, wanted[1].numpy())
    np.testing.assert_array_equal(strength, wanted[2].numpy())
    assert resident.version == artefact.card.version


@pytest.mark.parametrize(("share", "scored"), [(0.0, 0), (0.24, 0), (0.25, 1), (0.5, 2), (0.75, 3), (0.99, 3)])
def test_a_row_is_scored_up_to_the_share_that_may_be_missing(data: bytes, share: float, scored: int) -> None:
    x = normal_rows(5, np.random.default_rng(2))
    for missing in range(5):
        x[missing, :missing] = np.nan
    assert np.isfinite(models(missing=share).load(data).score(x)).tolist() == [m <= scored for m in range(5)]


@pytest.mark.parametrize("rows", [1, 7, 100, 101, 4096])
def test_scores_do_not_depend_on_the_largest_batch(data: bytes, rows: int) -> None:
    x = normal_rows(101, np.random.default_rng(3))
    x[::10] *= 30
    x[5::11, 1] = np.nan
    np.testing.assert_allclose(models(rows=rows).load(data).score(x), models().load(data).score(x), rtol=1e-5)


def test_no_rows_have_no_scores(data: bytes) -> None:
    assert models().load(data).score(np.empty((0, 4), np.float32)).shape == (0,)


def test_rows_that_lie_askew_in_the_fetched_bytes_score_the_same(data: bytes) -> None:
    x = normal_rows(20, np.random.default_rng(4))
    decoder = Decoder(InputSettings(format="f32"), FEATURES)
    askew = decoder.decode(block_of([b"odd", *(row.tobytes() for row in x)])).x
    resident = models().load(data)
    np.testing.assert_allclose(resident.score(askew), resident.score(x), rtol=1e-6)


@pytest.mark.parametrize("rate", [0.1, 1e-2, 1e-4, 1e-6])
def test_the_threshold_is_the_score_whose_p_value_is_the_budget(data: bytes, rate: float) -> None:
    resident = models(rate=rate).load(data)
    assert resident.calibration.p_value(resident.threshold) == pytest.approx(rate, rel=1e-6)


def test_a_smaller_budget_lets_fewer_rows_over_the_threshold(data: bytes) -> None:
    x = normal_rows(4000, np.random.default_rng(5))
    over = [(r.score(x) >= r.threshold).sum() for r in (models(rate=rate).load(data) for rate in (0.1, 0.01, 0.001))]
    assert over[0] > 2 * over[1] > 2 * over[2]


def test_the_threads_of_the_settings_are_taken() -> None:
    models(threads=2)
    assert torch.get_num_threads() == 2
    models()
    assert torch.get_num_threads() == 1


def test_a_resident_is_immutable(data: bytes) -> None:
    with pytest.raises(AttributeError):
        models().load(data).promise = None  # type: ignore[misc]


def test_the_cpu_holds_no_device_memory(data: bytes) -> None:
    running = models()
    running.swap(running.load(data))
    assert running.memory() == 0


@pytest.mark.skipif(torch.cuda.device_count() > 99, reason="this machine has that many")
def test_a_device_that_is_not_there_is_told_with_the_variable() -> None:
    with pytest.raises(SettingsError, match="OFFNORMAL_DEVICE: cuda:99 is not available"):
        pick_device("cuda:99")


def test_auto_takes_what_there_is() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def changed(data: bytes, upper: float = 1.0, **quality: float) -> bytes:
    """The artefact with so many times the upper bounds of its scores, and other figures of quality."""

    def change(tensors: dict[str, torch.Tensor], card: dict) -> None:  # type: ignore[type-arg]
        calibration = Artefact.load(data).detector.calibration
        bounds = np.array([calibration.threshold(rate) for rate in RATES])
        tensors["calibration.upper"] = torch.from_numpy(bounds * upper)
        card["quality"].update(quality)

    return forged(data, change)


def test_too_few_rows_raise_the_threshold_and_that_is_told(data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    plain = models(rate=1e-3).load(changed(data))
    assert plain.expected_rate == plain.budget == 1e-3
    assert "threshold_raised" not in capsys.readouterr().err
    cautious = models(rate=1e-3).load(changed(data, upper=3))
    assert cautious.threshold > 2 * plain.threshold and cautious.budget == 1e-3
    assert cautious.expected_rate == pytest.approx(cautious.calibration.p_value(cautious.threshold), rel=1e-6)
    assert cautious.promise.at_most == pytest.approx(2e-3, rel=0.01)
    told = capsys.readouterr()
    assert "threshold_raised" in told.out + told.err


def test_alerts_per_day_are_a_rate_by_the_vectors_that_training_saw(data: bytes) -> None:
    detection = DetectionSettings(alerts_per_day=10)
    settings = Settings(device="cpu", detection=detection)
    assert ResidentModels(settings).load(changed(data, vectors_per_day=86_400.0)).budget == pytest.approx(10 / 86_400)
    unknown = ResidentModels(settings).load(changed(data, vectors_per_day=0.0)).budget
    assert unknown == detection.false_alarm_rate, "a window that spans no time tells no rate"
    assert ResidentModels(settings).load(changed(data, vectors_per_day=4.0)).budget == 0.5


def test_a_quicker_way_that_gives_other_scores_is_not_taken(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal_rows(100, np.random.default_rng(0))
    expected = models().load(data).score(x)
    score = FusedScorer.score
    monkeypatch.setattr(FusedScorer, "score", lambda self, rows: score(self, rows) * np.float32(1.01))
    resident = models().load(data)
    assert resident._scorer is None
    np.testing.assert_allclose(resident.score(x), expected, rtol=1e-5)


def test_a_quicker_way_is_taken_where_most_of_the_probe_is_missing(artefact: Artefact) -> None:
    rows = normal_rows(200, np.random.default_rng(0))
    rows[::2, :3] = np.nan
    assert models().load(Artefact.make(artefact.card, artefact.detector, rows).dump())._scorer is not None
