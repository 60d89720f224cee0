"""The showcase's page (training/report/html.py)."""

import base64
import struct
import zlib
from dataclasses import dataclass
from html import escape
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from training.report.html import document, figure
from worker.native.arrays import Bytes, Int64s

Images = npt.NDArray[np.floating[Any]]  # [rows, columns, 64], grey levels of 0 to 16

SIDE: Final = 8
GREATEST: Final = 16.0  # grey level
_CANVAS: Final = 320  # of a scatter plot, in its own units

_STYLE: Final = """
@media (prefers-color-scheme: dark) { .pixels { filter: invert(1) } }
.wins { color: var(--good); font-weight: bold } .pixels { image-rendering: pixelated; width: 100%; display: block }
svg { border: 1px solid var(--line) } svg text { font: bold 9px system-ui, sans-serif; text-anchor: middle }
.d0 { fill: #4e79d7 } .d1 { fill: #e8762c } .d2 { fill: #2f9e44 } .d3 { fill: #e03131 } .d4 { fill: #9260c8 }
.d5 { fill: #9c6644 } .d6 { fill: #d6409f } .d7 { fill: #7a828e } .d8 { fill: #a0a010 } .d9 { fill: #12a5b8 }
"""


@dataclass(frozen=True)
class ShowcaseSection:
    """A use of the autoencoder; `pictures` are HTML."""

    key: str
    title: str
    text: str
    figures: dict[str, Any]
    pictures: tuple[str, ...]


def sheet(images: Images, caption: str, row: bool = False) -> str:
    """Return images [rows, columns, 64] side by side, as one picture; `row` gives it the page's whole width."""
    rows, columns, _ = images.shape
    tiles = images.reshape(rows, columns, SIDE, SIDE)
    tiles = np.pad(tiles, ((0, 0), (0, 0), (1, 1), (1, 1)))
    flat = tiles.transpose(0, 2, 1, 3).reshape(rows * (SIDE + 2), columns * (SIDE + 2))
    data = base64.b64encode(_png(np.rint(flat.clip(0, GREATEST) * (255 / GREATEST)).astype(np.uint8))).decode()
    picture = f'<img class="pixels" alt="{escape(caption)}" src="data:image/png;base64,{data}">'
    return figure(picture, caption, row)


def scatter(points: Images, digits: Int64s, caption: str) -> str:
    """Plot points [n, 2], each as its digit; a few outliers do not set the scale and are drawn at the edge."""
    low, high = np.quantile(points, (0.005, 0.995), axis=0)
    pixels = 8 + ((points - low) / np.maximum(high - low, 1e-9)).clip(0, 1) * (_CANVAS - 16)
    drawn = "".join(
        f'<text class="d{digit}" x="{x:.0f}" y="{_CANVAS - y + 3:.0f}">{digit}</text>'
        for (x, y), digit in zip(pixels, digits.tolist(), strict=True)
    )
    picture = f'<svg viewBox="0 0 {_CANVAS} {_CANVAS}" role="img" aria-label="{escape(caption)}">{drawn}</svg>'
    return figure(picture, caption)


def page(sections: list[ShowcaseSection], result: dict[str, Any]) -> str:
    """Return the whole page, a document by itself; `result` says what it was made with."""
    intro = (
        f"{result['images']['train']:,} scanned digits to learn from and {result['images']['test']} to test on, 8 x 8"
        " pixels each; beside each autoencoder, what a sceptic would have chosen. The better of two figures is bold;"
        " with so few test images, a difference of a hundredth may be chance."
    )
    with_what = [f"{name} {version}" for name, version in result["versions"].items()]
    footer = f"Seed {result['seed']}, {result['steps']} training steps, {result['seconds']} s; {', '.join(with_what)}"
    return document(
        "Offnormal: five uses of an autoencoder",
        _STYLE,
        f"<h1>Five uses of an autoencoder</h1>\n<p>{escape(intro)}</p>\n"
        + "".join(map(_section, sections))
        + f"<footer><p>{escape(footer)}</p></footer>\n",
    )


def _section(section: ShowcaseSection) -> str:
    comparisons = section.figures["comparisons"]
    won = sum(c["wins"] for c in comparisons)
    lost = sorted({c["baseline"] for c in comparisons if not c["wins"]})
    verdict = f"The autoencoder is better in {won} of {len(comparisons)} comparisons"
    verdict += f"; not better than: {', '.join(lost)}." if lost else "."
    rows = "".join(map(_row, comparisons))
    return (
        f'<section id="{escape(section.key)}">\n<h2>{escape(section.title)}</h2>\n'
        f"<p>{escape(section.text)} <strong>{escape(verdict)}</strong></p>\n"
        '<div class="wide"><table>\n<tr><th>measure</th><th>best</th>'
        f"<th>{escape(section.figures['autoencoder'])}</th><th>baseline</th><th></th></tr>\n{rows}</table></div>\n"
        f'<div class="pictures">\n{"".join(section.pictures)}</div>\n</section>\n'
    )


def _row(comparison: dict[str, Any]) -> str:
    own, baseline = "wins" if comparison["wins"] else "", "" if comparison["wins"] else "wins"
    return (
        f"<tr><td>{escape(comparison['measure'])}</td><td>{escape(comparison['best'])}</td>"
        f'<td class="{own}">{comparison["value"]:.3f}</td>'
        f'<td class="{baseline}">{comparison["baseline_value"]:.3f}</td>'
        f"<td>{escape(comparison['baseline'])}</td></tr>\n"
    )


def _png(ink: Bytes) -> bytes:
    """Return a PNG in black, as opaque as `ink` [height, width] says, so that it fits any background."""
    height, width = ink.shape
    lines = np.zeros((height, 1 + 2 * width), np.uint8)  # of each line first the filter, none; then black and opacity
    lines[:, 2::2] = ink

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 4, 0, 0, 0)  # 8 bits, grey with alpha
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts
