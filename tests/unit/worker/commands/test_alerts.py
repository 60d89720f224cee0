"""What `alerts` shows of incidents: a line where something has changed, and which ones are related."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from worker.blocks.timestamps import iso
from worker.commands.alerts import IncidentLines
from worker.commands.related import MOST, Related
from worker.publishing import event_lines
from worker.settings import IncidentSettings, Settings

NOON = 1_700_000_000_000


def incident(number: int, entity: str | None, seconds: float, **changes: Any) -> dict[str, Any]:
    data = {
        "incident": f"t/0/{number}/0",
        "entity": entity,
        "state": "open",
        "severity": "warning",
        "started": iso(NOON + int(seconds * 1000)),
        "latest": iso(NOON + int(seconds * 1000) + 90_000),
        "vectors": 3,
        "peak_p_value": 1e-6,
        "features": [{"name": "flow", "contribution": 0.7}],
        "models": [{"name": "default", "version": "v1"}],
        "notify": True,
    }
    return {"data": data | changes}


def test_updates_are_shown_only_where_something_changed() -> None:
    lines = IncidentLines(Settings())
    told = [
        lines(incident(1, "a", 0, **changes))
        for changes in ({}, {"vectors": 4}, {"severity": "alarm"}, {"vectors": 9, "severity": "alarm"})
    ]
    assert [line is not None for line in told] == [True, False, True, False]
    closed = lines(incident(1, "a", 0, state="closed", severity="alarm", notify=False))
    assert closed is not None and "closed" in closed and "lasted 1.5 m" in closed and "notify" not in closed


def test_a_line_escapes_what_others_have_named() -> None:
    line = event_lines.incident(incident(1, "[red]x", 0), ["[bold]y", "a", "b", "c"])
    assert r"\[red]x" in line and r"\[bold]y" in line and "and 1 more" in line
    assert "\x1b" not in event_lines.incident(incident(1, "press\x1b[2J\u202e", 0), ["\x1b]0;title\x07"])


@pytest.mark.parametrize("name", sorted(incident(1, "a", 0)["data"]))
def test_a_field_that_is_missing_makes_an_error_that_the_view_takes(name: str) -> None:
    event = incident(1, "a", 0)
    del event["data"][name]
    with pytest.raises(KeyError):
        IncidentLines(Settings())(event)


def test_incidents_that_open_together_are_related() -> None:
    related = Related(60)
    assert related.take(incident(1, "a", 0)["data"]) == []
    assert related.take(incident(2, "b", 50)["data"]) == ["a"]
    assert related.take(incident(3, "c", 70)["data"]) == ["b"], "a is 70 s away"
    assert related.take(incident(4, "a", 71)["data"]) == ["c", "b"], "an entity is not related to itself"
    assert related.take(incident(5, None, 1000)["data"]) == []


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 300)), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
def test_neither_updates_nor_the_order_change_who_is_related(opened: list[tuple[str, int]], draw: Any) -> None:
    data = [incident(i, entity, s)["data"] for i, (entity, s) in enumerate(opened)]
    straight, shuffled = Related(60), Related(60)
    mixed = data * 2
    draw.shuffle(mixed)
    for each, target in [*((d, straight) for d in data), *((d, shuffled) for d in mixed)]:
        target.take(each)
    for (entity, s), d in zip(opened, data, strict=True):
        wanted = {other for other, t in opened if abs(s - t) <= 60 and other != entity}
        assert set(straight.take(d)) == set(shuffled.take(d)) == wanted


def test_what_is_remembered_is_bounded() -> None:
    related = Related(IncidentSettings().related)
    for i in range(MOST + 10):
        related._opened[f"x{i}"] = (0.0, "x")
    related.take(incident(1, "a", 0)["data"])
    assert len(related._opened) == MOST
