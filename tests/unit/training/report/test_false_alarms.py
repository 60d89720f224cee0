"""What a card says of its false-alarm rate, by whichever release it was written."""

import pytest

from training.report.false_alarms import false_alarms_text


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        ({"asked": 1e-3, "promisable": 0.02, "promised": 0.02}, "0.02 (asked: 0.001)"),
        ({"asked": 1e-3, "promisable": 1e-5, "promised": 1e-3}, "0.001"),
        (
            {"asked": 1e-3, "promised": 1e-3, "expected": 1e-3, "at_most": 0.0015, "hours_lacking": 0.0},
            "0.001 expected, with 90% not above 0.0015",
        ),
        (
            {"asked": 1e-4, "promised": 1e-4, "expected": 2e-6, "at_most": 2e-4, "hours_lacking": 31.5},
            "2e-06 expected, with 90% not above 0.0002 (0.0001 asked: 31.5 more hours of data would do)",
        ),
    ],
)
def test_text(rate: dict[str, float], text: str) -> None:
    assert false_alarms_text(rate) == text
