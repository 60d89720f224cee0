"""Which features a model has: configured, the champion's, or inferred."""

import json
from collections.abc import Mapping, Sequence

import pytest

from tests.record_blocks import block_of
from training.data import features
from worker.blocks import Headers
from worker.settings import InputSettings

Names = tuple[str, ...]


def choose(
    values: Sequence[bytes | None] = (),
    champion: Names | None = None,
    headers: Mapping[int, Headers] | None = None,
    **settings: object,
) -> Names:
    return features.choose(InputSettings.model_validate(settings), champion, [block_of(values, headers=headers)])


def test_the_champion_tells_first() -> None:
    assert choose([b'{"a": 1}'], ("p", "q")) == ("p", "q")


def test_configured_names_come_before_the_champion() -> None:
    assert choose([b'{"c": 1}'], ("p",), features=("a", "b")) == ("a", "b")


def test_a_change_of_features_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    choose(champion=("p",), features=("a",))
    told = capsys.readouterr()
    assert "features_changed" in told.out + told.err


def test_the_same_names_are_no_change(capsys: pytest.CaptureFixture[str]) -> None:
    choose(champion=("a", "b"), features=("a", "b"))
    told = capsys.readouterr()
    assert "features_changed" not in told.out + told.err


def test_a_count_keeps_the_names_of_a_champion_of_that_width() -> None:
    assert choose(champion=("p", "q"), features=2) == ("p", "q")


def test_another_count_numbers_the_features() -> None:
    assert choose(champion=("p", "q"), features=3) == ("x0", "x1", "x2")
    assert choose(features=1, format="f32") == ("x0",)


def rows(n: int) -> list[bytes | None]:
    """Readings, a clock in ms, and the name of the machine."""
    return [
        json.dumps({"at": 1_795_888_000_000 + 1000 * i, "a": i % 7, "b": -i % 5, "who": 3}).encode() for i in range(n)
    ]


def test_a_clock_among_the_champions_features_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose(rows(50), ("at", "a", "b")) == ("a", "b")
    told = capsys.readouterr()
    assert "time_column_detected" in told.out + told.err
    assert "features_changed" in told.out + told.err


def test_the_fields_of_time_and_entity_leave_the_champions_features() -> None:
    assert choose(rows(5), ("at", "a", "b", "who"), time_field="at", entity_field="who") == ("a", "b")


def test_a_champion_on_the_clock_alone_counts_for_nothing() -> None:
    assert choose(rows(50), ("at",)) == ("a", "b")


def test_configured_names_are_taken_as_they_are() -> None:
    assert choose(rows(50), ("a",), features=("at", "a")) == ("at", "a")


def test_the_champions_features_stay_where_records_have_no_names() -> None:
    assert choose([bytes(8)] * 20, ("p", "q"), format="f32") == ("p", "q")
