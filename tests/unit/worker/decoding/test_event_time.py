"""Event times of any unit and form, from a field or a header."""

import numpy as np
import pytest

from tests.record_blocks import block_of
from tests.unit.worker.decoding.test_decoder_edges import WHEN, decode
from worker.decoding import Decoder
from worker.decoding.event_time import ms_of_whole, whole_number
from worker.native.jit import compiled
from worker.settings import InputSettings


@pytest.mark.parametrize(
    ("when", "milliseconds"),
    [
        (b"1700000000", WHEN),
        (b"1700000000.25", WHEN + 250),
        (b"1700000000250", WHEN + 250),
        (b"1700000000250.7", WHEN + 250),
        (b"1700000000250999", WHEN + 250),
        (b"1700000000250999.5", WHEN + 250),
        (b"1700000000250999999", WHEN + 250),
        (b"1.7e9", WHEN),
        (b"1.7e18", WHEN),
        (b"631152000", 631_152_000_000),
        (b"4102444799999999999", 4_102_444_799_999),
        (b'"1700000000"', WHEN),
        (b'"1700000000.25"', WHEN + 250),
        (b'"1700000000250999999"', WHEN + 250),
        (b'"2023-11-14 22:13:20 UTC"', WHEN),
        (b'"2023-11-14T22:13:20.000000Z"', WHEN),
        (b'"Tue, 14 Nov 2023 22:13:20 GMT"', WHEN),
        (b'"Tue, 14 Nov 2023 23:13:20 +0100"', WHEN),
        (b'"20231114T221320"', WHEN),
        (b'"2023-11-14T22:13:20"', WHEN),
        (b'"2023-11-14T23:13:20+01:00"', WHEN),
        (b"null", WHEN),
    ],
)
def test_the_time_field_is_the_event_time(when: bytes, milliseconds: int) -> None:
    block = decode([b'{"a": 1, "when": %s}' % when], time_field="when")
    assert block.time.tolist() == [milliseconds]


@pytest.mark.parametrize(
    ("when", "milliseconds"),
    [
        (b'"2023-11-14T23:13:20"', WHEN),
        (b'"Tue, 14 Nov 2023 23:13:20"', WHEN),
        (b'"2023-11-14T22:13:20Z"', WHEN),
        (b"1700000000", WHEN),
    ],
)
def test_a_time_without_an_offset_is_of_the_time_zone(when: bytes, milliseconds: int) -> None:
    for header in (False, True):
        value = b'{"a": 1}' if header else b'{"a": 1, "when": %s}' % when
        headers = {0: [("at", when.strip(b'"'))]} if header else {}
        block = decode([value], time_field="when", time_header="at", timezone="Europe/Berlin", headers=headers)
        assert block.time.tolist() == [milliseconds]


def test_the_time_of_a_record_is_that_of_all_its_rows() -> None:
    block = decode([b"[0, 0]", b'{"values": [[1, 2], [3, 4]], "when": 1700000007}'], time_field="when")
    assert block.time.tolist() == [WHEN, WHEN + 7000, WHEN + 7000]


@pytest.mark.parametrize(
    ("told", "time"),
    [
        (b"1700000000", 1_700_000_000_000),
        (b"1700000000123", 1_700_000_000_123),
        (b"2024-01-01T00:00:00Z", 1704067200000),
    ],
)
def test_the_time_header_is_the_event_time_unless_a_field_says_it(told: bytes, time: int) -> None:
    records = block_of(
        [b'{"a": 1, "b": 2}', b'{"a": 1, "b": 2, "at": 1700000005}', b"[1, 2]"],
        headers={r: [("t", told)] for r in (0, 1)},
    )
    block = Decoder(InputSettings(time_header="t", time_field="at"), ["a", "b"]).decode(records)
    assert block.time.tolist() == [time, WHEN + 5000, records.timestamp[2]]


@pytest.mark.parametrize("told", [b"soon", b"", b"nan", b"-1", b"\xff", b"1e300"])
def test_a_time_header_that_is_no_time_makes_a_dead_letter_of_its_record_alone(told: bytes) -> None:
    records = block_of([b"[1, 2]", b"[3, 4]", None], headers={0: [("t", told)], 2: [("t", told)]})
    block = Decoder(InputSettings(time_header="t"), ["a", "b"]).decode(records)
    assert [(r.record, r.reason) for r in block.rejects] == [(0, "bad-time")]
    assert block.x.tolist() == [[3, 4]]
    assert block.nulls == 1


@compiled
def _compiled(numbers):  # type: ignore[no-untyped-def]
    times = np.empty(len(numbers), np.int64)
    for k in range(len(numbers)):
        times[k] = ms_of_whole(numbers[k])
    return times


def test_the_compiled_loops_take_the_same_numbers_for_times() -> None:
    """Also where a product overflows: -(2**55) seconds had been a time of the year 27 million."""
    rng = np.random.default_rng(0)
    powers = [sign * 2**k + near for k in range(63) for near in (-1, 0, 1) for sign in (-1, 1)]
    random = (rng.integers(-(2**62), 2**62, 20_000) >> rng.integers(0, 62, 20_000)).tolist()
    numbers = [n for n in powers if -(2**63) <= n < 2**63] + random
    assert _compiled(np.array(numbers)).tolist() == [int(whole_number(number)) for number in numbers]
