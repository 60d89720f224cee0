"""A lost user: what the help says, and how errors end."""

import json

import pytest

from tests.markdown import ROOT
from training.__main__ import main as training
from worker.__main__ import main as worker
from worker.cli import EXITS
from worker.errors import ArtefactError, KafkaUnavailable, NoModelError, SettingsError
from worker.settings import load, variables


def ends(main: object, *arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))  # type: ignore[operator]
    return int(ended.value.code or 0)


@pytest.mark.parametrize("main", [worker, training])
def test_help_is_where_one_begins(main: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(main, "--help") == 0
    told = capsys.readouterr().out
    for part in ("begin here:", "OFFNORMAL_CONFIG", "--help-settings", "exit codes:", "docs/index.md"):
        assert part in told
    assert told.index("begin here:") < told.index("options:")
    assert (ROOT / "docs/index.md").is_file()
    assert max(len(line) for line in told.splitlines()) <= 120


@pytest.mark.parametrize("main", [worker, training])
def test_the_settings_have_a_help_of_their_own(main: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(main, "--help-settings") == 0
    told = capsys.readouterr().out
    assert all(name in told for name, _ in variables())


def test_the_exit_codes_are_those_of_the_errors() -> None:
    assert {error.exit_code for error in (ArtefactError, KafkaUnavailable, NoModelError, SettingsError)} | {
        0,
        3,
        130,
    } == {*EXITS}


@pytest.mark.parametrize("arguments", [["topcs"], ["topics", "--partitions", "x"], ["label", "ID", "perhaps"]])
def test_wrong_usage_says_where_to_look(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(worker, *arguments) == 2
    told = capsys.readouterr().err
    assert told.rstrip().endswith("--help` shows the usage")
    assert f"{arguments[0]} --help`" in told or "worker --help`" in told


@pytest.mark.parametrize(
    ("name", "value", "then"),
    [
        ("OFFNORMAL_KAFKA__BOOTSTRAPS", "x", "did you mean OFFNORMAL_KAFKA__BOOTSTRAP?"),
        ("OFFNORMAL_QQQ", "x", "`python -m worker --help-settings` lists all settings"),
        ("OFFNORMAL_CONFIG", "/nowhere.yaml", "name a YAML file, or unset it"),
        ("OFFNORMAL_MODEL__ROUTES", "scores", """such as '["a", "b"]' or '{"a": "b"}'"""),
    ],
)
def test_a_wrong_setting_says_what_to_do(name: str, value: str, then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        load()
    told = str(refused.value)
    assert told.startswith(name) and told.endswith(then)
    assert "\n" not in told


def test_a_refused_artefact_says_what_to_do() -> None:
    assert "`python -m training` makes a new one" in str(ArtefactError("the digest is wrong"))
    assert str(ArtefactError("it is too new", "update the workers")) == "it is too new; update the workers"


def test_what_is_suggested_for_json_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFNORMAL_MODEL__ROUTES", "scores")
    with pytest.raises(SettingsError) as refused:
        load()
    shown = str(refused.value).split("'")[1::2]
    assert [json.loads(text) for text in shown] == [["a", "b"], {"a": "b"}]
