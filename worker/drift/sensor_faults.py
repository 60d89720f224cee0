"""Detects faulty sensors: readings of one entity that froze, fell silent, or jumped to another unit.

Retraining on such readings would teach the fault, so faults are distinguished from a new operating mode. A frozen
reading does not change at all, though it always did. A silent reading is absent, though it was present. A changed unit
multiplies level and fluctuation by the same factor, or is one of the usual conversions, all at once and in few sensors.
If other sensors have moved as well, the plant runs differently, and a sensor that stands still is a part of that.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from worker.drift.findings import Fault
from worker.drift.summary import Summary
from worker.models.reference import Reference
from worker.native.arrays import Float64s

# The plant has moved if the mean readings of this share of the other features, two at least, are off by a standard
# deviation.
MOVED: Final = 0.2
LASTS: Final = 2  # summaries that a fault must last to be reported, and that it must be absent to be over
HISTORY: Final = 10  # summaries of an entity's past that are needed to tell how long a reading may stand still
_SILENT, _TALKED = 0.05, 0.5  # share of readings
_FAR: Final = 6.0  # standard deviations that a unit moves the mean at least
_LIKE: Final = 0.25  # of the logarithm of a factor
_FACTOR: Final = 4.0  # minimum factor of a change of unit that is no known conversion
# (a, b) of y = a x + b: Celsius, Fahrenheit, kelvin; bar and psi; kPa and psi; inch and mm; pound and kg; m/s and km/h
_CONVERSIONS: Final = [
    *((1.8, 32.0), (1 / 1.8, -32 / 1.8), (1.0, 273.15), (1.0, -273.15)),
    *((a, 0.0) for f in (14.5038, 6.89476, 25.4, 2.20462, 3.6) for a in (f, 1 / f)),
]


@dataclass
class _Feature:
    still: int = 0  # summaries without a change, up to now
    longest: float = 0.0  # of such runs before
    silent: int = 0
    unit: int = 0
    since: int = 0
    fault: Fault | None = None
    sound: int = 0


@dataclass(frozen=True)
class FaultReport:
    """A feature whose fault has begun, goes on, or is over."""

    feature: int
    fault: Fault
    since: int
    over: bool  # no longer
    before: float
    now: float


@dataclass
class SensorWatch:
    """The sensors of one entity.

    `row` is the entity's row of the reference's locations. With None the entity's own first summaries are the
    reference.
    """

    reference: Reference
    row: int | None
    _features: list[_Feature] = field(init=False)
    _seen: int = 0
    _mean: Float64s = field(init=False)
    _deviation: Float64s = field(init=False)

    def __post_init__(self) -> None:
        d = len(self.reference.deviation)
        self._features = [_Feature() for _ in range(d)]
        self._mean, self._deviation = np.full(d, np.nan), np.full(d, np.nan)
        if self.row is not None:
            self._mean = self.reference.location[self.row].copy()
            self._deviation = self.reference.deviation.copy()

    @property
    def faulty(self) -> bool:
        """Return whether any sensor is at fault."""
        return any(feature.fault for feature in self._features)

    @property
    def suspicious(self) -> bool:
        """Return whether a fault may have begun."""
        return any(f.fault or f.unit or f.silent or self._stands_still(j, f) for j, f in enumerate(self._features))

    def take(self, summary: Summary) -> list[FaultReport]:
        """Return the faults that begin, or are over, with this summary."""
        self._seen += 1
        units = self._jumps(summary)
        reports = []
        for j, feature in enumerate(self._features):
            feature.since = feature.since or summary.begin  # the first summary may already show a fault
            is_present = bool(summary.present[j] > _SILENT)
            changed = is_present and bool(summary.high[j] > summary.low[j])
            if feature.fault is None:
                feature.silent = 0 if is_present else feature.silent + 1
                feature.unit = feature.unit + 1 if j in units else 0
                if changed:
                    feature.longest, feature.still = max(feature.longest, feature.still), 0
                elif is_present:
                    feature.still += 1
                fault = self._fault(j, feature)
                if fault is not None and self._plant_moved(j, summary):
                    fault = None
                if not (feature.silent or feature.unit or feature.still):
                    feature.since = summary.end
                if fault is not None:
                    feature.fault, feature.sound = fault, 0
                    reports.append(self._report(j, summary))
                elif changed and not feature.unit and self.row is None:
                    self._learn(j, summary)
            else:
                has_recovered = {"frozen": changed, "silent": is_present, "unit": is_present and j not in units}[
                    feature.fault
                ]
                feature.sound = feature.sound + 1 if has_recovered else 0
                if feature.sound >= LASTS:
                    reports.append(self._report(j, summary, over=True))
                    self._features[j] = _Feature(longest=feature.longest, since=summary.end)
        return reports

    def _report(self, j: int, summary: Summary, over: bool = False) -> FaultReport:
        feature = self._features[j]
        assert feature.fault is not None
        return FaultReport(
            feature=j,
            fault=feature.fault,
            since=feature.since,
            over=over,
            before=float(self._mean[j]),
            now=float(summary.mean[j]),
        )

    def _fault(self, j: int, feature: _Feature) -> Fault | None:
        if feature.silent >= LASTS and self.reference.present[j] > _TALKED:
            return "silent"
        if feature.still > LASTS and self._stands_still(j, feature):
            return "frozen"
        return "unit" if feature.unit >= LASTS else None

    def _plant_moved(self, j: int, summary: Summary) -> bool:
        if self.row is None:
            return False
        off = np.abs(summary.mean - self._mean) > self._deviation
        moved_too = int(off.sum()) - int(off[j])
        return moved_too >= max(2.0, MOVED * len(off))

    def settle(self, reference: Reference) -> list[int]:
        """Continue with another model's reference; return the features that are no longer at fault.

        These are features whose readings also stood still in the training of the new model.
        """
        self.reference = reference
        expected = [
            j for j, f in enumerate(self._features) if f.fault == "frozen" and 3 * reference.still[j] >= f.still
        ]
        for j in expected:
            self._features[j] = _Feature()
        return expected

    def _stands_still(self, j: int, feature: _Feature) -> bool:
        """Return whether the reading has been constant for much longer than ever before, here or in training."""
        longest_seen = feature.longest
        if self.row is not None:
            longest_seen = max(longest_seen, float(self.reference.still[j]))
        elif self._seen - feature.still < HISTORY:
            return False
        return feature.still > 3 * longest_seen

    def _jumps(self, summary: Summary) -> set[int]:
        """Return the features whose readings look like another unit's; none if many do, which is no sensor's fault."""
        jumped = set()
        for j in np.flatnonzero(np.isfinite(self._mean) & np.isfinite(summary.mean)).tolist():
            before, now = (self._mean[j], self._deviation[j]), (summary.mean[j], summary.deviation[j])
            if before[1] > 0 and now[1] > 0 and _is_unit(before, now):
                jumped.add(j)
        return jumped if len(jumped) <= max(1, len(summary.mean) // 10) else set()

    def _learn(self, j: int, summary: Summary) -> None:
        """Learn a feature of an entity that training did not know, which can only be compared with its own past."""
        weight = 1.0 if np.isnan(self._mean[j]) else 0.1
        self._mean[j] = (1 - weight) * np.nan_to_num(self._mean[j]) + weight * summary.mean[j]
        self._deviation[j] = (1 - weight) * np.nan_to_num(self._deviation[j]) + weight * summary.deviation[j]


def _is_unit(before: tuple[float, float], now: tuple[float, float]) -> bool:
    """Return whether a known change of units leads from (mean, deviation) before to those now."""
    (mean, deviation), (new_mean, new_deviation) = before, now
    if abs(new_mean - mean) < _FAR * deviation:
        return False
    wavers = np.log(new_deviation / deviation)
    for a, b in _CONVERSIONS:
        distance = abs(a * mean + b - mean)
        if abs(wavers - np.log(a)) < _LIKE and abs(new_mean - (a * mean + b)) < 0.05 * distance + deviation * a:
            return True
    if mean == 0 or new_mean / mean <= 0 or abs(mean) < 2 * deviation:
        return False
    level = np.log(new_mean / mean)
    return bool(abs(level) > np.log(_FACTOR) and abs(level - wavers) < _LIKE)
