"""JSON from columns: numbers come back as they were, texts stay where they belong."""

import json

import numpy as np
import pytest
from hypothesis import given, settings as budget, strategies as st

from worker.blocks import BytesColumn
from worker.blocks.json_template import Integer, Number, Template, Text


def numbers(values: list[float]) -> list[str]:
    column = Template(Number(0)).render(len(values), numbers=[values])
    return [(text or b"").decode() for text in column]


@budget(max_examples=1000, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_a_float32_comes_back_bit_for_bit(values: list[float]) -> None:
    back = np.array([json.loads(text) for text in numbers(values)], np.float32)
    assert (back == np.array(values, np.float32)).all()


@budget(max_examples=500, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_of_a_double_what_float32_holds_is_right(value: float) -> None:
    (text,) = numbers([value])
    assert json.loads(text) == pytest.approx(value, rel=6e-7, abs=1e-307)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"),
        (1, "1.0"),
        (-1.5, "-1.5"),
        (np.float32(0.1), "0.1"),
        (100, "100.0"),
        (123456, "123456.0"),
        (0.00012, "0.00012"),
        (1e-7, "1.0e-7"),
        (2.5e20, "2.5e20"),
        (1e-300, "1.0e-300"),
        (0.99999999999, "1.0"),
        (float("nan"), "null"),
        (float("inf"), "null"),
        (float("-inf"), "null"),
    ],
)
def test_numbers_as_a_person_would_write_them(value: float, text: str) -> None:
    assert numbers([value]) == [text]


@budget(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.text(), st.integers(0, 2**63 - 1), st.floats(-(2.0**99), 2.0**99, width=32)), max_size=8),
    st.text(max_size=5),
)
def test_columns_go_where_the_template_says(rows: list[tuple[str, int, float]], constant: str) -> None:
    texts = BytesColumn.of([json.dumps(text).encode() for text, _, _ in rows])
    template = Template(
        *('{"i":', Integer(0), ',"t":', Text(0), ',"again":', Text(0), ',"n":', Number(0)),
        ',"c":' + json.dumps(constant) + "}",
    )
    made = template.render(len(rows), [texts], [[n for *_, n in rows]], [[i for _, i, _ in rows]])
    assert len(made) == len(rows)
    for told, (text, integer, number) in zip(made, rows, strict=True):
        doc = json.loads(told or b"")
        assert np.float32(doc.pop("n")) == np.float32(number)
        assert doc == {"i": integer, "t": text, "again": text, "c": constant}
