"""Histograms, bars and stacked bars as inline SVG that an HTML page colours with its own style."""

import html
import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil, exp, floor, log, log10
from typing import NamedTuple

from thinktune.data.inspection import Quantiles

NUM_BINS = 24
"""A histogram has at most about so many."""
MIN_BINS = 7
NUM_BARS = 12
"""A bar chart shows so many; the others are counted in a line below it."""
NUM_COLOURS = 6
_WIDTH, _HEIGHT = 360, 226
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 10, 44, 42
_FLOOR = _HEIGHT - _BOTTOM
_BAR_HEIGHT, _BAR_WIDTH = 37, 240
_LABEL_WIDTH = 50
# What HTML forbids (most control characters, lone surrogates) or a page cannot show.
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


class Bin(NamedTuple):
    """How many rows have a length of at least ``start`` and less than ``stop``."""

    start: int
    stop: int
    num_rows: int


def escaped(text: str, max_characters: int | None = None) -> str:
    """Make any text safe between tags and in quoted attributes; what is longer ends in ``…``.

    >>> escaped("<b>&")
    '&lt;b&gt;&amp;'
    """
    if max_characters is not None and len(text) > max_characters:
        text = text[: max_characters - 1] + "…"
    return html.escape(_FORBIDDEN.sub("\ufffd", text))


def share(part: int, whole: int) -> str:
    """A part as per cent; only nothing is 0 % and only all of it is 100 %.

    >>> share(1, 8), share(1, 9999), share(9999, 10_000)
    ('12.5%', '<0.1%', '>99.9%')
    """
    percent = 100 * part / whole if whole else 0.0
    if 0 < percent < 0.1:
        return "<0.1%"
    if 99.9 < percent < 100:
        return ">99.9%"
    return f"{percent:.0f}%" if part in (0, whole) else f"{percent:.1f}%"


def number_of(count: int, what: str) -> str:
    """Say how many.

    >>> number_of(1, "row"), number_of(1234, "row")
    ('1 row', '1,234 rows')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def halves(median: float) -> str:
    """Write a median of whole numbers.

    >>> halves(1234567.5), halves(2.0)
    ('1,234,567.5', '2')
    """
    return f"{median:,.1f}".removesuffix(".0")


def is_skewed(lengths: Quantiles) -> bool:
    """Whether the longest are so long that a linear axis would squeeze all the others."""
    middle = max(lengths.median, 1)
    return lengths.p95 > 4 * middle or lengths.maximum > 10 * middle


def bin_rows(counts: Mapping[int, int], *, logarithmic: bool = False) -> list[Bin]:
    """Put lengths, of which there is at least one, into adjacent bins of round widths.

    >>> bin_rows({3: 2, 40: 1})[-1]
    Bin(start=40, stop=42, num_rows=1)
    """
    low, high = min(counts), max(counts)
    if logarithmic:
        first, last = log(low + 1), log(high + 2)
        steps = (first + (last - first) * i / NUM_BINS for i in range(1, NUM_BINS))
        edges = sorted({low, *(max(low, round(exp(step)) - 1) for step in steps), high + 1})
    else:
        width = _round_step((high + 1 - low) / NUM_BINS)
        start = low // width * width
        edges = list(range(start, high + width + 1, width))
        while len(edges) <= MIN_BINS:  # a lone bar would fill the plot
            edges.append(edges[-1] + width)
            if len(edges) <= MIN_BINS and edges[0] >= width:
                edges.insert(0, edges[0] - width)
    rows = [0] * (len(edges) - 1)
    for length, number in counts.items():
        rows[bisect_right(edges, length) - 1] += number
    return [Bin(*of) for of in zip(edges[:-1], edges[1:], rows, strict=True)]


def histogram(key: str, title: str, counts: Mapping[int, int], lengths: Quantiles) -> str:
    """Draw how many rows have how many words, with median and 95th percentile marked.

    Args:
        key: unique on the page, for ids.
        title: what is counted.
        counts: rows by length, at least one.
        lengths: their summary.
    """
    plot = _Plot(bin_rows(counts, logarithmic=is_skewed(lengths)), is_skewed(lengths))
    about = (
        f"{number_of(sum(counts.values()), 'row')}: {lengths.minimum:,} to {lengths.maximum:,} "
        f"words, median {halves(lengths.median)}, 95% have at most {lengths.p95:,}."
    )
    marks = [
        *plot.mark(14, "p95", f"95% at most {lengths.p95:,}", lengths.p95, 140),
        *plot.mark(31, "median", f"median {halves(lengths.median)}", lengths.median, -100),
    ]
    marks.sort(key=lambda part: part.startswith("<text"))  # no line runs through a name
    return _svg(key, title, about, _HEIGHT, [*plot.axes(), *plot.bars(), *marks])


class _Plot:
    """Where a histogram's lengths and rows are on its drawing."""

    def __init__(self, bins: Sequence[Bin], logarithmic: bool) -> None:
        self._bins, self._logarithmic = bins, logarithmic
        most = max(of.num_rows for of in bins)
        self._step = _round_step(most / 4)
        self._top = ceil(most / self._step) * self._step
        self._first = self._scaled(bins[0].start)
        self._range = self._scaled(bins[-1].stop) - self._first

    def axes(self) -> list[str]:
        """Grid lines, ticks and units."""
        parts = [_text(_LEFT - 6, _TOP - 10, "rows", "end dim")]
        for rows in range(0, self._top + 1, self._step):
            y = self._y(rows)
            parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
            parts.append(_text(_LEFT - 6, y + 4, f"{rows:,}", "end dim"))
        for value in _ticks(self._bins[0].start, self._bins[-1].stop - 1, self._logarithmic):
            parts.append(_text(self._x(value + 0.5), _FLOOR + 16, f"{value:,}", "mid dim"))
        unit = "words, log scale" if self._logarithmic else "words"
        parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, unit, "mid dim"))
        return parts

    def bars(self) -> list[str]:
        """One bar a bin that has rows."""
        parts: list[str] = []
        for start, stop, rows in self._bins:
            if not rows:
                continue
            x, y = self._x(start), self._y(rows)
            words = f"{start:,}" if stop == start + 1 else f"{start:,} to {stop - 1:,}"
            parts.append(
                f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{self._x(stop) - x - 1:.1f}" '
                f'height="{_FLOOR - y:.1f}">'
                f"<title>{words} words: {number_of(rows, 'row')}</title></rect>"
            )
        return parts

    def mark(self, height: int, kind: str, told: str, value: int | float, room: int) -> list[str]:
        """A vertical line through the middle of a length, and its name.

        The name is at ``height``, to the right of the line if ``room`` is positive, else to its
        left; on the other side where that many units are not free.
        """
        x = self._x(value + 0.5)
        right = x + room < _WIDTH if room > 0 else x + room < _LEFT
        line = f'<path class="{kind}" d="M{x:.1f} {height - 10}V{_FLOOR}"/>'
        return [
            line,
            _text(x + (4 if right else -4), height, told, f"{'' if right else 'end '}{kind}"),
        ]

    def _x(self, length: int | float) -> float:
        along = (self._scaled(length) - self._first) / self._range
        return _LEFT + along * (_WIDTH - _LEFT - _RIGHT)

    def _y(self, rows: int) -> float:
        return _FLOOR - (_FLOOR - _TOP) * rows / self._top

    def _scaled(self, length: int | float) -> float:
        return log(length + 1) if self._logarithmic else float(length)


def bars(key: str, title: str, items: Sequence[tuple[str, int]], whole: int, full: int) -> str:
    """Draw one bar an item, its label above and its rows and share of ``whole`` beside it.

    Only the first ``NUM_BARS`` are drawn. A bar of ``full`` rows is as wide as the chart.
    """
    parts: list[str] = []
    for place, (label, rows) in enumerate(items[:NUM_BARS]):
        top = place * _BAR_HEIGHT
        width = max(_BAR_WIDTH * rows / max(full, 1), 1)
        parts += [
            f"<g><title>{escaped(label, 300)}: {number_of(rows, 'row')}</title>",
            _text(0, top + 13, _cut(label), "label"),
            f'<rect class="track" y="{top + 19}" width="{_BAR_WIDTH}" height="9" rx="2"/>',
            f'<rect class="bar" y="{top + 19}" width="{width:.1f}" height="9" rx="2"/>',
            _text(_WIDTH, top + 28, f"{rows:,} ({share(rows, whole)})", "end dim") + "</g>",
        ]
    about = "; ".join(f"{label[:80]} {rows:,}" for label, rows in items[:NUM_BARS])
    return _svg(key, title, about, len(items[:NUM_BARS]) * _BAR_HEIGHT, parts)


def stacked(key: str, title: str, rows: Mapping[str, Mapping[str, int]]) -> str:
    """Draw one bar a row of the chart, split by kind; its kinds are named below it with shares.

    At most ``NUM_COLOURS`` kinds are told apart; the rarest of more are one, called others.
    """
    totals = sum((Counter(counts) for counts in rows.values()), Counter[str]())
    kinds = [kind for kind, _ in totals.most_common()]
    if len(kinds) > NUM_COLOURS:
        kinds[NUM_COLOURS - 1 :] = ["others"]
    parts: list[str] = []
    about: list[str] = []
    top = 0
    for label, counts in rows.items():
        merged = dict.fromkeys(kinds, 0)
        for kind, number in counts.items():
            merged[kind if kind in merged else "others"] += number
        whole, left, entries = sum(merged.values()), 0.0, 0
        parts.append(_text(0, top + 13, label, "label"))
        for colour, (kind, number) in enumerate(merged.items()):
            if number:
                width = _WIDTH * number / whole
                name = f"<title>{escaped(kind)}: {number_of(number, 'row')}</title>"
                parts.append(_block(colour, left, top + 20, width, 14, name))
                column, line = 180 * (entries % 2), top + 49 + 17 * (entries // 2)
                parts.append(_block(colour, column, line - 8, 8, 8))
                parts.append(_text(column + 13, line, f"{kind} {share(number, whole)}", "key"))
                left, entries = left + width, entries + 1
        told = ", ".join(f"{kind} {number:,}" for kind, number in merged.items() if number)
        about.append(f"{label}: {told}.")
        top += 49 + 17 * ceil(entries / 2)
    return _svg(key, title, " ".join(about), top - 6, parts)


def _block(
    colour: int, x: int | float, y: int | float, width: int | float, height: int, inside: str = ""
) -> str:
    place = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="{height}"'
    return f'<rect class="c{colour}" {place}>{inside}</rect>'


def _svg(key: str, title: str, about: str, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-labelledby="{key}-t {key}-d">'
        f'<title id="{key}-t">{escaped(title)}</title><desc id="{key}-d">{escaped(about)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def _text(x: int | float, y: int | float, text: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind.strip()}">{escaped(text)}</text>'


def _round_step(least: int | float) -> int:
    """1, 2 or 5 times a power of ten that is at least ``least``, and a whole number."""
    power = 10 ** max(0, floor(log10(max(least, 1))))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least)


def _ticks(low: int, high: int, logarithmic: bool) -> list[int]:
    if logarithmic:
        powers = [10**exponent for exponent in range(len(str(high)))]
        finer = [of * power for power in powers for of in (1, 2, 5)]
        decades = log10((high + 1) / (low + 1))
        ticks = [0, *(finer if decades < 2.5 else powers)]
    else:
        step = _round_step((high - low) / 5)
        ticks = list(range(ceil(low / step) * step, high + 1, step))
    return [tick for tick in ticks if low <= tick <= high]


def _cut(label: str) -> str:
    """As much of a label as fits over a bar; a wide character counts twice."""
    label, width = " ".join(label.split()), 0
    for place, character in enumerate(label):
        width += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if width > _LABEL_WIDTH:
            return label[: place - 1] + "…"
    return label
