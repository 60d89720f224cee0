"""The registry's view, record by record, and what training tells from records."""

import json
import random

import pytest

from tests.record_blocks import block_of
from worker.blocks import RecordBlock
from worker.errors import NoModelError
from worker.registry import RegistryView, artefact_records
from worker.registry.view import MANIFEST_TYPE


def records(made: list[tuple[str, bytes | None, list[tuple[str, bytes]]]]) -> RecordBlock:
    headers = {i: h for i, (_, _, h) in enumerate(made) if h}
    return block_of([value for _, value, _ in made], [key.encode() for key, _, _ in made], headers)


def test_parts_count_only_when_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefact_records, "PART_BYTES", 10)
    data = bytes(range(95))
    made = artefact_records.artefact_records("m", "v1", data)
    assert len(made) == 11
    random.Random(0).shuffle(made)
    view = RegistryView("m")
    for one in made[:-1]:
        view.apply(records([one]))
        assert view.versions() == []
        with pytest.raises(NoModelError):
            view.artefact("v1")
    view.apply(records(made[-1:]))
    assert view.artefact("v1") == data
    view.apply(records([("artefact/m/v1/part/3", b"0123456789", [])]))
    assert view.versions() == [], "a part that was tampered with"


def test_tombstones_others_and_garbage() -> None:
    view = RegistryView("m")
    view.apply(records([("artefact/m/v1", b"one", []), ("artefact/other/v2", b"two", [])]))
    view.apply(records([("alias/m/champion", b"{", []), ("alias/m/champion", b"[" * 5000, []), ("x", b"y", [])]))
    view.apply(records([("audit/m/1", b"no json", []), ("artefact/m/v1/part/x", b"", [])]))
    assert (view.versions(), view.champion(), view.history()) == (["v1"], None, [])
    alias = json.dumps({"version": "v1", "who": "a", "when": "b", "why": "c"}).encode()
    view.apply(records([("alias/m/champion", alias, []), ("artefact/m/v1", None, [])]))
    assert (view.versions(), view.champion()) == ([], "v1")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("artefact/m/v9", b'{"parts": 1e999, "sha256": "x"}'),
        (
            "artefact/m/v9",
            b'{"parts": 0, "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}',
        ),
        ("artefact/m/v9/part/" + "9" * 5000, b"x"),
        ("audit/m/" + "9" * 5000, b"{}"),
        ("audit/m/1", b"[]"),
    ],
)
def test_hostile_records_change_nothing(key: str, value: bytes) -> None:
    view = RegistryView("m")
    view.apply(records([("artefact/m/v1", b"one", []), (key, value, [("content-type", MANIFEST_TYPE)])]))
    assert (view.versions(), view.history()) == (["v1"], [])


def test_a_withdrawn_alias_is_gone() -> None:
    alias = json.dumps({"version": "v1", "who": "a", "when": "b", "why": "c"}).encode()
    view = RegistryView("m")
    view.apply(records([("alias/m/champion", alias, []), ("alias/m/champion", None, [])]))
    assert view.champion() is None
