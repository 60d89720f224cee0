"""`training models`, `label`, and errors, with what whoever may write to their topics has put there."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from tests.unit.worker.models.test_artefact import forged
from training.commands import models
from training.run.job import _learned
from worker import cli
from worker.commands import label
from worker.errors import ArtefactError, OffnormalError
from worker.models import Artefact
from worker.registry import AliasRecord, RegistryView
from worker.settings import Settings

HOSTILE = "\x1b]0;PWNED\x07[link=http://evil.example]here[/link][/red]\x9b2J"
OBEYED = ("\x1b", "\x07", "\x9b")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # rich would cut what does not fit


Views = Callable[..., RegistryView]


@pytest.fixture
def view_of(artefact: Artefact) -> Views:
    return lambda *changes: _view(artefact.dump(), changes)


def _view(data: bytes, changes: Sequence[dict[str, Any]]) -> RegistryView:
    """A version for each change of its card: v1, v2, ..."""
    view = RegistryView("default")
    for version, change in zip(("v1", "v2", "v3", "v4"), changes, strict=False):

        def apply(tensors: dict[str, torch.Tensor], card: dict[str, Any], change: dict[str, Any] = change) -> None:
            card.update(change)

        view.artefacts[version] = forged(data, apply)
        view.written[version] = None
    view.aliases["champion"] = AliasRecord(next(iter(view.artefacts)), "w", "t", "y")
    return view


@pytest.mark.parametrize("parent", ["[/red]", HOSTILE])
def test_a_list_shows_text_as_text(view_of: Views, parent: str, capsys: pytest.CaptureFixture[str]) -> None:
    models._list(view_of({"parent": parent}), as_json=False)
    said = capsys.readouterr().out
    assert "[/red]" in said and "v1" in said
    assert not any(each in said for each in OBEYED)
    if parent == HOSTILE:
        assert "[link=http://evil.example]here[/link]" in said and "\N{REPLACEMENT CHARACTER}]0;PWNED" in said


NONSENSE = [
    {"quality": {"held_out_loss": "x"}},
    {"quality": {"threshold": None}},
    {"quality": {"false_alarm_rate": {"asked": "x", "promised": 1}}},
]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_row_that_makes_no_sense_does_not_keep_the_others(
    view_of: Views, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    view = view_of(*NONSENSE, {"parent": "sound"})
    models._list(view, as_json)
    said = capsys.readouterr().out
    assert said.count("damaged") == 0 if as_json else said.count("damaged") == 3
    assert "sound" in said
    if as_json:
        versions = json.loads(said)["versions"]
        assert ["error" in each for each in versions] == [True, True, True, False]


@pytest.mark.parametrize("quality", [{"gate": "x"}, {"gate": {"injected": {"faults": [7]}}}, {"false_alarm_rate": "x"}])
def test_a_comparison_of_nonsense_is_refused_in_words(view_of: Views, quality: dict[str, Any]) -> None:
    view = view_of({"quality": quality}, {})
    with pytest.raises(ArtefactError, match="makes no sense"):
        models._compare(view, ["v1", "v2"], as_json=False)


def test_a_comparison_shows_text_as_text(view_of: Views, capsys: pytest.CaptureFixture[str]) -> None:
    view = view_of({"trained_on": {"why": HOSTILE}, "rows": {HOSTILE: 1}}, {})
    view.artefacts[HOSTILE] = view.artefacts.pop("v2")
    models._compare(view, ["v1", HOSTILE], as_json=False)
    said = capsys.readouterr().out
    assert said.count("[/red]") >= 3 and not any(each in said for each in OBEYED)


def test_a_history_and_a_change_show_text_as_text(view_of: Views, capsys: pytest.CaptureFixture[str]) -> None:
    view = view_of({})
    view.audit[1] = {"what": HOSTILE, "version": HOSTILE, "from": "\ud800", "who": HOSTILE, "when": 7, "why": HOSTILE}
    view.aliases["champion"] = AliasRecord(HOSTILE, "w", "t", "y")
    models._history(view, as_json=False)
    models._changed(view, as_json=False)
    said = capsys.readouterr().out
    assert said.count("PWNED") == 5 and not any(each in said for each in OBEYED)


def test_a_label_shows_text_as_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(label, "require", lambda *_, **__: None)
    monkeypatch.setattr(label, "_incident", lambda *_: {"vectors": 3, "entity": HOSTILE})
    monkeypatch.setattr(label.labels, "write", lambda *_: {})  # type: ignore[attr-defined]

    class Arguments:
        id, verdict, who, note, json = "offnormal.sensors/0/1/0", "dismissed", "w", None, False

    label.run(Settings(), Arguments())  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert "PWNED" in said and not any(each in said for each in OBEYED)


def test_an_error_shows_text_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(_: Settings) -> int:
        raise OffnormalError(f"the registry answers {HOSTILE}")

    assert cli.run(fails) == 1
    said = capsys.readouterr().err
    assert "PWNED" in said and not any(each in said for each in OBEYED) and said.count("\n") == 1


@pytest.mark.parametrize("regime", ["x", 7, [1], [1, 2, 3], {"a": 1}, "ab"])
def test_a_card_without_a_regime_that_makes_sense_tells_of_none(artefact: Artefact, regime: Any) -> None:
    """Else no training would ever replace that champion."""
    assert _learned(artefact.card.model_copy(update={"trained_on": {"regime": regime}})) is None
