"""Makes texts from elsewhere fit to be shown: names of entities, sensors, models and people."""

from typing import Any, Final

MAX_LENGTH: Final = 200  # characters that are shown


def cut(text: Any) -> str:
    """Truncate the text, and drop what JSON cannot encode."""
    clean = str(text).encode("utf-8", "replace").decode()
    return clean if len(clean) <= MAX_LENGTH else clean[: MAX_LENGTH - 1] + "…"
