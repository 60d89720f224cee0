"""The registry's view, record by record, and what training tells from records."""

import json
import random

import numpy as np
import pytest

from tests.record_blocks import block_of
from training.data.features import choose
from training.data.window import _EvenSample
from worker.blocks import RecordBlock
from worker.decoding import Decoder
from worker.errors import NoModelError, SettingsError
from worker.registry import RegistryView, artefact_records
from worker.registry.view import MANIFEST_TYPE
from worker.settings import InputSettings


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


def features(values: list[bytes | None], champion: list[str] | None = None, **settings: object) -> tuple[str, ...]:
    return choose(InputSettings(**settings), champion, [block_of(values)])  # type: ignore[arg-type]


def test_features_are_the_champions_else_those_configured_else_those_of_the_data() -> None:
    docs: list[bytes | None] = [json.dumps({"a": i % 3, "b": 0.5, "n": i, "s": "x"}).encode() for i in range(100)]
    docs[7] = json.dumps({"a": 1, "b": 2, "n": 7, "rare": 1}).encode()
    docs[8] = b"broken"
    assert features(docs) == ("a", "b", "n")
    assert features(docs, champion=["p", "q"]) == ("p", "q")
    assert features(docs, features=("a",)) == ("a",)
    assert features(docs, features=2) == ("x0", "x1")
    assert features(docs, champion=["p", "q"], features=2) == ("p", "q")
    assert features(docs, time_field="n") == ("a", "b")
    assert features([b"[1, 2, 3]", b"[[1, 2, 3]]"]) == ("x0", "x1", "x2")


def test_a_clock_among_the_features_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    features([json.dumps({"a": i % 3, "clock": i}).encode() for i in range(50)])
    told = capsys.readouterr()
    assert "feature_suspected" in told.out + told.err and "clock" in told.out + told.err


def test_f32_does_not_tell_its_features() -> None:
    with pytest.raises(SettingsError, match="OFFNORMAL_INPUT__FEATURES"):
        features([b"\0" * 16], format="f32")


@pytest.mark.parametrize("n", [50, 100, 101, 999, 5000])
def test_a_sample_is_even_in_order_and_bounded(n: int) -> None:
    sample, decoder = _EvenSample(100), Decoder(InputSettings(format="f32"), ["a"])
    for begin in range(0, n, 37):
        rows = np.arange(begin, min(begin + 37, n), dtype="<f4")
        block = decoder.decode(block_of([row.tobytes() for row in rows]))
        sample.add((block.x, block.time))
    x = sample.rows(())[0][:, 0]
    assert sample.seen == n
    assert min(n, 50) <= len(x) <= 100
    assert len(set(np.diff(x))) == 1, "the same distance everywhere"
    assert x[0] == 0


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
