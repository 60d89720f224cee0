"""What the gate lets pass, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.models import FEATURES, normal_rows
from training.data.series import windows
from training.fitting.fit import fit
from training.gate import injected_faults
from training.gate.gate import Candidate, Seen, judge
from worker.models import Detector
from worker.settings import ModelSettings, Settings

RATE = 0.01
NONE = np.empty((0, 4), np.float32)


def trained(seed: int, rows: np.ndarray | None = None, steps: int = 300) -> Detector:
    x = normal_rows(4000, np.random.default_rng(seed)) if rows is None else rows
    return fit(x[:3000], x[3000:], FEATURES, "stacked", seed=seed, steps=steps).detector


@pytest.fixture(scope="module")
def champion() -> Candidate:
    return Candidate(trained(1), RATE)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return normal_rows(3000, np.random.default_rng(50))


def broken(detector: Detector, factor: float) -> Detector:
    """Its threshold is so many times what it should be."""
    c = detector.calibration
    assert c.upper is not None
    broken_one = replace(c, body=c.body * factor, sigma=c.sigma * factor, upper=c.upper * factor)
    return replace(detector, calibration=broken_one)


def cautious(detector: Detector) -> Detector:
    """Its rows leave so much open that its threshold is far above the one of the rate asked for."""
    c = detector.calibration
    assert c.upper is not None
    return replace(detector, calibration=replace(c, upper=c.upper * 3))


def test_as_good_a_challenger_passes(champion: Candidate, rows: np.ndarray) -> None:
    for seed in (2, 3, 4):
        verdict = judge(Candidate(trained(seed), RATE), champion, rows, NONE)
        assert verdict.passed, verdict.reasons
    assert verdict.figures["injected"]["compared_by"] == "recall"
    assert {f["kind"] for f in verdict.figures["injected"]["faults"]} == set(injected_faults.KINDS)


def test_one_that_is_loud_is_refused(champion: Candidate, rows: np.ndarray) -> None:
    verdict = judge(Candidate(broken(trained(2), 0.5), RATE), champion, rows, NONE)
    assert not verdict.passed and "false alarms" in verdict.reasons[0]


def test_one_that_sleeps_is_refused(champion: Candidate, rows: np.ndarray) -> None:
    verdict = judge(Candidate(broken(trained(2), 20), RATE), champion, rows, NONE)
    assert not verdict.passed and "injected faults" in verdict.reasons[0]


def test_one_that_has_learned_nothing_is_refused(champion: Candidate, rows: np.ndarray) -> None:
    noise = np.random.default_rng(0).normal(size=(4000, 4)).astype(np.float32) * 100
    assert not judge(Candidate(trained(2, noise), RATE), champion, rows, NONE).passed


def test_one_that_misses_confirmed_anomalies_is_refused(champion: Candidate, rows: np.ndarray) -> None:
    confirmed = normal_rows(200, np.random.default_rng(51)) + np.array([0, 4, 4, 0], np.float32)
    assert judge(Candidate(trained(2), RATE), champion, rows, confirmed).passed
    both = np.concatenate((normal_rows(3000, np.random.default_rng(52)), np.resize(confirmed, (1000, 4))))
    verdict = judge(Candidate(trained(5, np.random.default_rng(0).permutation(both)), RATE), champion, rows, confirmed)
    assert any("confirmed" in reason for reason in verdict.reasons), verdict.figures["confirmed"]


def test_anomalies_that_both_name_are_held_against_nobody(champion: Candidate, rows: np.ndarray) -> None:
    dirty = rows.copy()
    dirty[1000:1200] += np.array([0, 5, 5, 0], np.float32)
    assert judge(Candidate(trained(2), RATE), champion, dirty, NONE).passed


def test_after_a_regime_change_scores_are_compared_by_their_order(champion: Candidate, rows: np.ndarray) -> None:
    moved = np.array([3, 0, 4, 0], np.float32)
    made = trained(2, normal_rows(4000, np.random.default_rng(53)) + moved)
    verdict = judge(Candidate(made, RATE), champion, rows + moved, NONE)
    assert verdict.passed, verdict.reasons
    assert verdict.figures["injected"]["compared_by"] == "roc_auc"
    assert verdict.figures["false_alarms"]["champion"] > 0.9


def seen(champion: np.ndarray, challenger: np.ndarray) -> Seen:
    return Seen(champion, challenger, np.ones(len(champion), bool))


@pytest.mark.parametrize(("share", "passes"), [(0.0, True), (0.05, True), (0.25, False), (0.9, True)])
def test_one_that_may_have_learned_anomalies_is_refused(
    champion: Candidate, rows: np.ndarray, share: float, passes: bool
) -> None:
    """Unless most rows are unusual: then it is the plant that has moved."""
    rng = np.random.default_rng(56)
    theirs = np.where(rng.random(4000) < share, 0.2 * rng.random(4000), rng.random(4000))
    verdict = judge(Candidate(trained(2), RATE), champion, rows, NONE, seen(theirs, rng.random(4000)))
    assert verdict.passed == passes, verdict.reasons
    assert verdict.figures["learned"]["unexplained"] == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize(("share", "now", "passes"), [(0.0, 0.9, True), (0.06, 0.01, True), (0.06, 0.9, False)])
def test_one_that_overlooks_what_was_unusual_is_refused(
    champion: Candidate, rows: np.ndarray, share: float, now: float, passes: bool
) -> None:
    """Though it has learned from none of it."""
    rng = np.random.default_rng(57)
    unusual, theirs = rng.random(4000) < share, rng.random(4000)
    told = Seen(np.where(unusual, 1e-3, theirs), np.where(unusual, now, theirs), ~unusual)
    verdict = judge(Candidate(trained(2), RATE), champion, rows, NONE, told)
    assert verdict.passed == passes, verdict.reasons
    assert verdict.figures["learned"]["overlooked"] == pytest.approx(share if now > 0.05 else 0, abs=0.02)


def test_a_makeshift_champion_is_no_judge_of_what_was_learned(champion: Candidate, rows: np.ndarray) -> None:
    """One whose threshold had to be a cautious one, where the other one's had not."""
    rng = np.random.default_rng(56)
    theirs = np.where(rng.random(4000) < 0.25, 0.2 * rng.random(4000), rng.random(4000))
    told, makeshift = seen(theirs, rng.random(4000)), Candidate(cautious(champion.detector), 0.01)
    assert makeshift.promise.is_cautious
    assert not judge(Candidate(trained(2), 0.01), Candidate(champion.detector, 0.01), rows, NONE, told).passed
    assert judge(Candidate(trained(2), 0.01), makeshift, rows, NONE, told).passed
    assert not judge(Candidate(cautious(trained(2)), 0.01), makeshift, rows, NONE, told).passed


def test_a_first_model_is_not_compared(rows: np.ndarray) -> None:
    verdict = judge(Candidate(trained(2), RATE), None, rows, NONE)
    assert verdict.passed and "champion" not in verdict.figures["false_alarms"]


@pytest.mark.parametrize("window", [1, 8])
def test_faults_are_what_their_names_say(window: int) -> None:
    rng = np.random.default_rng(54)
    series = normal_rows(600, rng)
    x = windows(series, Settings(model=ModelSettings(window=window)), padded=False)
    made = {(f.kind, f.size): f.x for f in injected_faults.faults(x, window)}
    assert len(made) == 4 * len(injected_faults.SIZES) + 2
    for key, changed in made.items():
        different = (changed != x).reshape(len(x), -1, 4).any(1).mean(1)
        assert np.isin(different, [0, 0.25]).all() and different.mean() > 0.2, f"{key}: one feature of four"
    off = np.abs(made["shift", 8.0] - x)[:, :4].max(1)
    scale = np.nanstd(x[:, :4], 0)
    assert off.min() > (8 if window == 1 else 4) * scale.min() * 0.99
    if window > 1:
        level = slice(0, 4)
        assert np.abs(made["spike", 8.0] - x)[:, level].max() < off.max(), "a spike moves the mean by a part of a shift"
        frozen = made["freeze", 0.0]
        guilty = (frozen != x).reshape(len(x), -1, 4)[:, 0]
        assert not frozen.reshape(len(x), -1, 4)[:, 1:].transpose(0, 2, 1)[guilty].any(), "nothing changes any more"


def test_a_fault_in_the_window_is_what_the_worker_would_see_of_it() -> None:
    """Injected into coefficients, and into the vectors themselves."""
    settings = Settings(model=ModelSettings(window=8))
    series = normal_rows(8, np.random.default_rng(55))
    x = windows(series, settings, padded=False)
    bumped = series.copy()
    bumped[-4:, 2] += 1.0
    expected = (windows(bumped, settings, padded=False) - x).reshape(-1, 4)[:, 2]
    np.testing.assert_allclose(injected_faults._response(8, "shift"), expected, atol=1e-4)
    bumped = series.copy()
    bumped[-1, 2] += 1.0
    expected = (windows(bumped, settings, padded=False) - x).reshape(-1, 4)[:, 2]
    np.testing.assert_allclose(injected_faults._response(8, "spike"), expected, atol=1e-4)


def test_scores_without_a_value_do_not_stop_it(champion: Candidate, rows: np.ndarray) -> None:
    gaps = rows.copy()
    gaps[::50, 0] = np.nan
    gaps[7] = np.nan
    assert judge(Candidate(trained(2), RATE), champion, gaps, NONE).passed
    assert torch.isnan(champion.detector.score(torch.from_numpy(gaps[7:8]))).all()
