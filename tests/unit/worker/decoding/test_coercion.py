"""Readings that are written as text or as booleans."""

import numpy as np
import pytest

from tests.unit.worker.decoding.test_decoder_edges import NAN, decode, reasons


@pytest.mark.parametrize(
    ("value", "row"),
    [
        (b'{"a": "12.5", "b": "-3"}', [12.5, -3]),
        (b'{"a": "12,5", "b": " 7 "}', [12.5, 7]),
        (b'["1e3", ".5"]', [1000, 0.5]),
        (b'{"a": true, "b": false}', [1, 0]),
        (b'{"a": "", "b": "NaN"}', [NAN, NAN]),
        (b'{"a": "n/a", "b": null}', [NAN, NAN]),
        (b'{"a": 1, "b": 2}', [1, 2]),
    ],
)
def test_with_coerce_text_and_booleans_are_readings(value: bytes, row: list[float]) -> None:
    block = decode([value], coerce=True)
    assert reasons(block) == []
    np.testing.assert_array_equal(block.x, np.array([row], np.float32))


@pytest.mark.parametrize(
    ("value", "reason", "error"),
    [
        (b'{"a": "1.234,5", "b": 2}', "wrong-type", "a: '1.234,5' is no number"),
        (b'{"a": "on", "b": 2}', "wrong-type", "a: 'on' is no number"),
        (b'{"a": [1], "b": 2}', "wrong-type", "a: the reading is no number but list [1]"),
        (b'{"a": "inf", "b": 2}', "infinite", "a: the reading is infinite in float32"),
    ],
)
def test_with_coerce_what_is_no_number_is_still_refused(value: bytes, reason: str, error: str) -> None:
    (reject,) = decode([value], coerce=True).rejects
    assert (reject.reason, reject.error) == (reason, error)
