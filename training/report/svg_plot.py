"""Plots as SVG, without a library: axes, lines, areas, points, bars. Colours are the page's classes."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Final

WIDTH: Final = 440  # of a plot that has half of a page, in its own units: a pixel each on most screens
HEIGHT: Final = 280
_CHARACTER: Final = 6.2  # the mean width of one in the plot's font
_STEPS: Final = (
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200),
    *(86_400 * days for days in (1, 2, 7, 14, 28, 91, 182, 365, 3650)),
)  # seconds between two marks
_LAST: Final = 253_402_300_799.0  # of the year 9999
_DIGITS: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Point = tuple[float, float]
Tick = tuple[float, str]


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`, which are not equal. What lies beyond is drawn at the edge."""

    low: float
    high: float
    label: str = ""
    log: bool = False
    time: bool = False  # in seconds

    @classmethod
    def over(cls, values: Iterable[float], label: str = "", log: bool = False, margin: float = 0.04) -> "Axis":
        """Return an axis around these values; with `log`, the positive ones."""
        usable = [value for value in values if not log or value > 0] or [1.0]
        low, high = min(usable), max(usable)
        if log:
            reach = max(math.log(high / low) * margin, 0.05)
            return cls(max(low * math.exp(-reach), 1e-300), high * math.exp(reach), label, log)
        reach = (high - low) * margin or max(abs(high), 1.0) * 0.05
        return cls(low - reach, high + reach, label)

    def at(self, value: float) -> float:
        """Return where a value lies, from 0 to 1."""
        if self.log:
            position = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            position = (value - self.low) / (self.high - self.low)
        return min(max(position, 0.0), 1.0)

    def ticks(self, max_ticks: int = 6) -> list[Tick]:
        """Return at most about `max_ticks` ticks, at round values."""
        if self.time:
            return _times(self.low, self.high, max_ticks)
        return self._logarithmic(max_ticks) if self.log else self._linear(max_ticks)

    def _linear(self, max_ticks: int) -> list[Tick]:
        rough = (self.high - self.low) / max_ticks
        unit = 10 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(i * step, number(i * step)) for i in range(first, last + 1)]

    def _logarithmic(self, max_ticks: int) -> list[Tick]:
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        if last - first >= 2:
            apart = math.ceil((last - first + 1) / max_ticks)
            return [(10.0**k, _power(k)) for k in range(first, last + 1) if (last - k) % apart == 0]
        # Less than two decades: other numbers are needed as well.
        near = [factor * 10.0**k for k in range(first - 1, last + 1) for factor in (1, 2, 5)]
        inside = [value for value in near if self.low <= value <= self.high]
        return [(value, number(value)) for value in inside] if len(inside) > 2 else self._linear(max_ticks)


def _times(low: float, high: float, max_ticks: int) -> list[Tick]:
    low, high = max(low, 0.0), min(high, _LAST)
    step = next((step for step in _STEPS if (high - low) / step <= max_ticks), None)
    if step is None or high <= low:
        return [(low, _moment(min(low, _LAST), "%Y-%m-%d %H:%M"))]
    form = "%Y" if step >= 86_400 * 365 else "%d %b" if step >= 86_400 else "%H:%M" if step >= 60 else "%H:%M:%S"
    tick_times = [float(i * step) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    # A tick at midnight shows the date instead of the time.
    return [(tick, _moment(tick, "%d %b" if step < 86_400 and tick % 86_400 == 0 else form)) for tick in tick_times]


def _moment(seconds: float, form: str) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):{form}}"


def _power(k: int) -> str:
    return ("0.01", "0.1", "1", "10", "100")[k + 2] if -2 <= k <= 2 else "10" + str(k).translate(_DIGITS)


def number(value: float) -> str:
    """Return the number in short."""
    if value == 0:
        return "0"
    if 1e3 <= abs(value) < 1e7 and value == round(value):
        return f"{value:,.0f}"
    return f"{value:.4g}"


def text(words: object, max_length: int = 400) -> str:
    """Return any text as safe HTML, cut to `max_length`."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(words))
    return escape(shown if len(shown) <= max_length else shown[: max_length - 1] + "…")


class Plot:
    """A canvas with its axes; `drawn` is its SVG so far. Without a y axis it has rows, which the caller labels."""

    def __init__(
        self,
        x: Axis,
        y: Axis | None,
        width: int = WIDTH,
        height: int = HEIGHT,
        left: int = 52,
        bottom: int = 40,
        top: int = 12,
        right: int = 14,
    ):
        self.x, self.y = x, y
        self.width, self.height = width, height
        self.left, self.top, self.right, self.bottom = left, top, width - right, height - bottom
        self.drawn: list[str] = []
        self._axes()

    def place(self, x: float, y: float) -> Point:
        """Return where a point lies on the canvas, in its units."""
        assert self.y is not None
        return self.across(x), self.bottom - self.y.at(y) * (self.bottom - self.top)

    def across(self, x: float) -> float:
        """Return where a value of the x axis lies on the canvas, in its units."""
        return self.left + self.x.at(x) * (self.right - self.left)

    def _axes(self) -> None:
        # As many marks as there is room for; times are wider than numbers.
        for value, label in self.x.ticks(max(2, (self.right - self.left) // (80 if self.x.time else 60))):
            across = self.across(value)
            self.drawn.append(f'<path class="grid" d="M{across:.1f} {self.top}V{self.bottom}"/>')
            self.label(across, self.bottom + 14, label, "middle")
        self.label((self.left + self.right) / 2, self.bottom + 31, self.x.label, "middle")
        if self.y is None:
            return
        for value, label in self.y.ticks(max(2, (self.bottom - self.top) // 36)):
            _, down = self.place(self.x.low, value)
            self.drawn.append(f'<path class="grid" d="M{self.left} {down:.1f}H{self.right}"/>')
            self.label(self.left - 6, down + 4, label, "end")
        if self.y.label:
            down = (self.top + self.bottom) / 2
            self.drawn.append(
                f'<text x="11" y="{down:.1f}" text-anchor="middle" transform="rotate(-90 11 {down:.1f})">'
                f"{text(self.y.label)}</text>"
            )

    def label(self, x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> None:
        """Draw a text at a place of the canvas."""
        if words:
            named = f' class="{kind}"' if kind else ""
            where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
            self.drawn.append(f"<text{named} {where}>{text(words)}</text>")

    def line(self, points: Iterable[Point], kind: str) -> None:
        """Draw a line through points, which are in units of the axes."""
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (self.place(*point) for point in points))
        if path:
            self.drawn.append(f'<path class="line {kind}" d="M{path}"/>')

    def dots(self, points: Sequence[Point], kind: str, size: float = 2.2) -> None:
        """Draw dots, as one path with round ends: circles would take ten times the bytes."""
        path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in (self.place(*point) for point in points))
        if path:
            self.drawn.append(f'<path class="dots {kind}" stroke-width="{2 * size:g}" d="{path}"/>')

    def across_at(self, y: float, words: str, kind: str = "mark") -> None:
        """Draw a level, labelled at its right end, above it where there is room."""
        _, down = self.place(self.x.low, y)
        self.drawn.append(f'<path class="{kind}" d="M{self.left} {down:.1f}H{self.right}"/>')
        self.label(self.right - 3, down - 4 if down > self.top + 14 else down + 12, words, "end", "told")

    def down_at(self, x: float, words: str, kind: str = "mark", row: int = 0) -> None:
        """Draw a place, labelled at its top on the side where there is room; `row` keeps two labels apart."""
        across, room = self.across(x), len(words) * _CHARACTER + 8
        self.drawn.append(f'<path class="{kind}" d="M{across:.1f} {self.top}V{self.bottom}"/>')
        right = across + room < self.right
        self.label(across + (4 if right else -4), self.top + 11 + 14 * row, words, "start" if right else "end", "told")

    def box(
        self, x: float, y: float, width: float, height: float, kind: str, tooltip: str = "", opacity: float = 1
    ) -> None:
        """Draw a box in units of the canvas; `tooltip` shows where a mouse rests."""
        faint = f' opacity="{opacity:.2f}"' if opacity < 1 else ""
        title = f"><title>{text(tooltip)}</title></rect>" if tooltip else "/>"
        place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.0):.1f}" height="{height:.1f}"'
        self.drawn.append(f'<rect class="{kind}" {place}{faint}{title}')

    def svg(self, description: str) -> str:
        """Return the plot as SVG; `description` is for those who do not see it."""
        start = f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{text(description)}">'
        return start + "".join(self.drawn) + "</svg>"
