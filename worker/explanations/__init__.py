"""The codes of errors, gate refusals and dead letters, each with a paragraph: codes.md."""

import re
from importlib.resources import files


def explanations() -> dict[str, str]:
    """Return each code with its paragraph, in the order of codes.md."""
    text = files("worker.explanations").joinpath("codes.md").read_text(encoding="utf-8")
    _, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    return {code.strip(): body.strip() for code, _, body in (section.partition("\n") for section in sections)}
