"""The documentation's Markdown, taken apart: fenced blocks, commands, links, headings."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", ".github/SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_HEREDOC = re.compile(r"<<'?(\w+)'?\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language, and what it holds."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def heredocs(self) -> list[str]:
        return [text for _, text in _HEREDOC.findall(self.text)]

    def commands(self) -> Iterator[list[str]]:
        """Of a shell's block the words of each command; of a `console` of the lines behind a `$`."""
        text = _HEREDOC.sub("", self.text).replace("\\\n", " ")
        for line in text.splitlines():
            if self.language == "console":
                if not line.startswith("$ "):
                    continue
                line = line[2:]
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
            lexer.whitespace_split = True
            yield from _split(list(lexer))


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(page, text[: m.start()].count("\n") + 1, m["language"].strip(), _dedented(m["text"], len(m["indent"])))
        for m in _FENCE.finditer(text)
    ]


def spans(page: Path) -> list[str]:
    """What stands in the text as code: between backticks, or as a line indented by four spaces."""
    text = _FENCE.sub("", page.read_text())
    indented = [line.split("#")[0].strip() for line in text.splitlines() if re.match(r"    [^`]*$", line)]
    return [*_SPAN.findall(text), *indented]


def links(page: Path) -> list[str]:
    return _LINK.findall(_SPAN.sub("", _FENCE.sub("", page.read_text())))


def anchors(page: Path) -> set[str]:
    """Of each heading, as a repository's viewer names them."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ (.*)$", _FENCE.sub("", page.read_text()), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def _split(words: list[str]) -> Iterator[list[str]]:
    """At pipes and the like; without redirections, and without variables set before the command."""
    command: list[str] = []
    for word in [*words, ";"]:
        if word and set(word) <= set("|&;"):
            if command:
                yield command
            command = []
        elif not (not command and re.fullmatch(r"\w+=.*", word)):
            command.append(word)


def _dedented(text: str, by: int) -> str:
    return "".join(line[by:] if line[:by].isspace() else line for line in text.splitlines(keepends=True))
