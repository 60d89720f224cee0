"""Which features a model has, and the even sample of the training window."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings as budget, strategies as st

from tests.record_blocks import block_of
from training.data import features
from training.data.window import _EvenSample
from worker.blocks import Headers, VectorBlock
from worker.decoding import Decoder
from worker.errors import NoModelError, SettingsError
from worker.settings import InputSettings

VARIABLE = "OFFNORMAL_INPUT__FEATURES"
Names = tuple[str, ...]


def choose(
    values: Sequence[bytes | None] = (),
    champion: Names | None = None,
    headers: Mapping[int, Headers] | None = None,
    **settings: object,
) -> Names:
    return features.choose(InputSettings.model_validate(settings), champion, [block_of(values, headers=headers)])


def docs(n: int, **keys: object) -> list[bytes | None]:
    return [json.dumps({k: v(i) if callable(v) else v for k, v in keys.items()}).encode() for i in range(n)]


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


@pytest.mark.parametrize(("numbers", "features"), [(100, ("a", "b")), (95, ("a", "b")), (94, ("a",))])
def test_a_key_is_a_feature_if_it_holds_a_number_in_nearly_all_rows(numbers: int, features: Names) -> None:
    values = docs(100, a=lambda i: i % 7, b=lambda i: 1.5 + i % 2 if i < numbers else None)
    assert choose(values) == features


@pytest.mark.parametrize("odd", ["text", True, None, [1], {"c": 1}])
def test_a_key_that_holds_no_number_is_no_feature(odd: object) -> None:
    assert choose(docs(20, a=lambda i: i % 2, b=odd)) == ("a",)


def test_the_fields_of_entity_and_time_are_no_features() -> None:
    values = docs(20, a=lambda i: i % 2, at=7, who=3)
    assert choose(values, entity_field="who", time_field="at") == ("a",)


def test_the_features_keep_the_order_of_the_keys() -> None:
    assert choose(docs(20, z=1, a=2, m=3)) == ("z", "a", "m")


@pytest.mark.parametrize(
    "value",
    [b"[1, 2, 3]", b"[[1, 2, 3], [4, 5, 6]]", b'{"values": [1, 2, 3]}', b'{"values": [[1, 2, 3]], "id": 1}'],
)
def test_arrays_are_numbered_by_their_length(value: bytes) -> None:
    assert choose([value] * 30) == ("x0", "x1", "x2")


def test_named_values_inside_an_object_tell_their_names() -> None:
    assert choose([b'{"values": {"a": 1, "b": 2}, "n": 1}'] * 5) == ("a", "b")


def test_a_few_arrays_of_another_length_do_not_matter_and_many_do() -> None:
    assert choose([b"[1, 2]"] * 96 + [b"[1]"] * 4) == ("x0", "x1")
    with pytest.raises(SettingsError, match=f"{VARIABLE}.*different lengths"):
        choose([b"[1, 2]"] * 90 + [b"[1]"] * 10)


def test_what_does_not_parse_is_passed_over() -> None:
    assert choose([b"{", None, b"", *docs(30, a=lambda i: i % 2), b"7"]) == ("a",)


@pytest.mark.parametrize("values", [[], [None], [b"{", b"[1"]])
def test_without_a_record_that_tells_the_variable_is_named(values: list[bytes | None]) -> None:
    with pytest.raises(NoModelError, match=VARIABLE):
        choose(values)


@pytest.mark.parametrize("value", [b'{"a": "x"}', b"{}", b"7", b'"x"'])
def test_without_any_number_the_variable_is_named(value: bytes) -> None:
    with pytest.raises(SettingsError, match=VARIABLE):
        choose([value] * 5)


def test_f32_without_a_count_names_the_variable() -> None:
    with pytest.raises(SettingsError, match=VARIABLE):
        choose([bytes(16)], format="f32")
    with pytest.raises(SettingsError, match=VARIABLE):
        choose([bytes(16)], headers={0: [("content-type", b"application/x-f32")]})


def test_a_header_makes_json_of_a_record_among_f32() -> None:
    assert choose([b"[1, 2]"], headers={0: [("content-type", b"application/json")]}, format="f32") == ("x0", "x1")


RISING = {
    "counter": (lambda i: i, True),
    "slow clock": (lambda i: i // 10, True),
    "constant": (lambda i: 5, False),
    "falling": (lambda i: -i, False),
    "saw": (lambda i: i % 49, False),
    "counter with gaps": (lambda i: i if i % 30 else None, True),
}


@pytest.mark.parametrize("name", RISING)
def test_only_what_only_rises_is_warned_of(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    reading, rises = RISING[name]
    assert "suspect" in choose(docs(50, a=lambda i: i % 3, suspect=reading)), "warned of, not left out"
    told = capsys.readouterr()
    assert ("feature_suspected" in told.out + told.err) == rises


def test_ten_rows_are_too_few_to_call_a_clock(capsys: pytest.CaptureFixture[str]) -> None:
    choose(docs(10, a=lambda i: i))
    told = capsys.readouterr()
    assert "feature_suspected" not in told.out + told.err


def rows(begin: int, end: int) -> VectorBlock:
    data = np.arange(begin, end, dtype="<f4")
    return Decoder(InputSettings(format="f32"), ["a"]).decode(block_of([data.tobytes() or None], time=begin))


@budget(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.lists(st.integers(0, 90), min_size=1, max_size=12))
def test_a_sample_is_bounded_even_and_in_order(limit: int, sizes: list[int]) -> None:
    sample, total = _EvenSample(limit), 0
    for size in sizes:
        block = rows(total, total + size)
        sample.add((block.x, block.time, block.x[:, 0].astype(int) % 3 == 0))
        total += size
    x, times, flags = sample.rows(())
    kept = x[:, 0].astype(int)
    assert sample.seen == total
    assert len(kept) == len(times) == len(flags) <= limit
    assert min(total, max(limit // 2, 1)) <= len(kept)
    assert kept.tolist() == list(range(0, total, sample._stride))
    assert flags.tolist() == (kept % 3 == 0).tolist()


def test_a_sample_below_its_limit_is_everything() -> None:
    sample = _EvenSample(100)
    for begin in (0, 40):
        block = rows(begin, begin + 40)
        sample.add((block.x, block.time, np.ones(40, bool)))
    x, times, flags = sample.rows(())
    assert x[:, 0].tolist() == list(range(80))
    assert times.tolist() == [0] * 40 + [40] * 40
    assert flags.all()


def test_a_sample_of_nothing_is_what_stands_for_nothing() -> None:
    nothing = (np.empty((0, 3)),)
    assert _EvenSample(10).rows(nothing) is nothing
