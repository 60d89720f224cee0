"""When `training serve` tries for a better model by itself."""

import pytest

from tests.models import make_artefact
from training.run.scheduler import BETTER, better_after
from worker.blocks.timestamps import iso

LOOKBACK = 1000.0


@pytest.mark.parametrize(
    ("expected", "calibrated", "span", "again"),
    [
        (1e-3, 3000, 1000, False),  # as asked
        (6e-4, 3000, 1000, False),  # within twice
        (5e-5, 3000, 1000, True),  # of a plant in motion
        (1e-4, 300, 1000, False),  # the plant has no more rows than these
        (1e-4, 300, 500, True),  # and there will be more
    ],
)
def test_a_champion_of_a_cautious_threshold_is_trained_again(
    expected: float, calibrated: int, span: int, again: bool
) -> None:
    card = make_artefact(seed=0).card
    made = card.model_copy(
        update={
            "quality": {"false_alarm_rate": {"asked": 0.001, "expected": expected}},
            "rows": {"calibrated": calibrated},
            "trained_on": {"from": iso(5_000), "to": iso(5_000 + span * 1000)},
        }
    )
    found = better_after(made, LOOKBACK)
    assert found == (5_000 + span * 1000 + int(BETTER * LOOKBACK * 1000) if again else None)
    assert better_after(card.model_copy(update={"trained_on": {}, "quality": {}}), LOOKBACK) is None
