"""What a model card says of its false-alarm rate, in words."""

from collections.abc import Mapping
from typing import Any

from worker.models.calibration import SURELY


def false_alarms_text(rate: Mapping[str, Any]) -> str:
    """Return in words what a card says under `quality.false_alarm_rate`.

    Cards of earlier releases have a promised rate, which may be higher than the one that was asked for.
    """
    if "expected" not in rate:
        promised, asked = rate["promised"], rate["asked"]
        return f"{promised:.2g}" + (f" (asked: {asked:.2g})" if promised > asked else "")
    text = f"{rate['expected']:.2g} expected, with {SURELY:.0%} not above {rate['at_most']:.2g}"
    if rate["hours_lacking"]:
        text += f" ({rate['asked']:.2g} asked: {rate['hours_lacking']:,.1f} more hours of data would do)"
    return text
