"""Readings that are no JSON numbers: numbers written as text, decimal commas, booleans (OFFNORMAL_INPUT__COERCE)."""

import math
import re
from typing import Any, Final

from worker.decoding.dead_letter_reasons import WRONG_TYPE, Refused

_NUMBER: Final = re.compile(r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d+)?")
_MISSING: Final = {"", "nan", "null", "none", "n/a", "na", "-"}
_INFINITE: Final = {"inf": math.inf, "infinity": math.inf, "-inf": -math.inf, "-infinity": -math.inf}
SHOWN: Final = 40  # characters of a value in an error


def coerced(value: Any) -> float | int | None:
    """Return the number that a value stands for, None for a missing reading. Raises Refused."""
    if type(value) is bool:
        return int(value)
    if type(value) is str:
        text = value.strip()
        if _NUMBER.fullmatch(text):
            return float(text.replace(",", "."))
        if text.lower() in _MISSING:
            return None
        if text.lower() in _INFINITE:
            return _INFINITE[text.lower()]
        raise Refused(WRONG_TYPE, f"{value[:SHOWN]!r} is no number")
    number: float | int | None = value
    return number
