"""Records that parse and do not fit: how many there are, and that they are told once a minute."""

import json
from typing import Any

import numpy as np
import pytest

from tests.record_blocks import block_of
from worker.decoding import Decoder
from worker.runtime import field_check
from worker.runtime.field_check import FieldCheck
from worker.settings import InputSettings


def take(check: FieldCheck, settings: InputSettings, *documents: Any) -> dict[str, int]:
    decoder = Decoder(settings, ("a", "b"))
    block = decoder.decode(
        block_of([each if isinstance(each, bytes) else json.dumps(each).encode() for each in documents])
    )
    return dict(check.take(block, np.isnan(block.x).all(axis=1), decoder))  # type: ignore[arg-type]


FINE = {"a": 1, "b": 2, "who": "x", "at": 1_700_000_000}


@pytest.mark.parametrize(
    ("documents", "counts"),
    [
        ([FINE], {}),
        ([FINE, {"c": 1, "who": "x", "at": 1_700_000_000}], {"no-feature": 1}),
        ([FINE, {"a": 1, "at": 1_700_000_000}], {"no-entity-field": 1}),
        ([FINE, {"a": 1, "who": "x"}], {"no-time-field": 1}),
        ([{}, {}], {"no-feature": 2, "no-entity-field": 2, "no-time-field": 2}),
        ([b"{", b"no"], {}),
        ([], {}),
    ],
)
def test_each_kind_is_counted(documents: list[Any], counts: dict[str, int]) -> None:
    settings = InputSettings(entity_field="who", time_field="at")
    assert take(FieldCheck(settings), settings, *documents) == counts


def test_fields_that_are_not_set_are_not_missed() -> None:
    settings = InputSettings()
    assert take(FieldCheck(settings), settings, {"a": 1}) == {}


def test_it_is_told_once_a_minute_with_all_since(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(field_check.time, "monotonic", lambda: now[0])  # type: ignore[attr-defined]
    settings = InputSettings()
    check = FieldCheck(settings)
    for seconds in (0, 30, 59, 60):
        now[0] = 100.0 + seconds
        take(check, settings, {"fields": {"a": 1}, "tags": {}})
    lines = [line for line in (capsys.readouterr().out).splitlines() if "records_unmatched" in line]
    assert len(lines) == 2
    assert "records=1" in lines[0] and "records=3" in lines[1]
    assert all("['fields.a', 'tags']" in line for line in lines)


def test_single_readings_are_told_only_if_none_is_of_a_feature_for_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(field_check.time, "monotonic", lambda: now[0])  # type: ignore[attr-defined]
    settings = InputSettings.model_validate({"shape": "readings", "step": "1s"})
    check, decoder = FieldCheck(settings), Decoder(settings, ("a", "b"))
    records = block_of([json.dumps({"tag": tag, "value": 1}).encode() for tag in ("c", "d", "c")])
    assert check.take_readings(records, 3, 2, decoder) == {}
    assert check.take_readings(records, 0, 0, decoder) == {}
    now[0] += 59
    assert check.take_readings(records, 3, 3, decoder) == {"no-feature": 3}
    assert not capsys.readouterr().out
    now[0] += 1
    assert check.take_readings(records, 3, 3, decoder) == {"no-feature": 3}
    assert "tags=['c', 'd']" in capsys.readouterr().out
