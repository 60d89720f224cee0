"""The common frame of the HTML pages.

Each page is one file without scripts or external resources, and follows the reader's light or dark colour scheme.
"""

from html import escape
from typing import Final

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c1f23; --faint: #667; --line: #d9dce1; --paper: #fff; --good: #10713a }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6ea; --faint: #9aa; --line: #363b43; --paper: #14171b; --good: #5fce8e }
}
body { margin: 0 auto; padding: 1rem; max-width: 52rem; font: 1rem/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper) }
h1 { margin-bottom: 0; line-height: 1.2 } h2 { margin: 2.5rem 0 .3rem }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left }
th { color: var(--faint); font-weight: normal }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: 1rem }
figure { margin: 0; flex: 1 1 18rem } figcaption, footer { color: var(--faint); font-size: .875rem }
figure.row { flex-basis: 100% }
svg { width: 100%; height: auto }
"""


def document(title: str, style: str, body: str) -> str:
    """Return a whole HTML document; `style` and `body` are CSS and HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def figure(picture: str, caption: str, row: bool = False) -> str:
    """Return a figure of a `picture` of HTML; `row` gives it the page's whole width."""
    kind = ' class="row"' if row else ""
    return f"<figure{kind}>{picture}<figcaption>{escape(caption)}</figcaption></figure>\n"
