"""What is found: a drift, or a faulty sensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Fault = Literal["frozen", "silent", "unit"]


class Shift(NamedTuple):
    """A feature's mean reading as training had it and as it is now; `shift` in standard deviations of a reading."""

    name: str
    before: float
    now: float
    shift: float


@dataclass(frozen=True)
class Drift:
    """The plant runs differently from what the model learned.

    `entity` is None where it is everything that the worker sees. `detectors` are those that noticed. `p_value` is the
    mean p-value since (.5 as trained), `over` the share of vectors over budget. `asks` for a training, unless another
    drift of the model just has. Times are event times in ms.
    """

    model: str
    version: str
    entity: str | None
    detectors: Sequence[str]
    since: int
    noticed: int
    p_value: float
    over: float
    features: Sequence[Shift]
    asks: bool = True


@dataclass(frozen=True)
class SensorFault:
    """A sensor that froze, fell silent, or jumped to another unit: no reason to retrain.

    `until` is None while it lasts. `latest` is when it was last seen.
    """

    model: str
    version: str
    partition: int
    entity: str | None
    feature: str
    fault: Fault
    since: int
    latest: int
    until: int | None
    before: float
    now: float | None
