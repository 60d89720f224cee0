"""Text from elsewhere on its way to a terminal, which obeys what it is sent."""

from rich.markup import escape


def printable(text: object, keep: str = "") -> str:
    """Replace whatever is not printable, line ends too, but for the characters in `keep`."""
    return "".join(c if c.isprintable() or c in keep else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def in_markup(text: object) -> str:
    """Make it printable, and nothing that rich would obey: a part of a line in rich's markup, or a table's cell."""
    return escape(printable(text))
