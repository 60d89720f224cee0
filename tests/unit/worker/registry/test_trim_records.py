"""Trim records: what is written is read back, and whatever else lies under such a key is told and left out."""

import json
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from worker.blocks import BytesColumn, RecordBlock, TopicSet
from worker.blocks.entity_hash import hashes
from worker.models import ModelCard
from worker.models.trim import PlacedTrims, Trim
from worker.registry import RegistryView
from worker.registry.trim_records import MOST_BYTES, is_own, kept, place_of, read_trims, trim_key, trim_value
from worker.registry.view import signed
from worker.settings import KafkaSettings, Settings, TopicSettings

FEATURES = ("a", "b")
PLACE, OTHER = "g/t/0", "g/t/1"
KEY = SecretStr("a key of some length")
CARD = ModelCard(
    name="m",
    version="v1",
    kind="stacked",
    architecture={},
    features=FEATURES,
    created="2026-11-24T21:31:11Z",
    rows={},
    trained_on={},
    quality={},
    seed=0,
)
TRIM = Trim(np.array([0.5, -2], np.float32), np.array([0, 0.25], np.float32), np.array([False, True]))
Record = tuple[str, bytes | None, list[tuple[str, bytes]]]


def value(trims: dict[int, Trim]) -> bytes:
    placed = PlacedTrims(trims, (), {3: "press"})
    return trim_value("v1", PLACE, "w", "2026-11-24T21:31:11Z", placed, FEATURES)[0]


def folded(*records: Record, key: SecretStr | None = None) -> RegistryView:
    view = RegistryView("m", key)
    fold(view, *records)
    return view


def fold(view: RegistryView, *records: Record) -> None:
    n = len(records)
    index = np.arange(n)
    keys = BytesColumn.of([name.encode() for name, _, _ in records])
    values = BytesColumn.of([of_record for _, of_record, _ in records])
    headers = {i: of_record for i, (_, _, of_record) in enumerate(records) if of_record}
    view.apply(RecordBlock(TopicSet.of("models"), np.zeros(n, np.int64), index + 10, index, keys, values, headers))


def test_what_is_written_is_read_back() -> None:
    (entity,) = hashes(folded_block(), folded_block().keys).tolist()
    found, names = read_trims(value({3: TRIM, entity: Trim.none(2, 2)}), 2, FEATURES)
    assert set(found) == {3, entity} and names == {3: "press", entity: None}
    for name in ("shift", "looseness", "ignored"):
        np.testing.assert_array_equal(getattr(found[3], name), getattr(TRIM, name))


def folded_block() -> RecordBlock:
    one = np.zeros(1, np.int64)
    return RecordBlock(TopicSet.of("t"), one, one, one, BytesColumn.of([b"k"]), BytesColumn.of([b""]), {})


@pytest.mark.parametrize(
    "change",
    [
        {"shift": "AAAA"},
        {"shift": "no base64!"},
        {"shift": None},
        {"looseness": "AACAvwAAgL8="},  # -1
        {"shift": "AADAfwAAAAA="},  # NaN
        {"shift": "AACAfwAAAAA="},  # infinite
        {"ignored": 5},
    ],
)
def test_what_is_no_trim_is_told(change: dict[str, Any]) -> None:
    document = json.loads(value({3: TRIM}))
    document["entities"][f"{3:016x}"] |= change
    with pytest.raises(ValueError, match="."):
        read_trims(json.dumps(document).encode(), 2, FEATURES)


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{}", b'{"entities": []}', b'{"entities": {"xyz": {}}}', b'{"entities": {"-1": {}}}', b"[" * 10**5],
)
def test_a_value_that_is_something_else_is_told(text: bytes) -> None:
    with pytest.raises(ValueError, match="."):
        read_trims(text, 2, FEATURES)
    view = folded(("trim/m/v1/g/t/0/5", text, []))
    assert view.placed_trims(CARD)[PLACE].trims == {}


def test_the_last_record_of_a_partition_holds_and_an_old_one_is_not_brought_back() -> None:
    first, second = (trim_key("m", "v1", PLACE, n) for n in (4, 5))
    other = trim_key("m", "v1", OTHER, 1)
    records = [(first, value({3: TRIM}), []), (second, value({9: TRIM}), []), (other, value({1: TRIM}), [])]
    for replayed in ([], records[:1]):
        view = folded(*records, *replayed)
        placed = view.placed_trims(CARD)
        assert {place: set(trims.trims) for place, trims in placed.items()} == {PLACE: {9}, OTHER: {1}}
        assert placed[PLACE].written == (4, 5)
        assert view.last_trim("v1") == 12 and view.last_trim("v2") == 0
        assert view.last_trim("v1", lambda place: place == PLACE) == 11
        assert set(view.placed_trims(CARD, lambda place: place == OTHER)) == {OTHER}


def test_what_cannot_be_read_leaves_what_was_read_before() -> None:
    first, second = (trim_key("m", "v1", PLACE, n) for n in (4, 5))
    view = folded((first, value({3: TRIM}), []))
    assert set(view.placed_trims(CARD)[PLACE].trims) == {3}
    fold(view, (second, b"nonsense", []))
    for _ in range(2):
        placed = view.placed_trims(CARD)[PLACE]
        assert set(placed.trims) == {3} and placed.written == (4, 5)


def test_trims_of_other_groups_and_topics_are_not_ones_own() -> None:
    settings = Settings(kafka=KafkaSettings(group="a"), topics=TopicSettings(sensors="^t.*"))
    assert is_own(settings, place_of("a", "t1", 0))
    assert not is_own(settings, place_of("b", "t1", 0)) and not is_own(settings, place_of("a", "u", 0))


def test_a_record_has_no_more_entities_than_it_has_room_for() -> None:
    many = PlacedTrims({k + 1: Trim.none(200, 2) for k in range(1000)}, (), dict.fromkeys(range(1000), "é" * 1000))
    text, written = trim_value("v1", PLACE, "w", "now", many, FEATURES)
    assert len(text) <= MOST_BYTES and list(written.trims) == list(range(1, len(written.trims) + 1))
    assert 200 < len(written.trims) < 1000
    assert set(read_trims(text, 200, FEATURES)[0]) == set(written.trims)
    assert kept(len(text)) == 11 and kept(100) == 200 and kept(10**8) == 5


def test_a_tombstone_takes_a_record_out() -> None:
    first, second = (trim_key("m", "v1", PLACE, n) for n in (4, 5))
    view = folded((first, value({3: TRIM}), []), (second, value({9: TRIM}), []), (first, None, []))
    assert view.placed_trims(CARD)[PLACE].written == (5,)
    gone = folded((first, value({3: TRIM}), []), (first, None, []))
    assert gone.placed_trims(CARD) == {} and not gone.trims


@pytest.mark.parametrize(
    "key", ["trim/m/v1", "trim/m/v1/g/t/0/x", "trim/m/v1/g/t/0/5/6", f"trim/m/v1/g/t/0/{'9' * 40}"]
)
def test_a_malformed_key_changes_nothing(key: str) -> None:
    view = folded((key, value({3: TRIM}), []))
    assert view.placed_trims(CARD) == {} and view.last_trim("v1") == 0


def test_with_a_key_only_signed_ones_count() -> None:
    key, of_record = trim_key("m", "v1", PLACE, 5), value({3: TRIM})
    assert folded((key, of_record, signed(KEY, key, of_record)), key=KEY).last_trim("v1") == 10
    elsewhere = trim_key("m", "v1", PLACE, 6)
    for headers in ([], signed(KEY, elsewhere, of_record), signed(SecretStr("another, as long"), key, of_record)):
        assert folded((key, of_record, headers), key=KEY).placed_trims(CARD) == {}
