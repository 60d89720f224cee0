"""Log events are names that can be searched for: constant, a noun and a verb in the past."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "docs/site"))

import logs_table  # type: ignore[import-not-found]  # noqa: E402

CALLS = list(logs_table.calls())
# What a name ends with, where it is not a verb in -ed.
PAST = {"lost", "begun", "made", "shown", "written", "read", "chosen", "rebuilt", "redone", "exc_info"}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.file}:{call.line}")
def test_an_event_is_a_constant_name_with_its_verb_in_the_past(call: logs_table.LogCall) -> None:
    assert call.event is not None, "made of parts: nobody finds it by searching"
    *noun, verb = call.event.split("_")
    assert noun and re.fullmatch(r"[a-z]+(_[a-z]+)+", call.event)
    assert verb.endswith("ed") or verb in PAST


def test_the_table_has_each_event_once() -> None:
    rows = logs_table.of("").splitlines()[2:]
    assert len(rows) == len({call.event for call in CALLS}) > 60
    assert any(row.startswith("| `model_swapped` | info | `model`,") for row in rows)
