"""Figures as SVG text: panels of lines or bars in a grid, with axes, ticks and one legend. Needs nothing but Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10

COLOURS = ("#1b1b1b", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1")
"""Told apart by colour-blind readers too (Okabe and Ito 2008); lines also differ in their dashes."""
DASHES = ("", "7 3", "2 3", "8 3 2 3", "4 2", "12 3", "1 2", "6 2 1 2 1 2")
FONT = "font-family='Helvetica, Arial, sans-serif'"
WIDTH, HEIGHT = 360, 250
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 34, 44
HEAD, ROW, FOOT = 58, 18, 12

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line of a panel; `key` is its place in the legend."""

    key: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Lines:
    """A panel of lines. low, high: the range of y where it is known; log: of y; log_x: of x; wide: over a whole row."""

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    low: float | None = None
    high: float | None = None
    log: bool = False
    wide: bool = False
    log_x: bool = False


@dataclass(frozen=True)
class Bars:
    """A panel of one bar for each entry of the legend, from zero. texts: what is written beside each."""

    title: str
    x: str
    values: tuple[float | None, ...]
    texts: tuple[str, ...]
    names: tuple[str, ...]
    wide: bool = False


Panel = Lines | Bars


@dataclass(frozen=True)
class Scale:
    """From numbers to places. log: between powers of ten."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high = (log10(self.low), log10(self.high)) if self.log else (self.low, self.high)
        share = ((log10(value) if self.log else value) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 7) -> list[float]:
        """Round numbers, at most about so many of them."""
        if self.log:
            low, high = ceil(log10(self.low) - 1e-9), floor(log10(self.high) + 1e-9)
            return [10.0**k for k in range(low, high + 1, max(1, ceil((high - low) / 5)))]
        step = nice((self.high - self.low) / most)
        first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
        return [k * step for k in range(first, last + 1)]


def nice(width: float) -> float:
    """The next of 1, 2, 5, 10, 20, ..."""
    power = 10.0 ** floor(log10(width))
    return next(power * k for k in (1, 2, 5, 10) if power * k >= width * 0.999)


def figure(title: str, subtitle: str, names: Sequence[str], panels: Sequence[Panel], columns: int = 3) -> str:
    """The whole picture. names: the legend."""
    body: list[str] = []
    entries, rows = legend(names, 16, 44, WIDTH * columns - 16)
    head, place = HEAD + ROW * (rows - 1), 0
    for panel in panels:
        if panel.wide and place % columns:
            place += columns - place % columns
        width = WIDTH * (columns if panel.wide else 1)
        x, y = WIDTH * (place % columns), head + HEIGHT * (place // columns)
        body.append(f"<g transform='translate({x} {y})'>\n{draw(panel, width)}\n</g>")
        place += columns if panel.wide else 1
    wide, high = WIDTH * columns, head + HEIGHT * -(-place // columns) + FOOT
    top = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {wide} {high}' width='{wide}' height='{high}' {FONT}>",
        f"<title>{escape(title)}</title>",
        f"<rect width='{wide}' height='{high}' fill='#ffffff'/>",
        text(16, 22, title, 16, weight="bold"),
        text(wide - 16, 22, subtitle, 11, anchor="end", fill="#555555"),
        entries,
    ]
    return "\n".join([*top, *body, "</svg>"]) + "\n"


def draw(panel: Panel, width: int) -> str:
    """A panel with its title, in its own coordinates."""
    inner = lines(panel, width) if isinstance(panel, Lines) else bars(panel, width)
    return "\n".join([text(LEFT, TOP - 12, panel.title, 12, weight="bold"), *inner])


def legend(names: Sequence[str], left: float, y: float, right: float) -> tuple[str, int]:
    """A sample of each line and its name, side by side in as many rows as that takes."""
    parts, x, rows = list[str](), left, 1
    for k, name in enumerate(names):
        width = 34 + 7 * len(name)
        if x > left and x + width > right:
            x, y, rows = left, y + ROW, rows + 1
        parts.append(stroke([(x, y - 4), (x + 28, y - 4)], k))
        parts.append(text(x + 34, y, name, 12))
        x += width + 24
    return "\n".join(parts), rows


def lines(panel: Lines, width: int) -> list[str]:
    """Axes, then the lines; what is not a number is a gap."""
    every = [p for one in panel.series for p in one.points if shown(p, panel)]
    if not every:
        return [text(LEFT, HEIGHT / 2, "not measured", 11, fill="#777777")]
    across = Scale(*spread([p[0] for p in every]), LEFT, width - RIGHT, panel.log_x)
    low, high = bounds([p[1] for p in every], panel)
    upward = Scale(low, high, HEIGHT - BOTTOM, TOP, panel.log)
    found = [*frame(panel.x, panel.y, across, upward, width)]
    for one in panel.series:
        for run in runs(one.points, panel):
            places = [(across.at(a), upward.at(min(max(b, low), high))) for a, b in run]
            found.append(stroke(places, one.key) if len(places) > 1 else dot(*places[0], one.key))
    return found


def shown(point: Point, panel: Lines) -> bool:
    return isfinite(point[1]) and (point[1] > 0 or not panel.log) and (point[0] > 0 or not panel.log_x)


def runs(points: Sequence[Point], panel: Lines) -> list[list[Point]]:
    """Stretches of a line without a gap."""
    found: list[list[Point]] = [[]]
    for point in points:
        if shown(point, panel):
            found[-1].append(point)
        elif found[-1]:
            found.append([])
    return [run for run in found if run]


def spread(values: Sequence[float]) -> tuple[float, float]:
    """From the smallest to the largest; a single value gets room on both sides."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def bounds(values: Sequence[float], panel: Lines) -> tuple[float, float]:
    """The range of y: given, or that of the values, or whole powers of ten."""
    if panel.log:
        low, high = floor(log10(min(values)) + 1e-9), ceil(log10(max(values)) - 1e-9)
        return 10.0**low, 10.0 ** max(high, low + 1)
    low, high = spread(values)
    pad = 0.05 * (high - low)
    return low - pad if panel.low is None else panel.low, high + pad if panel.high is None else panel.high


def frame(x: str, y: str, across: Scale, upward: Scale, width: int) -> list[str]:
    """Both axes with ticks, a light grid, and what they measure."""
    bottom, right = HEIGHT - BOTTOM, width - RIGHT
    found: list[str] = []
    for tick in upward.ticks():
        at = upward.at(tick)
        found += [rule(LEFT, at, right, at, "#e4e4e4"), text(LEFT - 6, at + 4, number(tick), 10, anchor="end")]
    for tick in across.ticks():
        at, name = across.at(tick), number(tick)
        inside = min(at, width - 3.2 * len(name))  # the last one may be long
        found += [rule(at, bottom, at, bottom + 4, "#333333"), text(inside, bottom + 16, name, 10, anchor="middle")]
    middle = (TOP + bottom) / 2
    turned = f"transform='rotate(-90 14 {middle})'"
    return [
        *found,
        rule(LEFT, bottom, right, bottom, "#333333"),
        rule(LEFT, TOP, LEFT, bottom, "#333333"),
        text((LEFT + right) / 2, HEIGHT - 10, x, 11, anchor="middle"),
        text(14, middle, y, 11, anchor="middle", extra=turned),
    ]


def bars(panel: Bars, width: int) -> list[str]:
    """Horizontal bars, each with its name and its value."""
    known = [value for value in panel.values if value is not None and isfinite(value)]
    if not known:
        return [text(LEFT, HEIGHT / 2, "not measured", 11, fill="#777777")]
    start, bottom = 112, HEIGHT - BOTTOM
    across = Scale(0.0, max(*known, 1e-12) * 1.001, start, width - RIGHT - 112)
    row = (bottom - TOP) / len(panel.values)
    thick = min(22.0, 0.7 * row)
    found: list[str] = []
    for tick in across.ticks(3):
        at = across.at(tick)
        found += [rule(at, TOP, at, bottom, "#e4e4e4"), text(at, bottom + 16, number(tick), 10, anchor="middle")]
    for k, value in enumerate(panel.values):
        middle = TOP + (k + 0.5) * row
        found.append(text(start - 6, middle + 4, panel.names[k], 11, anchor="end"))
        end = start if value is None else across.at(value)
        size = f"x='{start}' y='{middle - thick / 2:.1f}' width='{max(end - start, 1):.1f}' height='{thick:.1f}'"
        found += [f"<rect {size} fill='{colour(k)}'/>", text(end + 6, middle + 4, panel.texts[k], 10)]
    axis = rule(start, TOP, start, bottom, "#333333")
    return [*found, axis, text((start + width - RIGHT) / 2, HEIGHT - 10, panel.x, 11, anchor="middle")]


# -- marks -------------------------------------------------------------------------------------------------------------
def colour(key: int) -> str:
    return COLOURS[key % len(COLOURS)]


def stroke(places: Sequence[Point], key: int) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dash = f" stroke-dasharray='{DASHES[key % len(DASHES)]}'" if DASHES[key % len(DASHES)] else ""
    return f"<polyline points='{path}' fill='none' stroke='{colour(key)}' stroke-width='2'{dash}/>"


def dot(x: float, y: float, key: int) -> str:
    return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{colour(key)}'/>"


def rule(x1: float, y1: float, x2: float, y2: float, shade: str) -> str:
    return f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{shade}'/>"


def text(
    x: float,
    y: float,
    words: str,
    size: int,
    anchor: str = "start",
    weight: str = "normal",
    fill: str = "#222222",
    extra: str = "",
) -> str:
    style = f"font-size='{size}' text-anchor='{anchor}' font-weight='{weight}' fill='{fill}'"
    return f"<text x='{x:.1f}' y='{y:.1f}' {style} {extra}>{escape(words)}</text>"


def number(value: float) -> str:
    """As people write it: 0.2, 15, 2,000, 1e-5."""
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"
