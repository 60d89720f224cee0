"""Which rows of the window teach, which set the threshold, and which the gate looks at."""

import numpy as np
import pytest

from training.data.evidence import VectorFlags
from training.data.selection import OLD, Learned, select
from training.data.window import RejectedRecords, Window
from worker.errors import NoModelError
from worker.settings import Settings, TrainingSettings

SETTINGS = Settings(training=TrainingSettings(min_rows=100, holdout=0.2))


def window(n: int, known: dict[VectorFlags, list[int]] | None = None, drift: int | None = None) -> Window:
    flags = np.zeros(n, np.uint8)
    for what, rows in (known or {}).items():
        flags[rows] |= int(what)
    x = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    nobody = np.zeros(n, np.int64)
    return Window(
        ("a", "b"), x, np.arange(n), flags, nobody, ("",), n, RejectedRecords(), 0, {}, x[:0], nobody[:0], drift
    )


def test_each_row_is_of_one_use_and_what_is_held_out_is_spread() -> None:
    found = select(SETTINGS, window(1000), None)
    uses = np.stack([found.fit, found.calibrate, found.gate])
    assert (uses.sum(0) == 1).all()
    assert (found.calibrate.sum(), found.gate.sum()) == (200, 50)
    for use in uses:
        assert all(part.any() for part in np.array_split(use, 10))


def test_published_anomalies_and_incidents_do_not_teach_but_set_the_threshold() -> None:
    named, incident = list(range(500, 1000, 7)), list(range(100, 160))
    known = {VectorFlags.NAMED: named + incident[::3], VectorFlags.INCIDENT: incident}
    found = select(SETTINGS, window(1000, known), None)
    assert not found.fit[named].any() and not found.fit[incident[5:-5]].any()
    assert found.calibrate[named].any() and found.gate[named].any()
    assert found.counts["named_anomalies"] == len(named) + 20


def test_what_a_person_dismissed_teaches_and_what_one_confirmed_is_left_out_of_everything() -> None:
    dismissed, confirmed, faulty = list(range(300)), list(range(300, 400)), list(range(400, 500))
    known = {
        VectorFlags.NAMED: dismissed + confirmed,
        VectorFlags.DISMISSED: dismissed,
        VectorFlags.CONFIRMED: confirmed,
        VectorFlags.FAULTY: faulty,
    }
    found = select(SETTINGS, window(1000, known), None)
    assert found.fit[dismissed].sum() > 200
    for out in (confirmed, faulty):
        assert not (found.fit | found.calibrate | found.gate)[out].any()


def test_a_dismissed_incident_is_no_new_regime() -> None:
    rows = list(range(500, 1000))
    p_values = np.where(np.arange(1000) < 500, 0.5, 1e-6)
    assert select(SETTINGS, window(1000), p_values).new
    found = select(SETTINGS, window(1000, {VectorFlags.NAMED: rows, VectorFlags.DISMISSED: rows}), p_values)
    assert not found.new and found.regime is None
    assert found.fit[rows].sum() > 300


def test_a_new_regime_teaches_with_some_of_what_was_before_and_alone_sets_the_threshold() -> None:
    new = np.arange(1000) >= 500
    known = {VectorFlags.NAMED: np.flatnonzero(new).tolist()}
    p_values = np.where(new, 1e-6, np.random.default_rng(0).random(1000))
    found = select(SETTINGS, window(1000, known), p_values)
    assert found.new and found.regime is not None and abs(found.regime - 500) <= 20
    assert found.learned == (found.regime, 999)
    assert not found.calibrate[:480].any() and not found.gate[:480].any()
    assert found.fit[new].sum() > 350
    assert found.fit[~new].sum() <= OLD / (1 - OLD) * found.fit[new].sum() + 20


def test_what_was_before_a_regime_that_was_learned_is_not_what_is_normal_now() -> None:
    """Nor is what was named before it was learned, unless the champion that has learned it names it too."""
    flood, p_values = list(range(400, 600)), np.random.default_rng(0).random(1000)
    p_values[400:420] = 1e-4
    rows = window(1000, {VectorFlags.NAMED: flood, VectorFlags.INCIDENT: flood})
    found = select(SETTINGS, rows, p_values, Learned(400, 700))
    assert not found.new and found.regime == 400 and found.learned == Learned(400, 700)
    assert not found.calibrate[:400].any() and not found.gate[:400].any()
    assert found.fit[:400].sum() == pytest.approx(OLD * found.fit.sum(), rel=0.05)
    assert not found.fit[400:420].any() and found.fit[430:600].sum() > 100
    assert not select(SETTINGS, rows, p_values).fit[400:600].any(), "unless a training has learned it"
    assert select(SETTINGS, rows, p_values, Learned(-5, 700)).regime is None, "all of the window is of it"
    assert select(SETTINGS, window(1000), np.where(np.arange(1000) < 500, 0.5, 1e-6), Learned(100, 200)).new, (
        "another one"
    )


def test_after_a_mere_drift_both_sides_weigh_the_same() -> None:
    found = select(SETTINGS, window(1000, drift=800), np.random.default_rng(0).random(1000))
    assert found.regime is None and found.drift == 800
    assert abs(int(found.fit[800:].sum()) - int(found.fit[:800].sum())) <= 2
    assert found.calibrate[:800].any(), "a fifth of the window is too little to set the threshold by"
    assert select(SETTINGS, window(1000, drift=950), None).drift is None, "too few rows since"


def test_an_entity_that_sends_most_does_not_outweigh_the_others() -> None:
    rows = window(10_000)
    entity = np.where(np.arange(10_000) % 100 < 90, 0, np.arange(10_000) % 10 + 1)
    rows = Window(**{**vars(rows), "entity": entity, "entities": tuple(map(str, range(11)))})
    counts = np.bincount(entity[select(SETTINGS, rows, None).fit])
    assert counts[0] < 0.5 * 0.9 * 7500 and (counts[1:][counts[1:] > 0] > 50).all()


def test_an_incident_that_does_not_end_leaves_the_rows_within_budget() -> None:
    for every in (3, 12):
        named = list(range(0, 1000, every))
        found = select(
            SETTINGS, window(1000, {VectorFlags.INCIDENT: list(range(1000)), VectorFlags.NAMED: named}), None
        )
        assert found.fit.sum() > 450 and not found.fit[named].any()


def test_too_few_rows_and_too_many_anomalies_are_told_apart() -> None:
    with pytest.raises(NoModelError, match="99 rows"):
        select(SETTINGS, window(99), None)
    with pytest.raises(NoModelError, match="were published as anomalies"):
        select(SETTINGS, window(1000, {VectorFlags.NAMED: list(range(990))}), None)
