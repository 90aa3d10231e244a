"""Dots with intervals, curves and distributions as SVG that stretches while its text does not.

Places in a drawing are percentages, so that one fits a phone and a wide window alike; colours are
the page's, by class.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log, log10
from statistics import fmean, median
from typing import NamedTuple

from thinktune.data.charts import bin_rows, escaped, halves, is_skewed, number_of
from thinktune.data.inspection import Quantiles

MAX_POINTS = 240
"""A curve is drawn through so many; the steps of a longer one are averaged in groups."""
Number = int | float
_SHAPES = {"better": "M0-6.5 6.5 5H-6.5z", "worse": "M0 6.5 6.5-5H-6.5z"}


@dataclass(frozen=True, slots=True)
class Scale:
    """Numbers laid along a chart, and those of them that its axis names."""

    low: Number
    high: Number
    ticks: tuple[Number, ...]

    def at(self, value: Number) -> float:
        """Where a value stands, in per cent of the chart; what is outside stands at the edge.

        >>> RATES.at(0.25), RATES.at(7)
        (25.0, 100.0)
        """
        return 100 * min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


RATES = Scale(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))


def scale_of(values: Iterable[Number]) -> Scale:
    """Give a scale with 0 and all the values on it, and round ticks.

    >>> scale_of([3, 88]).ticks
    (0.0, 20.0, 40.0, 60.0, 80.0, 100.0)
    """
    low, high = _ends(values)
    step = _round_up((high - low) / 5 or 1.0, (1, 2, 5, 10))
    first, last = floor(low / step), max(ceil(high / step), floor(low / step) + 1)
    ticks = tuple(_exact(step * place) for place in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks)


def scale_of_steps(values: Iterable[Number]) -> Scale:
    """Give a scale from 0 that ends with the last value; its ticks are round.

    >>> scale_of_steps([1, 252])
    Scale(low=0.0, high=252, ticks=(0.0, 100.0, 200.0))
    """
    last = max(values)
    ticks = tuple(tick for tick in scale_of([last]).ticks if tick <= last)
    return Scale(0.0, last or 1.0, ticks)


def scale_around_zero(values: Iterable[Number]) -> Scale:
    """Give a scale as far below 0 as above it, with all the values on it.

    >>> scale_around_zero([-0.02, 0.3]).ticks
    (-0.4, 0.0, 0.4)
    """
    end = _round_up(max(map(abs, _ends(values))) or 1.0, (1, 2, 4, 6, 8, 10))
    return Scale(-end, end, (-end, 0.0, end))


class Mark(NamedTuple):
    """A dot with its interval; ``kind`` is its class, and the shape of a difference."""

    kind: str
    title: str
    mean: Number
    low: Number
    high: Number


def strip(scale: Scale, marks: Sequence[Mark | None], about: str, height: int = 40) -> str:
    """Draw the marks one below the other, leaving the place of a missing one empty."""
    parts = [
        f'<line class="grid{" zero" if tick == 0 else ""}" x1="{scale.at(tick):.2f}%" '
        f'x2="{scale.at(tick):.2f}%" y1="0" y2="{height}"/>'
        for tick in scale.ticks
    ]
    for place, mark in enumerate(marks, start=1):
        if mark is not None:
            parts.append(_mark(scale, mark, height * place / (len(marks) + 1)))
    return _svg("strip", about, parts, f'height="{height}"')


def _mark(scale: Scale, mark: Mark, y: float) -> str:
    x = f"{scale.at(mark.mean):.2f}%"
    shape = (
        f'<svg x="{x}" y="{y:.1f}" overflow="visible"><path d="{_SHAPES[mark.kind]}"/></svg>'
        if mark.kind in _SHAPES
        else f'<circle cx="{x}" cy="{y:.1f}" r="5.5"/>'
    )
    return (
        f'<g class="mark {mark.kind}"><title>{escaped(mark.title)}</title><line '
        f'x1="{scale.at(mark.low):.2f}%" x2="{scale.at(mark.high):.2f}%" '
        f'y1="{y:.1f}" y2="{y:.1f}"/>{shape}</g>'
    )


def axis(scale: Scale, *, signed: bool = False) -> str:
    """Draw the numbers of a scale, to stand above or below strips of the same width."""
    parts = [
        f'<text x="{scale.at(tick):.2f}%" y="13" class="mid">{_tick(tick, signed)}</text>'
        for tick in scale.ticks
    ]
    return f'<svg class="axis" width="100%" height="18" aria-hidden="true">{"".join(parts)}</svg>'


def part_bar(parts: Sequence[tuple[str, str, int]], about: str) -> str:
    """Draw one bar split into parts: class, title and number of each."""
    whole, left, drawn = sum(number for *_, number in parts), 0.0, []
    for kind, title, number in parts:
        if number:
            width = 100 * number / whole
            drawn.append(
                f'<rect class="{kind}" x="{left:.3f}%" width="{width:.3f}%" height="28">'
                f"<title>{escaped(title)}: {number:,}</title></rect>"
            )
            left += width
    return _svg("parts", about, drawn, 'height="28"')


def share_bar(kind: str, part: int, whole: int) -> str:
    """Draw how much of a whole a part is; the numbers stand beside it, so it has no name."""
    width = 100 * part / max(whole, 1)
    return (
        '<svg class="share" width="100%" height="8" aria-hidden="true"><rect class="track" '
        f'width="100%" height="8" rx="4"/><rect class="{kind}" width="{width:.2f}%" height="8" '
        'rx="4"/></svg>'
    )


class Curve(NamedTuple):
    """Points joined by a line, with a dot each where ``dotted``."""

    kind: str
    title: str
    points: Sequence[tuple[Number, Number]]
    dotted: bool = False


def plot(x: Scale, y: Scale, curves: Sequence[Curve], about: str, inside: str = "") -> str:
    """Draw curves in a frame with both axes; ``inside`` is drawn over them."""
    parts = []
    for tick in y.ticks:
        at = f"{100 - y.at(tick):.2f}%"
        parts.append(f'<line class="grid" x1="0" x2="100%" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="end" x="0" dx="-8" y="{at}" dy="4">{_tick(tick)}</text>')
    for tick in x.ticks:
        at = f"{x.at(tick):.2f}%"
        parts.append(f'<text class="mid" x="{at}" y="100%" dy="18">{_tick(tick)}</text>')
    for curve in curves:
        points = [(x.at(a), 100 - y.at(b)) for a, b in _thinned(curve.points)]
        line = "L".join(f"{10 * a:.1f} {10 * b:.1f}" for a, b in points)
        parts.append(
            f'<g class="curve {curve.kind}"><title>{escaped(curve.title)}</title>'
            '<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" width="100%" height="100%">'
            f'<path d="M{line}"/></svg>'
        )
        if curve.dotted:
            parts += (f'<circle cx="{a:.2f}%" cy="{b:.2f}%" r="3.5"/>' for a, b in points)
        parts.append("</g>")
    return f'<div class="frame">{_svg("plot", about, [*parts, inside])}</div>'


def whiskers(x: Scale, y: Scale, marks: Sequence[tuple[Number, Mark]]) -> str:
    """Dots with upright intervals, for the inside of a plot: each at its place along ``x``."""
    return "".join(
        f'<g class="mark {mark.kind}"><title>{escaped(mark.title)}</title>'
        f'<line x1="{x.at(at):.2f}%" x2="{x.at(at):.2f}%" y1="{100 - y.at(mark.low):.2f}%" '
        f'y2="{100 - y.at(mark.high):.2f}%"/><circle cx="{x.at(at):.2f}%" '
        f'cy="{100 - y.at(mark.mean):.2f}%" r="5"/></g>'
        for at, mark in marks
    )


def distribution(title: str, sides: Sequence[tuple[str, str, Sequence[int]]]) -> str:
    """Draw how long texts are, the first side upwards and the second downwards.

    Args:
        title: what is counted.
        sides: class, title and lengths of one or two, at least one length among them. A bar is as
            long as its share of its own side, so that sides of unequal number compare.
    """
    counted = [Counter(lengths) for *_, lengths in sides]
    together = sum(counted, Counter[int]())
    skewed = is_skewed(Quantiles.of(together))
    bins = bin_rows(together, logarithmic=skewed)
    first, last = bins[0].start, bins[-1].stop

    def across(length: Number) -> float:
        if skewed:
            return 100 * log((length + 1) / (first + 1)) / log((last + 1) / (first + 1))
        return 100 * (length - first) / (last - first)

    shares = [
        [sum(of[n] for n in of if low <= n < high) / (of.total() or 1) for low, high, _ in bins]
        for of in counted
    ]
    most, room = max(map(max, shares)), 100 / len(sides)
    parts, told = [], []
    for place, (kind, name, lengths) in enumerate(sides):
        if not lengths:
            continue
        middle = float(median(lengths))
        told.append(f"{name}: {number_of(len(lengths), 'text')}, median {halves(middle)} words")
        for (low, high, _), of in zip(bins, shares[place], strict=True):
            tall = room * 0.86 * of / most
            parts.append(
                f'<rect class="{kind}" x="{across(low):.2f}%" '
                f'y="{room - (0 if place else tall):.2f}%" '
                f'width="{across(high) - across(low):.2f}%" height="{tall:.2f}%">'
                f"<title>{escaped(name)}: {of:.1%} have {low:,} to {high - 1:,}</title></rect>"
            )
        name = f"{name}: median {halves(middle)}"
        parts.append(_median(kind, name, across(middle + 0.5), room, below=place > 0))
    parts.append(f'<line class="base" x1="0" x2="100%" y1="{room}%" y2="{room}%"/>')
    for length in (first, bins[len(bins) // 2].start, last):
        at = f"{across(length):.2f}%"
        parts.append(f'<text class="mid" x="{at}" y="100%" dy="18">{length:,}</text>')
    about = f"{title}. {'; '.join(told)}."
    return f'<div class="frame">{_svg("plot", about, parts)}</div>'


def _median(kind: str, name: str, x: float, room: float, *, below: bool) -> str:
    """A line through a side's median with its name at the outer end, where no bar reaches."""
    anchor, aside = ("end", -6) if x > 60 else ("start", 6)
    outer, down = ("100%", -3) if below else ("0", 11)
    return (
        f'<line class="median {kind}" x1="{x:.2f}%" x2="{x:.2f}%" y1="{room}%" y2="{outer}"/>'
        f'<text class="{anchor} {kind}" x="{x:.2f}%" dx="{aside}" y="{outer}" dy="{down}">'
        f"{escaped(name)}</text>"
    )


def finite(points: Iterable[tuple[object, object]]) -> list[tuple[Number, Number]]:
    """Keep the points that are two finite numbers.

    >>> finite([(1, 0.5), (2, None), (3, float("nan"))])
    [(1, 0.5)]
    """
    return [
        (x, y)
        for x, y in points
        if isinstance(x, int | float) and isinstance(y, int | float) and isfinite(y)
    ]


def _thinned(points: Sequence[tuple[Number, Number]]) -> list[tuple[Number, Number]]:
    size = ceil(len(points) / MAX_POINTS)
    if size < 2:
        return list(points)
    groups = (points[at : at + size] for at in range(0, len(points), size))
    return [(fmean(x for x, _ in of), fmean(y for _, y in of)) for of in groups]


def _svg(kind: str, about: str, parts: Iterable[str], more: str = "") -> str:
    name = escaped(about)
    return (
        f'<svg class="{kind}" role="img" aria-label="{name}" width="100%" {more}>{"".join(parts)}'
        "</svg>"
    )


def _ends(values: Iterable[Number]) -> tuple[Number, Number]:
    every = [0.0, *(value for value in values if isfinite(value))]
    return min(every), max(every)


def _round_up(least: Number, steps: Sequence[int]) -> float:
    power = 10.0 ** floor(log10(least))
    return next(_exact(of * power) for of in steps if of * power >= least * (1 - 1e-9))


def _exact(value: Number) -> float:
    """A round number without the last digits that arithmetic left: 0.3, not 0.30000000000004."""
    return float(f"{value:.9g}")


def _tick(value: Number, signed: bool = False) -> str:
    text = f"{value:+,.6g}" if signed and value else f"{value:,.6g}"
    return text.replace("-", "−")
