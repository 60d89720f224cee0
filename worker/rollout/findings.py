"""What comes of trials, to be published."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ShadowEvent:
    """A vector that the challenger flags; `named` says whether the champion flags it, too."""

    model: str
    version: str
    champion: str
    id: str  # of the vector
    entity: str | None
    time: int
    score: float
    p_value: float
    threshold: float
    named: bool


@dataclass(frozen=True)
class TakenBack:
    """A champion that a worker has taken back in probation."""

    model: str
    version: str
    back_to: str
    when: int
    figures: dict[str, float]
