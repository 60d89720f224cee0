"""What makes a site of docs/: reference tables where a page asks for them, and links to files of the repository. Beside
each page lies its Markdown, and `llms.txt` lists them, for programs that read documentation.

Pages are written to be read in the repository as well, so links lead to files there. In the site such a file is a page:
a Markdown file as itself, any other as its text.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import commands_table
import logs_table
import schema_table
import settings_table
from mkdocs.structure.files import File, Files

from worker.explanations import explanations

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
IMAGES: Final = {".png", ".svg", ".jpg", ".gif"}
TOP: Final = [ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]  # in the navigation, whoever links to them
LANGUAGES: Final = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".sql": "sql", ".toml": "toml"}

# `<!-- settings -->` in a page, which the repository's readers do not see.
TABLES: Final[dict[str, Callable[[str], str]]] = {
    "settings": settings_table.of,
    "commands": commands_table.of,
    "exits": commands_table.exits,
    "schema": schema_table.of,
    "logs": logs_table.of,
    "explanations": lambda _: "\n\n".join(f"## {code}\n\n{text}" for code, text in explanations().items()),
}
_MARKER = re.compile(r"^<!-- (\w+):? ?([\w-]*) -->$", re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=(?:#[^)\s]*)?\))")
_FENCED = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)

_origins: dict[str, Path] = {}  # of pages that come from outside docs/, by their place in the site
_markdown: dict[str, str] = {}  # each page as it is in the site, by its place there


def on_files(files: Files, config: Any) -> Files:
    """Adds the files of the repository that a page links to, and those that they link to."""
    _origins.clear()
    _markdown.clear()
    ahead = [*TOP, *(DOCS / file.src_uri for file in files.documentation_pages())]
    seen = set(ahead)
    while ahead:
        path = ahead.pop()
        if not path.is_relative_to(DOCS) or path.suffix != ".md":
            _origins[place(path)] = path
            files.append(File.generated(config, place(path), content=_as_page(path)))
        if path.suffix == ".md":
            ahead += (new := {to for to in _targets(path) if to.is_file() and to not in seen and _is_made(to)})
            seen |= new
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    uri = page.file.src_uri
    path = _origins.get(uri, DOCS / uri)
    if path.suffix == ".md":
        markdown = _outside_code(markdown, lambda text: _LINK.sub(lambda found: _led(found[1], path, uri), text))
        markdown = _MARKER.sub(lambda found: TABLES[found[1]](found[2]), markdown)
    _markdown[uri] = markdown
    return markdown


def on_post_build(config: Any) -> None:
    """Write each page's Markdown beside it, and llms.txt (llmstxt.org)."""
    site = Path(config.site_dir)
    for uri, markdown in _markdown.items():
        (site / uri).write_text(markdown, encoding="utf-8")
    lines = [f"# {config.site_name}", "", f"> {config.site_description}"]
    for title, uri in _navigation(config.nav):
        if uri is None:
            lines += ["", f"## {title}", ""]
        else:
            lines.append(f"- [{title}]({uri}): {_summary(_markdown[uri])}".rstrip(": "))
    (site / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _navigation(nav: list[dict[str, Any]]) -> Iterator[tuple[str, str | None]]:
    """Return title and place of each page in turn; a section has no place. Pages outside of sections come first."""
    loose = [entry for entry in nav if isinstance(next(iter(entry.values())), str)]
    yield "Begin here", None
    for entry in loose:
        yield from entry.items()
    for entry in nav:
        if entry not in loose:
            for title, pages in entry.items():
                yield title, None
                yield from (item for page in pages for item in page.items())


def _summary(markdown: str) -> str:
    """Return the first sentence of the first paragraph, without its links."""
    paragraphs = [part for part in _FENCED.sub("", markdown).split("\n\n") if re.match(r"[A-Za-z`*\[]", part)]
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(paragraphs[0].split())) if paragraphs else ""
    return re.split(r"(?<=[.]) ", text)[0]


def place(path: Path) -> str:
    """Where a file of the repository stands in the site."""
    if path == ROOT / "README.md":
        return "index.md"
    if path.suffix == ".md" or (path.suffix in IMAGES and path.is_relative_to(DOCS)):
        return path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT).as_posix()
    return f"source/{path.relative_to(ROOT).as_posix()}.md"


def _is_made(path: Path) -> bool:
    """That is, mkdocs does not find it by itself."""
    return path != ROOT / "README.md" and not (path.is_relative_to(DOCS) and path.suffix in {".md", *IMAGES})


def _as_page(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    name = path.relative_to(ROOT).as_posix()
    fence = "`" * 5  # longer than any within
    head = f"---\nsearch: {{exclude: true}}\nhide: [navigation, toc]\ntitle: {name}\n---\n\n# {name}\n\n"
    return f"{head}{fence} {LANGUAGES.get(path.suffix, 'text')}\n{text}\n{fence}\n"


def _targets(path: Path) -> Iterator[Path]:
    text = _FENCED.sub("", path.read_text(encoding="utf-8"))
    for link in _LINK.findall(text):
        yield Path(os.path.normpath(path.parent / link))


def _led(link: str, path: Path, uri: str) -> str:
    """A link of the file `path`, as a link of the site's page `uri`. One that leads nowhere stays: mkdocs tells."""
    target = Path(os.path.normpath(path.parent / link))
    if not target.is_file() or not target.is_relative_to(ROOT):
        return link
    return os.path.relpath(place(target), os.path.dirname(uri) or ".")


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    parts, at = [], 0
    for code in _FENCED.finditer(markdown):
        parts += [change(markdown[at : code.start()]), code[0]]
        at = code.end()
    return "".join([*parts, change(markdown[at:])])
