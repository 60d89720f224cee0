"""Every code has a paragraph, and every paragraph is of a code that something says."""

import re
from pathlib import Path

import pytest

from worker import errors
from worker.__main__ import main
from worker.decoding import dead_letter_reasons
from worker.explanations import explanations

ROOT = Path(__file__).parents[3]
GATE = set(re.findall(r"\[(gate-[a-z-]+)\]", "".join(f.read_text() for f in (ROOT / "training").rglob("*.py"))))
ERRORS = {error.code for error in vars(errors).values() if isinstance(error, type)}  # type: ignore[attr-defined]
REASONS = {word for name, word in vars(dead_letter_reasons).items() if name.isupper()}


def test_each_code_is_explained_and_nothing_else() -> None:
    assert len(GATE) == 6
    assert set(explanations()) == GATE | ERRORS | REASONS


@pytest.mark.parametrize("code", explanations())
def test_a_paragraph_says_something(code: str) -> None:
    assert re.fullmatch(r"[a-z][a-z-]+", code)
    assert 60 < len(explanations()[code]) < 800


def test_a_code_is_explained_though_a_setting_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OFFNORMAL_KAFKA__GROPU", "x")
    assert main(["topics"]) == 2
    assert capsys.readouterr().err.rstrip().endswith("[settings]")
    assert main(["explain", "settings"]) == 0
    assert capsys.readouterr().out.strip() == explanations()["settings"]
    assert main(["explain"]) == 0
    assert capsys.readouterr().out.split() == list(explanations())
    assert main(["explain", "unheard-of"]) == 2
    assert "no such code" in capsys.readouterr().err
