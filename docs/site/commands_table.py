"""The command lines as sections and tables: what the parsers of worker and training say."""

import argparse
import importlib
import re
from collections.abc import Iterator
from typing import Final

from worker.cli import EXITS

PROGRAMS: Final = ("worker", "training")
SHARED: Final = ("-h", "--version", "--completion", "--help-settings")  # said once, in the page


def of(program: str) -> str:
    """`worker` or `training`: a section of each command."""
    parser = importlib.import_module(f"{program}.__main__").parser()
    parts = [part for name, each in walk(parser, f"python -m {program}") for part in _section(name, each)]
    return "\n\n".join(parts)


def exits(_: str = "") -> str:
    return "\n".join(["| code | |", "|---|---|", *(f"| {code} | {_sentence(told)} |" for code, told in EXITS.items())])


def walk(
    parser: argparse.ArgumentParser, name: str, told: str = ""
) -> Iterator[tuple[tuple[str, str], argparse.ArgumentParser]]:
    """Each command's name with what it is for, and its parser; the program itself first."""
    yield (name, told or (parser.description or "").split("\n\n")[0]), parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            told_of = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for word, each in action.choices.items():
                yield from walk(each, f"{name} {word}", told_of.get(word, ""))


def _section(name_and_purpose: tuple[str, str], parser: argparse.ArgumentParser) -> Iterator[str]:
    name, purpose = name_and_purpose
    depth = "##" if len(name.split()) == 3 else "###"
    yield f"{depth} {name.removeprefix('python -m ')}"
    yield _sentence(purpose)
    yield f"```text\n{_usage(name, parser)}\n```"
    rows = [row for action in parser._actions for row in _row(action)]
    if rows:
        yield "\n".join(["| | what it is |", "|---|---|", *rows])


def _usage(name: str, parser: argparse.ArgumentParser) -> str:
    shown = " ".join(parser.format_usage().removeprefix("usage:").split()).removeprefix(parser.prog).strip()
    shown = re.sub(r"\[(-h|--version|--help-settings|--completion \{[^}]*\})\] ?", "", shown).strip()
    return f"{name} {shown}".strip()


def _row(action: argparse.Action) -> Iterator[str]:
    if isinstance(action, argparse._SubParsersAction) or set(SHARED) & set(action.option_strings):
        return
    word = action.metavar or (action.dest if not action.option_strings else action.dest.upper())
    value = "" if action.nargs == 0 else str(word)
    told = _sentence(action.help or "")
    if action.choices:
        told = f"{told} One of {', '.join(f'`{choice}`' for choice in action.choices)}.".strip()
    if action.required and action.option_strings:
        told += " Required."
    elif action.default not in (None, False, argparse.SUPPRESS) and "default" not in told:
        told += f" Default `{action.default}`."
    names = ", ".join(action.option_strings)
    yield f"| `{f'{names} {value}'.strip()}` | {told.strip()} |".replace("\n", " ")


def _sentence(text: str) -> str:
    text = text.strip()
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".?!" else ".")
