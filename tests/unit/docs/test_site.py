"""The documentation as a site: builds without a warning, needs no other host, and has in it what is generated."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.markdown import ROOT
from training.__main__ import parser as training
from worker.__main__ import parser as worker
from worker.publishing.cloudevents import schema
from worker.settings import Settings, variables

LOADS = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "object": "data",
}


class Page(HTMLParser):
    """What a page loads, where it leads, its anchors, and its paragraphs."""

    def __init__(self, path: Path):
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.anchors: set[str] = set()
        self.paragraphs: list[str] = []
        self._within = False
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        if place := given.get(LOADS.get(tag, "")):
            self.loads.append(place)
        if tag == "a" and "href" in given:
            self.leads.append(given["href"])
        if "id" in given:
            self.anchors.add(given["id"])
        if tag == "p":
            self._within = True
            self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        self._within = self._within and tag != "p"

    def handle_data(self, data: str) -> None:
        if self._within:
            self.paragraphs[-1] += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "docs/site/mkdocs.yml", "-d", str(to)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stdout + done.stderr
    return to


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_it_loads_nothing_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    assert len(pages) > 20
    for path, page in pages.items():
        elsewhere = [place for place in page.loads if re.match(r"(\w+:)?//", place)]
        assert not elsewhere, f"{path.name}: {elsewhere}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text()), style


def test_its_links_lead_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        if path.name == "404.html":  # its links count from a root that only a server knows
            continue
        for place in [*page.leads, *page.loads]:
            if re.match(r"\w+:", place):
                continue
            to, _, anchor = unquote(place).partition("#")
            target = Path(os.path.normpath(path.parent / to)) if to else path
            assert target.is_dir() or target.is_file(), f"{path.name}: {place}"
            if anchor and target in pages:
                assert anchor in pages[target].anchors | {"__skip"}, f"{path.name}: {place}"


def test_its_lists_and_tables_are_some(pages: dict[Path, Page]) -> None:
    """A viewer of repositories begins a list right below a paragraph; the site needs an empty line between."""
    for path, page in pages.items():
        for paragraph in page.paragraphs:
            assert not re.search(r"^(- |\d+\. |\| )", paragraph, re.MULTILINE), f"{path.name}: {paragraph}"


def test_it_names_each_setting(site: Path) -> None:
    told = (site / "settings.html").read_text()
    for name, field in variables():
        assert f"<code>{name}</code>" in told, name
        assert field.description, name
    assert all(f'id="{section}"' in told for section, field in Settings.model_fields.items() if not field.description)
    assert "<!-- settings" not in told
    rows = re.findall(r"<tr>\n<td><code>OFFNORMAL_.*?</tr>", told, re.DOTALL)
    assert len(rows) == len(list(variables()))
    assert not [row for row in rows if "<td></td>" in row], "nobody reads it, or it may be nothing"


@pytest.mark.parametrize(("program", "parser"), [("worker", worker()), ("training", training())])
def test_it_names_each_command_and_option(site: Path, program: str, parser: object) -> None:
    told = (site / "commands.html").read_text()
    for name, options in _commands(program, parser):
        assert f'id="{name.replace(" ", "-")}"' in told, name
        for option in options:
            assert option in told, f"{name} {option}"


@pytest.mark.parametrize("name", ["anomaly", "incident", "drift", "shadow", "label", "training-request"])
def test_it_names_each_field_of_an_event(site: Path, name: str) -> None:
    told = (site / "events.html").read_text()
    fields = schema(name)["properties"]  # type: ignore[arg-type]
    assert all(f"<code>{field}</code>" in told for field in fields)
    assert f"<!-- schema: {name} -->" not in told


def test_it_can_be_searched(site: Path) -> None:
    found = (site / "search/search_index.json").read_text()
    assert "OffnormalLagRising" in found and "OFFNORMAL_KAFKA__BOOTSTRAP" in found
    assert "def on_page_markdown" not in found, "source text would hide what is said about it"


def _commands(name: str, parser: object) -> Iterator[tuple[str, list[str]]]:
    yield name, list(parser._option_string_actions)  # type: ignore[attr-defined]
    for action in parser._actions:  # type: ignore[attr-defined]
        if isinstance(action.choices, dict):
            for word, each in action.choices.items():
                yield from _commands(f"{name} {word}", each)


def test_each_page_is_there_as_markdown_and_listed(site: Path) -> None:
    listed = re.findall(r"^- \[.+?\]\((\S+?)\)", (site / "llms.txt").read_text(), re.MULTILINE)
    assert {"index.md", "concepts.md", "settings.md", "CONTRIBUTING.md"} <= set(listed) and len(listed) >= 20
    for place in listed:
        text = (site / place).read_text()
        page = site / re.sub(r"README\.md$", "index.md", place)
        assert text.lstrip().startswith("# ") and page.with_suffix(".html").is_file(), place
    assert "OFFNORMAL_KAFKA__BOOTSTRAP" in (site / "settings.md").read_text(), "without its tables"
