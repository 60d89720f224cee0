"""What is found: a drift, or a faulty sensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from worker.blocks import TopicSet

Fault = Literal["frozen", "silent", "unit"]
_SENSOR: Final = "sensor/"
_SENSOR_PARTS: Final = 4  # slashes at least: of a model, a partition, an entity and a feature


def sensor_id(model: str, partition: int | str, entity: str | None, feature: str) -> str:
    """Return the id of a sensor, with which the ids of all of its faults begin; `partition` as it is shown."""
    return f"{_SENSOR}{model}/{partition}/{entity or ''}/{feature}/"


def is_sensor_id(id: object) -> bool:
    """Return whether this may be the id of a sensor's fault, as a label names it."""
    return isinstance(id, str) and id.startswith(_SENSOR) and id.count("/") >= _SENSOR_PARTS


class Shift(NamedTuple):
    """A feature's mean reading as training had it and as it is now; `shift` in standard deviations of a reading."""

    name: str
    before: float
    now: float
    shift: float


@dataclass(frozen=True)
class Drift:
    """The plant runs differently from what the model learned.

    `entity` is None for a drift of everything that the worker sees. `detectors` are those that have detected it.
    `p_value` is the mean p-value since then (.5 as trained), and `over` the share of vectors over budget. `asks` says
    that the drift requests a training, which it does unless another drift of the model has recently done so. Times are
    event times in ms.
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

    `partition` is its number among those of all `topics`. `until` is None while it lasts. `latest` is when it
    was last seen.
    """

    model: str
    version: str
    topics: TopicSet
    partition: int
    entity: str | None
    feature: str
    fault: Fault
    since: int
    latest: int
    until: int | None
    before: float
    now: float | None

    @property
    def id(self) -> str:
        """Return the fault's id, by which a person may label it."""
        shown = self.topics.shown(self.partition)
        return f"{sensor_id(self.model, shown, self.entity, self.feature)}{self.since}"
