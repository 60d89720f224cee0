"""The kinds of numeric columns: readings of sensors, and columns that are none.

A clock, a counter, a constant and an id are numbers, but a model that learns them learns nothing about a machine: a
clock leaves its training range at once. The kind is told by content over time, and by name only for clocks and ids.
"""

import re
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

import numpy as np

from worker.decoding.event_time import FIRST_MS, LAST_MS
from worker.native.arrays import Bools, Float64s, Int64s

ColumnKind = Literal["reading", "time", "counter", "constant", "id"]

HINTS: Final[Mapping[ColumnKind, str]] = {
    "time": "a time is not a feature; OFFNORMAL_INPUT__TIME_FIELD={column} makes it the event time",
    "counter": "a counter only rises, and soon leaves what was learned; send its rate instead",
    "constant": "it has one value only; to watch it all the same, list it in OFFNORMAL_INPUT__FEATURES",
    "id": "an id is not a reading; OFFNORMAL_INPUT__ENTITY_FIELD={column} makes it the entity",
}
MIN_ROWS: Final = 10  # fewer do not show how a column behaves
# From the rises and falls of a column, in time order: the net rise as a share of all change, and the least rises.
_RISES_ONLY: Final = 0.98
_MIN_RISES: Final = 4
_NEAR: Final = 86_400.0  # seconds between a clock and the time of its record
_NEARLY_ALL: Final = 0.95
_STEADY: Final = 0.05  # relative difference of the rates at which a clock goes forward, beside the record's time
_UNITS: Final = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_TIME_NAME: Final = re.compile(
    r"(?:^|[^a-z])(?:ts|timestamp|datetime|epoch|event_?time|record_?time|created_?at|updated_?at)(?:$|[^a-z])"
    r"|^(?:time|date)$"
)
_ID_NAME: Final = re.compile(r"(?:^|[^a-z])(?:id|uuid|guid|serial|seq|sequence|offset)$")
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Column(NamedTuple):
    """A numeric column of the records. `unit` is that of a time: s, ms, us or ns, if it is since the epoch."""

    name: str
    kind: ColumnKind
    unit: str | None = None


def column_of(name: str, values: Float64s, time: Int64s, entity: Int64s) -> Column:
    """Return what the column is.

    `values` [n] are NaN where there is no number, `time` [n] are the times of the records in ms, and `entity` [n]
    their entities by number. Rows of one entity and time are in the order of the log.
    """
    present = np.isfinite(values)
    order = np.lexsort((np.arange(len(values)), time, entity))
    order = order[present[order]]
    values, time, entity = values[order], time[order], entity[order]
    if len(values) < MIN_ROWS:
        return Column(name, "time" if _is_named(_TIME_NAME, name) else "reading")
    rises = _rises(values, entity)
    unit = _epoch_unit(values, time, rises)
    if unit is not None or _is_named(_TIME_NAME, name):
        return Column(name, "time", unit)
    if np.ptp(values) == 0:
        return Column(name, "constant")
    if _is_id(name, values, entity):
        return Column(name, "id")
    if rises:
        return Column(name, "time" if _is_steady(values, time, entity) else "counter")
    return Column(name, "reading")


def is_named_as_time(name: str) -> bool:
    """Return whether a column is called a time: ts, timestamp, created_at, ..."""
    return _is_named(_TIME_NAME, name)


def _is_named(pattern: re.Pattern[str], name: str) -> bool:
    return pattern.search(_CAMEL.sub("_", name).lower()) is not None


def _steps_within(entity: Int64s) -> Bools:
    """Return [n - 1] whether a row and the one before it are of one entity."""
    same: Bools = entity[1:] == entity[:-1]
    return same


def _rises(values: Float64s, entity: Int64s) -> bool:
    """Return whether the values of each entity only rise, up to a little disorder."""
    steps = np.diff(values)[_steps_within(entity)]
    change = np.abs(steps).sum()
    return bool(
        len(steps) >= MIN_ROWS - 1
        and np.count_nonzero(steps > 0) >= min(_MIN_RISES, len(steps))
        and steps.sum() >= _RISES_ONLY * change > 0
    )


def _epoch_unit(values: Float64s, time: Int64s, rises: bool) -> str | None:
    """Return the unit in which the values are times since the epoch; None if they are none.

    A reading may happen to have such a size, so the values also have to rise, or to be near their record's time.
    """
    for unit, per_second in _UNITS.items():
        seconds = values / per_second
        if ((seconds >= FIRST_MS / 1000) & (seconds < LAST_MS / 1000)).all():
            is_near = (np.abs(seconds - time / 1000) <= _NEAR).mean() >= _NEARLY_ALL
            return unit if rises or is_near else None
    return None


def _is_id(name: str, values: Float64s, entity: Int64s) -> bool:
    """Return whether these are whole numbers that are called an id, or that each entity has one of for itself."""
    if (values != np.rint(values)).any():
        return False
    if _is_named(_ID_NAME, name):
        return True
    begins = np.flatnonzero(np.concatenate(([True], ~_steps_within(entity))))
    ends = np.append(begins[1:], len(entity))
    if len(begins) < 2 or (ends - begins).min() < MIN_ROWS:
        return False
    is_fixed = np.maximum.reduceat(values, begins) == np.minimum.reduceat(values, begins)
    return bool(is_fixed.all()) and len(np.unique(values[begins])) == len(begins)


def _is_steady(values: Float64s, time: Int64s, entity: Int64s) -> bool:
    """Return whether a rising column keeps pace with the record's time: an uptime, or seconds since a start."""
    within = _steps_within(entity)
    passed, risen = np.diff(time)[within], np.diff(values)[within]
    rates = risen[passed > 0] / passed[passed > 0]
    if not len(rates) or (usual := np.median(rates)) <= 0:
        return False
    return bool((np.abs(rates - usual) <= _STEADY * usual).mean() >= _NEARLY_ALL)
