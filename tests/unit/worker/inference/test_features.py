"""Features inferred from records."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.record_blocks import block_of
from worker.blocks import Headers
from worker.errors import NoModelError, SettingsError
from worker.inference import infer
from worker.settings import InputSettings

VARIABLE = "OFFNORMAL_INPUT__FEATURES"
BEGIN = 1_795_888_000
Names = tuple[str, ...]


def choose(
    values: Sequence[bytes | None] = (),
    headers: Mapping[int, Headers] | None = None,
    keys: Sequence[bytes | None] | None = None,
    seconds: Sequence[int] | None = None,
    **settings: object,
) -> Names:
    block = block_of(values, keys, headers)
    times = np.arange(len(values)) if seconds is None else np.array(seconds)
    block = replace(block, timestamp=(BEGIN + times) * 1000)
    return infer(InputSettings.model_validate(settings), [block])


def docs(n: int, **keys: object) -> list[bytes | None]:
    return [json.dumps({k: v(i) if callable(v) else v for k, v in keys.items()}).encode() for i in range(n)]


def press(i: int) -> dict[str, Any]:
    rng = np.random.default_rng(i)
    return {"speed": rng.normal(50, 10), "pressure": rng.normal(20, 2)}


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
    assert choose(docs(20, z=lambda i: i % 3, a=lambda i: -i, m=lambda i: i % 5)) == ("z", "a", "m")


@pytest.mark.parametrize(
    "value",
    [b"[%d, 2, 3]", b"[[%d, 2, 3], [4, 5, 6]]", b'{"values": [%d, 2, 3]}', b'{"values": [[%d, 2, 3]], "id": 1}'],
)
def test_arrays_are_numbered_by_their_length(value: bytes) -> None:
    assert choose([value % (i % 4) for i in range(30)]) == ("x0", "x1", "x2")


def test_named_values_inside_an_object_tell_their_names() -> None:
    assert choose([b'{"values": {"a": 1, "b": 2}, "n": 1}'] * 5) == ("a", "b")


def test_a_few_arrays_of_another_length_do_not_matter_and_many_do() -> None:
    assert choose([b"[%d, 2]" % (i % 4) for i in range(96)] + [b"[1]"] * 4) == ("x0", "x1")
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


@pytest.mark.parametrize("shuffled", [False, True], ids=["in order", "partition by partition"])
def test_a_time_in_the_record_is_told_and_left_out(shuffled: bool, capsys: pytest.CaptureFixture[str]) -> None:
    order = sorted(range(400), key=lambda i: (i % 4, i)) if shuffled else list(range(400))
    values = [json.dumps({"when": (BEGIN + i) * 1000, **press(i)}).encode() for i in order]
    found = choose(values, keys=[b"press-%d" % (i % 4) for i in order], seconds=order)
    assert found == ("speed", "pressure")
    told = capsys.readouterr()
    assert "time_column_detected" in told.out + told.err
    assert "OFFNORMAL_INPUT__TIME_FIELD=when" in told.out + told.err


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("counter", lambda i: i * i),
        ("constant", lambda _: 5),
        ("id", lambda i: (7919 * i) % 1009),
    ],
)
def test_what_is_no_reading_is_told_and_left_out(
    name: str, column: Callable[[int], int], capsys: pytest.CaptureFixture[str]
) -> None:
    key = "order_id" if name == "id" else "other"
    assert choose([json.dumps({key: column(i), **press(i)}).encode() for i in range(100)]) == ("speed", "pressure")
    told = capsys.readouterr()
    assert f"kind={name}" in told.out + told.err or f'"kind": "{name}"' in told.out + told.err
    assert key in told.out + told.err


TELEGRAF = {"fields": press(0), "name": "press", "tags": {"host": "a"}}
DEBEZIUM = {"before": None, "after": press(0), "op": "c"}


@pytest.mark.parametrize(
    ("document", "clock", "per_second", "prefix"),
    [(TELEGRAF, "timestamp", 1, "fields."), (DEBEZIUM, "ts_ms", 1000, "after.")],
    ids=["Telegraf", "Debezium"],
)
def test_fields_of_nested_objects_are_features_by_their_path(
    document: dict[str, Any], clock: str, per_second: int, prefix: str
) -> None:
    values = [
        json.dumps({**document, prefix[:-1]: press(i), clock: (BEGIN + i) * per_second}).encode() for i in range(100)
    ]
    connect = [json.dumps({"schema": {"type": "struct"}, "payload": json.loads(value)}).encode() for value in values]
    for sent in (values, connect):
        assert choose(sent, keys=[b"a", b"b"] * 50) == tuple(prefix + name for name in press(0))
        assert choose(sent, keys=[b"a", b"b"] * 50, values_field=prefix[:-1], time_field=clock) == tuple(press(0))


def test_an_envelope_with_a_clock_is_refused_with_a_sample_and_what_was_passed_over() -> None:
    metrics = [{"name": "speed", "value": 1.5}]
    values = [json.dumps({"timestamp": BEGIN + i, "metrics": metrics}).encode() for i in range(100)]
    with pytest.raises(NoModelError) as refused:
        choose(values, keys=[b"a", b"b"] * 50)
    text = str(refused.value)
    assert "time: timestamp" in text
    assert "arrays of objects: metrics" in text
    assert '"name": "speed"' in text
    assert VARIABLE in text


def test_a_clock_within_arrays_stays_since_arrays_have_no_names(capsys: pytest.CaptureFixture[str]) -> None:
    values = [json.dumps([BEGIN + i, *press(i).values()]).encode() for i in range(100)]
    assert choose(values) == ("x0", "x1", "x2")
    told = capsys.readouterr()
    assert "feature_suspected" in told.out + told.err
    with pytest.raises(NoModelError, match="time: x0"):
        choose([json.dumps([BEGIN + i]).encode() for i in range(100)])


def test_wide_records_make_short_log_lines(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    values = [json.dumps({f"tag{j}": v for j, v in enumerate(rng.normal(size=500))}).encode() for _ in range(20)]
    assert len(choose(values)) == 500
    told = capsys.readouterr()
    assert len(told.out + told.err) < 1000
