"""The registry's view, further: artefacts in parts and in any order, tombstones, aliases, history, and noise."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings as budget, strategies as st

from tests.record_blocks import block_of
from worker.blocks import RecordBlock
from worker.errors import ArtefactError, NoModelError
from worker.models import Artefact
from worker.registry import PART_BYTES, AliasRecord, RegistryView
from worker.registry.artefact_records import artefact_records

Record = tuple[str, bytes | None, list[tuple[str, bytes]]]
MANIFEST = [("content-type", b"application/vnd.offnormal.manifest+json")]
LARGE = bytes(range(256)) * (PART_BYTES * 5 // 512) + b"end"


def block(*records: Record) -> RecordBlock:
    headers = {i: record[2] for i, record in enumerate(records) if record[2]}
    return block_of([value for _, value, _ in records], [key.encode() for key, _, _ in records], headers)


def view_of(*records: Record) -> RegistryView:
    view = RegistryView("m")
    view.apply(block(*records))
    return view


def doc(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def alias(version: str, which: str = "champion", name: str = "m") -> Record:
    return f"alias/{name}/{which}", doc(version=version, who="w", when="t", why="y"), []


def manifest(parts: object, data: bytes) -> Record:
    return "artefact/m/v1", doc(parts=parts, sha256=hashlib.sha256(data).hexdigest()), MANIFEST


def test_a_small_artefact_is_one_record() -> None:
    records = artefact_records("m", "v1", b"small")
    assert [(key, value) for key, value, _ in records] == [("artefact/m/v1", b"small")]
    assert view_of(*records).artefact("v1") == b"small"


def test_an_artefact_at_the_limit_is_still_one_record() -> None:
    assert len(artefact_records("m", "v1", bytes(PART_BYTES))) == 1
    assert len(artefact_records("m", "v1", bytes(PART_BYTES + 1))) == 3


def test_no_part_is_larger_than_a_broker_takes_and_the_manifest_comes_last() -> None:
    records = artefact_records("m", "v1", LARGE)
    assert all(value is not None and len(value) <= PART_BYTES for _, value, _ in records)
    assert [key.rsplit("/", 1)[-1] for key, _, _ in records] == ["0", "1", "2", "v1"]


@budget(max_examples=24, deadline=None)
@given(st.permutations(range(4)))
def test_parts_in_any_order_count_only_when_whole(order: list[int]) -> None:
    records, view = artefact_records("m", "v1", LARGE), RegistryView("m")
    for i in order[:-1]:
        view.apply(block(records[i]))
        assert view.versions() == []
        with pytest.raises(NoModelError, match="m/v1"):
            view.artefact("v1")
    view.apply(block(records[order[-1]]))
    assert view.versions() == ["v1"]
    assert view.artefact("v1") == LARGE


@pytest.mark.parametrize("lost", range(4))
def test_each_record_of_an_artefact_in_parts_is_needed(lost: int) -> None:
    records = artefact_records("m", "v1", LARGE)
    gone = [(records[lost][0], None, [])]
    assert view_of(*records, *gone).versions() == []


def test_parts_that_do_not_give_the_digest_do_not_count() -> None:
    *parts, last = artefact_records("m", "v1", LARGE)
    assert view_of(parts[1], parts[0], ("artefact/m/v1/part/2", b"other", []), last).versions() == []


def test_a_part_rewritten_as_it_was_counts_again() -> None:
    records = artefact_records("m", "v1", LARGE)
    view = view_of(*records, ("artefact/m/v1/part/1", b"damaged", []))
    assert view.versions() == []
    view.apply(block(records[1]))
    assert view.artefact("v1") == LARGE


def test_a_tombstone_removes_an_artefact_and_its_version() -> None:
    view = view_of(
        *artefact_records("m", "v1", b"one"), *artefact_records("m", "v2", b"two"), ("artefact/m/v1", None, [])
    )
    assert view.versions() == ["v2"]
    with pytest.raises(NoModelError):
        view.artefact("v1")


def test_an_artefact_may_come_again_after_its_tombstone() -> None:
    tombstone: Record = ("artefact/m/v1", None, [])
    assert (
        view_of(*artefact_records("m", "v1", b"one"), tombstone, *artefact_records("m", "v1", b"new")).artefact("v1")
        == b"new"
    )


def test_a_whole_artefact_takes_the_place_of_one_in_parts() -> None:
    view = view_of(*artefact_records("m", "v1", LARGE), *artefact_records("m", "v1", b"small"))
    assert (view.versions(), view.artefact("v1")) == (["v1"], b"small")


def test_versions_come_in_the_order_in_which_they_were_written_whatever_the_clocks_said() -> None:
    large = artefact_records("m", "20260102T000000-a", LARGE)
    rest = [*artefact_records("m", "20260103T000000-b", b"3"), *artefact_records("m", "20260101T000000-c", b"1")]
    view = view_of(*rest, *large)
    assert view.versions() == ["20260103T000000-b", "20260101T000000-c", "20260102T000000-a"]
    view.apply(block(*artefact_records("m", "20260103T000000-b", b"written anew")))
    assert view.versions() == ["20260101T000000-c", "20260102T000000-a", "20260103T000000-b"]


def test_records_of_other_models_change_nothing() -> None:
    noise = [*artefact_records("other", "v2", b"two"), alias("v2", name="other"), ("audit/other/1", b"{}", [])]
    assert view_of(*noise, *artefact_records("mm", "v3", LARGE)) == RegistryView("m")


@pytest.mark.parametrize(
    "record",
    [
        ("", b"x", []),
        ("artefact", b"x", []),
        ("artefact/m", b"x", []),
        ("unknown/m/v1", b"x", []),
        ("artefact/m/v9/part", b"x", []),
        ("artefact/m/v9/parts/1", b"x", []),
        ("artefact/m/v9/part/-1", b"x", []),
        ("artefact/m/v9/part/1/2", b"x", []),
        ("artefact/m/v9", b"no json", MANIFEST),
        ("artefact/m/v9", b"[1]", MANIFEST),
        ("artefact/m/v9", b'{"parts": "many", "sha256": "x"}', MANIFEST),
        ("artefact/m/v9", b'{"parts": 1}', MANIFEST),
        ("artefact/m/v9", b'{"parts": 1000000000000, "sha256": "x"}', MANIFEST),
        ("alias/m/champion", b"", []),
        ("alias/m/champion", b"null", []),
        ("alias/m/champion", b'"v2"', []),
        ("alias/m/champion", b'{"version": "v2"}', []),
        ("alias/m/champion/x", b'{"version": "v2", "who": "", "when": "", "why": ""}', []),
        ("audit/m/first", b"{}", []),
        ("audit/m/7", None, []),
        ("audit/m/7", b"\xff", []),
        ("audit/m/7", b"3", []),
    ],
)
def test_garbage_changes_nothing_that_is_read(record: Record) -> None:
    view = view_of(*artefact_records("m", "v1", b"one"), alias("v1"), ("audit/m/1", doc(version="v1"), []))
    view.apply(block(record))
    assert (view.versions(), view.champion(), view.history()) == (["v1"], "v1", [{"version": "v1"}])


@budget(max_examples=100, deadline=None)
@given(
    st.sampled_from(["artefact/m/v1", "artefact/m/v1/part/0", "alias/m/champion", "audit/m/1"]),
    st.one_of(st.none(), st.binary(max_size=30), st.from_regex(rb'\A\{"(parts|version)": [0-9"\[\{]{0,5}\}\Z')),
    st.sampled_from([[], MANIFEST, [("content-type", b"")]]),
)
def test_no_record_makes_the_view_fail(key: str, value: bytes | None, headers: list[tuple[str, bytes]]) -> None:
    view = view_of((key, value, headers), *artefact_records("m", "v2", b"two"))
    assert view.versions()[-1] == "v2"


def test_keys_that_are_no_text_or_absent_change_nothing() -> None:
    view = RegistryView("m")
    view.apply(block_of([b"x", b"y", None], [None, b"artefact/\xff/v1", None]))
    assert view == RegistryView("m")


def test_the_last_alias_counts_and_each_alias_is_its_own() -> None:
    view = view_of(alias("v1"), alias("v2", "challenger"), alias("v3"))
    assert view.champion() == "v3"
    assert view.aliases["challenger"] == AliasRecord("v2", "w", "t", "y")


def test_without_an_alias_there_is_no_champion() -> None:
    assert view_of(*artefact_records("m", "v1", b"one"), alias("v1", "challenger")).champion() is None


def test_history_is_in_the_order_of_its_numbers_not_of_its_letters() -> None:
    view = view_of(*((f"audit/m/{i}", doc(version=f"v{i}"), []) for i in (10, 2, 9, 100, 1)))
    assert [entry["version"] for entry in view.history()] == ["v1", "v2", "v9", "v10", "v100"]


def test_an_alias_survives_the_tombstone_of_its_artefact() -> None:
    view = view_of(*artefact_records("m", "v1", b"one"), alias("v1"), ("artefact/m/v1", None, []))
    assert view.champion() == "v1"
    with pytest.raises(NoModelError):
        view.card("v1")


def test_a_real_artefact_gives_its_card(artefact: Artefact) -> None:
    view = view_of(*artefact_records("m", "v1", artefact.dump()), *artefact_records("m", "v2", b"garbage"))
    assert view.card("v1") == artefact.card
    with pytest.raises(ArtefactError):
        view.card("v2")


@budget(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 7), unique=True, min_size=8, max_size=8), st.integers(1, 8))
def test_the_view_does_not_depend_on_how_records_are_cut_into_blocks(order: list[int], size: int) -> None:
    made = [
        *artefact_records("m", "v1", LARGE),
        *artefact_records("m", "v2", b"2"),
        alias("v1"),
        alias("v2"),
        ("audit/m/1", b"{}", []),
    ]
    shuffled, view = [made[i] for i in order], RegistryView("m")
    for begin in range(0, len(shuffled), size):
        view.apply(block(*shuffled[begin : begin + size]))
    assert view == view_of(*shuffled)
