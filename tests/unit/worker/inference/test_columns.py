"""What a numeric column is, by its content over time."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, strategies as st

from worker.inference.columns import HINTS, column_of

N = 400
BEGIN = 1_795_888_000  # seconds, in November 2026
Values = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def kind(
    values: Values, name: str = "value", machines: int = 1, step: float = 1.0, log_order: str = "time"
) -> tuple[str, str | None]:
    """The kind of a column of `machines` that send one after another; `log_order`: by time, or by partition."""
    rng = np.random.default_rng(3)
    i = np.arange(N)
    seconds, entity = BEGIN + i * step, i % machines
    column = np.asarray(values(seconds, entity, rng), float)
    order = i if log_order == "time" else np.argsort(entity, kind="stable")
    found = column_of(name, column[order], (seconds * 1000).astype(np.int64)[order], entity[order])
    assert found.name == name
    return found.kind, found.unit


UNITS = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("log_order", ["time", "partition"])
@pytest.mark.parametrize("machines", [1, 4])
def test_a_time_since_the_epoch_is_a_clock_in_any_unit(unit: str, log_order: str, machines: int) -> None:
    assert kind(lambda t, *_: t * UNITS[unit], "v", machines, log_order=log_order) == ("time", unit)


@pytest.mark.parametrize("unit", UNITS)
def test_a_clock_that_is_late_and_out_of_order_is_one(unit: str) -> None:
    assert kind(lambda t, _, rng: (t - rng.uniform(0, 600, N)) * UNITS[unit]) == ("time", unit)


def test_old_data_that_is_sent_today_has_a_clock() -> None:
    assert kind(lambda t, *_: (t - 300 * 86400) * 1000) == ("time", "ms")


@pytest.mark.parametrize(
    "name", ["ts", "timestamp", "time", "Date", "eventTime", "source_ts_ms", "created_at", "meta.timestamp", "epoch"]
)
def test_a_column_that_is_named_as_a_time_is_one_whatever_it_holds(name: str) -> None:
    assert kind(lambda t, _, rng: rng.normal(size=N), name)[0] == "time"


@pytest.mark.parametrize(
    "name", ["cycle_time", "responseTime", "run_time", "date_code_temp", "volts", "lights", "temps", "downtime", "atts"]
)
def test_a_duration_or_another_word_is_not_taken_for_a_time(name: str) -> None:
    assert kind(lambda t, _, rng: rng.normal(size=N), name) == ("reading", None)


@pytest.mark.parametrize("log_order", ["time", "partition"])
def test_an_uptime_is_a_clock_and_a_meter_is_a_counter(log_order: str) -> None:
    assert kind(lambda t, *_: t - BEGIN + 77, machines=3, log_order=log_order) == ("time", None)
    used = np.cumsum(np.random.default_rng(0).exponential(size=N) ** 3)
    assert kind(lambda *_: used, machines=3, log_order=log_order) == ("counter", None)
    assert kind(lambda *_: np.floor(used / 40), machines=3, log_order=log_order) == ("counter", None)


def test_counters_of_machines_at_different_heights_are_counters() -> None:
    used = np.cumsum(np.random.default_rng(0).exponential(size=N) ** 3)
    assert kind(lambda t, entity, _: used + 1e6 * entity, machines=4) == ("counter", None)


def test_machines_of_few_rows_each_show_a_counter_together() -> None:
    used = np.cumsum(np.random.default_rng(0).exponential(size=N) ** 3)
    assert kind(lambda *_: used, machines=N // 2) == ("counter", None)


READINGS: dict[str, Values] = {
    "noise": lambda t, _, rng: rng.normal(50, 10, N),
    "a walk": lambda t, _, rng: np.cumsum(rng.normal(size=N)),
    "a rise with noise": lambda t, _, rng: (t - BEGIN) / 10 + rng.normal(0, 5, N),
    "a fall": lambda t, *_: BEGIN - t,
    "a saw": lambda t, *_: (t - BEGIN) % 49,
    "a switch": lambda t, _, rng: rng.integers(0, 2, N),
    "a setpoint that was raised once": lambda t, *_: np.where(t < BEGIN + 200, 5, 6),
    "bytes of memory, as large as a time in s": lambda t, _, rng: 1.79e9 + rng.normal(0, 5e6, N),
    "bytes of a disk, as large as a time in ms": lambda t, _, rng: 1.7e12 + rng.normal(0, 1e9, N),
    "whole numbers": lambda t, _, rng: rng.integers(0, 100, N),
    "mostly missing": lambda t, _, rng: np.where(rng.random(N) < 0.9, np.nan, rng.normal(size=N)),
}


@pytest.mark.parametrize("name", READINGS)
@pytest.mark.parametrize("machines", [1, 3])
def test_a_reading_is_a_reading(name: str, machines: int) -> None:
    assert kind(READINGS[name], machines=machines) == ("reading", None)


def test_one_value_is_a_constant() -> None:
    assert kind(lambda *_: np.full(N, 5.5)) == ("constant", None)
    assert kind(lambda *_: np.full(N, 0), machines=4) == ("constant", None)


@pytest.mark.parametrize("name", ["id", "machine_id", "machineId", "seq", "offset", "serial"])
def test_whole_numbers_that_are_named_as_an_id_are_one(name: str) -> None:
    assert kind(lambda t, _, rng: rng.integers(0, 1000, N), name) == ("id", None)
    assert kind(lambda t, _, rng: rng.normal(size=N), name) == ("reading", None)


def test_a_number_of_its_own_for_each_machine_is_an_id() -> None:
    assert kind(lambda t, entity, _: 17 + 3 * entity, machines=5) == ("id", None)
    assert kind(lambda t, entity, _: 17.5 + 3 * entity, machines=5) == ("reading", None)
    assert kind(lambda t, entity, _: entity % 2, machines=5) == ("reading", None)


def test_nine_rows_tell_nothing_but_by_name() -> None:
    few = np.arange(9)
    assert column_of("v", few.astype(float), few * 1000, np.zeros(9, np.int64)).kind == "reading"
    assert column_of("ts", few.astype(float), few * 1000, np.zeros(9, np.int64)).kind == "time"


@given(st.lists(st.floats(width=64), max_size=40), st.integers(1, 4))
def test_no_column_raises(values: list[float], machines: int) -> None:
    n = len(values)
    found = column_of("v", np.array(values, float), np.arange(n) // 3 * 1000, np.arange(n) % machines)
    assert found.kind in HINTS or found.kind == "reading"
