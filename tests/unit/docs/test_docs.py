"""README, CHANGELOG, CONTRIBUTING and docs/: each link leads somewhere, each block of code is what it says that it is,
and each command, setting and target that is named is there.
"""

import ast
import importlib
import importlib.util
import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.markdown import PAGES, ROOT, Block, anchors, blocks, links, spans
from training.__main__ import parser as training
from worker.__main__ import parser as worker
from worker.decoding import dead_letter_reasons
from worker.observability.metrics import Metrics
from worker.publishing.cloudevents import schema
from worker.settings import CONFIG_FILE, PREFIX, Settings, variables

CHART = ROOT / "deploy/helm/offnormal"
BLOCKS = [block for page in PAGES for block in blocks(page)]
PARSERS = {"worker": worker, "training": training}
LANGUAGES = {"console", "json", "python", "sh", "text", "yaml"}
SETTINGS = {name for name, _ in variables()}
# Beside the settings: the file, and what the tests read.
OTHERS = {CONFIG_FILE, *(PREFIX + name for name in ("TEST_BOOTSTRAP", "TEST_KAFKA_VERSION", "TEST_SCREENSHOTS"))}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def of(*languages: str) -> Any:
    return pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in languages], ids=str)


SOURCES = [file for folder in ("worker", "training", "tests", "docs") for file in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("file", [*SOURCES, *PAGES], ids=lambda file: str(file.relative_to(ROOT)))
def test_the_files_it_names_are_there(file: Path) -> None:
    """By their path from the root; a file of worker/ may name those beside it without one."""
    text = file.read_text()
    tops = r"(?:worker|training|tests|docs|deploy)"
    named = set(re.findall(rf"(?<![\w*/.-])({tops}/(?:[\w-]+/)*[a-z_0-9]+\.py)\b", text))
    assert not [name for name in named if not (ROOT / name).is_file()]
    if file.suffix == ".py" and file.is_relative_to(ROOT / "worker"):
        beside = re.findall(r"(?<![\w*/.-])([a-z_0-9]+\.py)\b", text)
        assert not [name for name in beside if not (file.parent / name).is_file()]


@each_page
def test_its_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"\w+:", link):
            assert re.fullmatch(r"https://[a-z0-9-]+(\.[a-z0-9-]+)+(/[\w./#%~-]*)?", link), link
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{link}: no such file"
        if anchor and target.suffix == ".md" and "\n<!-- " not in target.read_text():  # there the site's build looks
            assert anchor in anchors(target), f"{link}: no such heading"


@each_page
def test_its_blocks_say_what_they_are(page: Path) -> None:
    assert not [f"{block}: {block.language!r}" for block in blocks(page) if block.language not in LANGUAGES]
    assert page.read_text().count("\n```") == 2 * len(blocks(page)), "a block that does not end"


@of("json")
def test_json_is_what_it_looks_like(block: Block) -> None:
    told = json.loads(block.text)
    if "specversion" in told and block.page.name != "your-data.md":  # there are those of others
        name = re.fullmatch(r"offnormal\.([a-z-]+)\.v1", told["type"])
        assert name
        _validate(told, schema(name[1]))  # type: ignore[arg-type]
    elif "verdict" in told:
        _validate(told, schema("label"))
    elif "reason" in told:
        _validate(told, schema("training-request"))


def test_each_event_has_an_example() -> None:
    told = [json.loads(b.text) for b in blocks(ROOT / "docs/events.md") if b.language == "json"]
    types = {each["type"] for each in told if "type" in each}
    assert types == {f"offnormal.{name}.v1" for name in ("anomaly", "incident", "drift", "shadow")}
    kinds = {each["data"].get("kind") for each in told if each.get("type") == "offnormal.drift.v1"}
    assert kinds == {"shift", "sensor", "taken_back"}


@of("yaml")
def test_yaml_is_settings_or_values(block: Block) -> None:
    _check_yaml(block.text)


@of("python")
def test_python_compiles_and_imports_what_there_is(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import):
            assert all(importlib.util.find_spec(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names)


@of("sh", "console")
def test_its_commands_are_there(block: Block) -> None:
    commands = list(block.commands())
    assert commands, "a block of commands without one"
    for words in commands:
        _check(words)
    for text in block.heredocs():
        _check_yaml(text)


@each_page
def test_commands_in_its_text_are_there(page: Path) -> None:
    """They leave out what does not matter there: `python -m worker label ID confirmed|dismissed`."""
    for span in spans(page):
        found = re.search(r"\b(?:python -m |offnormal-)(worker|training)\b(?![.\w/-])(.*)", span)
        if found and found[1] + found[2]:
            _check_words(found[1], found[2])
        for target in re.findall(r"^make ([a-z-]+)", span):
            _check(["make", target])
        if re.match(r"(helm|docker) .*deploy/", span):
            _check(shlex.split(span))
        if found := re.match(r"python -m (tests[\w.]*)", span):
            assert importlib.util.find_spec(found[1]), span


@each_page
def test_the_settings_it_names_are_there(page: Path) -> None:
    text = page.read_text()
    for name in set(re.findall(r"OFFNORMAL_[A-Z0-9_]+", text)):
        there = name in SETTINGS | OTHERS or any(s.startswith(name) for s in SETTINGS if name.endswith("_"))
        assert there, f"{name}: no such setting"
    for tail in set(re.findall(r"`(__[A-Z][A-Z0-9_]*)", text)):
        assert any(name.endswith(tail) for name in SETTINGS), f"{tail}: the end of no setting"


def test_each_reason_of_a_dead_letter_is_told() -> None:
    reasons = {word for name, word in vars(dead_letter_reasons).items() if name.isupper() and isinstance(word, str)}
    told = (ROOT / "docs/events.md").read_text()
    assert not {f"`{reason}`" for reason in reasons if f"`{reason}`" not in told}


@each_page
def test_the_metrics_it_names_are_there(page: Path) -> None:
    there = {sample.name for family in Metrics().registry.collect() for sample in family.samples}
    there |= {family.name + end for family in Metrics().registry.collect() for end in ("", "_total", "_info")}
    for name in set(re.findall(r"`(offnormal_[a-z_]+)", page.read_text())):
        assert name in there, f"{name}: no such metric"


def test_the_readme_has_one_block_of_commands() -> None:
    """tests/integration/test_readme.py runs it."""
    assert [block.language for block in blocks(ROOT / "README.md") if block.language != "json"] == ["sh"]


def test_each_command_and_exit_code_has_its_help() -> None:
    for program, parser in PARSERS.items():
        told = parser().format_help()
        assert "begin here:" in told and "--help-settings" in told and "exit codes:" in told
        for line in told.split("begin here:\n")[1].split("\n\n")[0].splitlines():
            _check(re.split(r" {3,}", line.strip())[0].split())
        assert program in told


def _check(words: list[str]) -> None:
    """A whole command, as somebody would type it."""
    program, *arguments = words
    if program == "python" and arguments[:1] == ["-m"]:
        module, *arguments = arguments[1:]
        if module in PARSERS:
            _parse(module, arguments)
        else:
            assert importlib.util.find_spec(module), words
    elif program in ("python", "docker", "helm", "kubectl"):
        for path in (word for word in arguments if re.match(r"(deploy|docs|tests)/", word)):
            assert (ROOT / path).exists(), f"no such file: {path}"
        if program == "helm" and arguments[0] in ("install", "upgrade", "template"):
            assert any((ROOT / word / "Chart.yaml").is_file() for word in arguments), f"which chart? {words}"
            _validate(_values(arguments), json.loads((CHART / "values.schema.json").read_text()))
        if program == "kubectl" and "--" in arguments:
            _check(arguments[arguments.index("--") + 1 :])
    elif program.startswith("offnormal-"):
        _parse(program.removeprefix("offnormal-"), arguments)
    elif program == "make":
        targets = [word for word in arguments if "=" not in word]
        known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(targets) <= set(known), words


def _parse(program: str, arguments: list[str]) -> None:
    try:
        PARSERS[program]().parse_args(arguments)
    except SystemExit as ended:
        assert not ended.code, f"{program} {arguments}"


def _check_words(program: str, text: str) -> None:
    """Each subcommand and option in the text is one."""
    parser = PARSERS[program]()
    for word in text.split():
        actions = parser._subparsers._group_actions if parser._subparsers else []
        choices: Any = next((action.choices for action in actions if action.choices), {})
        if word.startswith("--"):
            assert word.split("=")[0].rstrip(",;") in parser._option_string_actions, f"{program}{text}: {word}"
        elif choices and re.fullmatch(r"[a-z-]+", word):
            assert word in choices, f"{program}{text}: {word}"
            parser = choices[word]


def _check_yaml(text: str) -> None:
    told = yaml.safe_load(text)
    if "apiVersion" in told:  # for another's operator
        assert told["kind"] and told["metadata"]["name"] and told["spec"]
    elif {"settings", "image", "worker", "networkPolicy"} & set(told):
        _validate(told, json.loads((CHART / "values.schema.json").read_text()))
    else:  # the file that OFFNORMAL_CONFIG names
        if told.get("kafka", {}).pop("password_file", None):
            told["kafka"]["password"] = "of a file"
        Settings(**told)


def _values(arguments: list[str]) -> dict[str, Any]:
    """What `--set a.b=c` makes."""
    values: dict[str, Any] = {}
    for flag, given in zip(arguments, arguments[1:], strict=False):
        if flag == "--set":
            path, _, value = given.partition("=")
            *sections, name = path.split(".")
            within = values
            for section in sections:
                within = within.setdefault(section, {})
            within[name] = yaml.safe_load(value)
    return values


def _validate(told: Any, by: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(by).validate(told)
