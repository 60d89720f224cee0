"""Texts of others: names of entities and sensors, of models and people."""

from typing import Any, Final

LONGEST: Final = 200  # characters that are shown


def cut(text: Any) -> str:
    """As text that JSON can say, no longer than somebody would read."""
    told = str(text).encode("utf-8", "replace").decode()
    return told if len(told) <= LONGEST else told[: LONGEST - 1] + "…"
