"""Makes text from elsewhere safe for a terminal, which would execute control sequences."""

from rich.markup import escape


def printable(text: object, keep: str = "") -> str:
    """Replace whatever is not printable, line ends too, but for the characters in `keep`."""
    return "".join(c if c.isprintable() or c in keep else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def in_markup(text: object) -> str:
    """Make text printable and escape rich's markup, for a part of a line in markup or a table's cell."""
    return escape(printable(text))
