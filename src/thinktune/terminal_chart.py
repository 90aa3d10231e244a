"""Curves drawn with braille dots, two by four to a character, as a terminal shows them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Unicode's bit of each dot, by row and column of a character."""
_BLANK = 0x2800
MARK = "●"
_SMALLEST = 8
"""Characters across; a narrower drawing would show nothing."""


@dataclass(frozen=True, slots=True)
class Series:
    """A curve by step, and marked points that belong to it."""

    label: str
    """A letter or two, put beside the curve's end, for those who see no colours."""
    style: str
    curve: Mapping[int, float]
    points: Mapping[int, float]


def chart(series: Sequence[Series], *, width: int, height: int) -> Text:
    """Draw curves over one pair of axes; of those that cross, the later lies on top.

    Where steps are more than dots, a column of dots has the mean of its steps.

    Args:
        series: at least one with a value.
        width: characters of a line in all.
        height: lines of the drawing, without the axis below it.
    """
    steps = [step for each in series for part in (each.curve, each.points) for step in part]
    first, last = min(steps), max(steps)
    margin = sum(len(each.label) + 1 for each in series if each.label)
    across = max(_SMALLEST, width - margin - 8)  # 8: the value axis, mostly
    lines = [_means(each.curve, first, last, across) for each in series]
    values = [value for line in lines for _, value in line]
    values += [value for each in series for value in each.points.values()]
    ticks = _ticks(min(values), max(values), most=max(2, height // 3))
    gutter = max(map(len, ticks.values()))
    canvas = _Canvas(across, height, min(values), max(values))
    for each, line in zip(series, lines, strict=True):
        canvas.draw(line, each.style)
    for each in series:
        for step, value in each.points.items():
            canvas.mark(_column(step, first, last, across), value, f"bold {each.style}")
    beside = {canvas.row(value): told for value, told in ticks.items()}
    ends = [(canvas.row(line[-1][1]), each) for each, line in zip(series, lines, strict=True)
            if line and each.label]  # fmt: skip
    text = Text(no_wrap=True)
    for row in range(height):
        text.append(f"{beside.get(row, ''):>{gutter}} {'┤' if row in beside else '│'}", "dim")
        canvas.append_row(text, row)
        for _, each in (end for end in ends if end[0] == row):
            text.append(f" {each.label}", f"bold {each.style}")
        text.append("\n")
    text.append(" " * (gutter + 1) + "└" + "─" * across + "\n", "dim")
    begin, end = f"step {first:,}", f"{last:,}"
    told = begin if first == last else begin + f"{end:>{max(0, across - len(begin))}}"
    text.append(" " * (gutter + 2) + told, "dim")
    return text


def _ticks(low: float, high: float, *, most: int) -> dict[float, str]:
    """Round numbers between two values, and how they are written."""
    span = (high - low) or abs(high) or 1.0
    rough = span / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ticks = {number * step: f"{number * step:.{digits}f}" for number in numbers}
    return ticks or {low: f"{low:.{digits + 1}f}"}


def _column(step: int, first: int, last: int, across: int) -> int:
    """Column of dots of a step."""
    return round((step - first) / ((last - first) or 1) * (2 * across - 1))


def _means(
    curve: Mapping[int, float], first: int, last: int, across: int
) -> list[tuple[int, float]]:
    found: dict[int, list[float]] = {}
    for step in sorted(curve):
        found.setdefault(_column(step, first, last, across), []).append(curve[step])
    return [(column, sum(values) / len(values)) for column, values in found.items()]


class _Canvas:
    """Characters to draw on; owns their dots, marks and colours."""

    def __init__(self, width: int, height: int, low: float, high: float) -> None:
        self._height, self._low, self._high = height, low, high
        self._dots = [[0] * width for _ in range(height)]
        self._styles = [[""] * width for _ in range(height)]

    def _dot(self, value: float) -> int:
        span = self._high - self._low
        share = (self._high - value) / span if span else 0.5
        return round(share * (4 * self._height - 1))

    def row(self, value: float) -> int:
        """Line of characters of a value."""
        return self._dot(value) // 4

    def draw(self, line: Iterable[tuple[int, float]], style: str) -> None:
        """Join the values of a line, given by column of dots."""
        before: tuple[int, float] | None = None
        for column, value in line:
            start, past = before or (column, value)
            y = self._dot(past)
            for x in range(start, column + 1):
                share = (x - start) / (column - start) if column > start else 1.0
                to = self._dot(past + (value - past) * share)
                for dot in range(min(y, to), max(y, to) + 1):
                    self._dots[dot // 4][x // 2] |= _DOTS[dot % 4][x % 2]
                    self._styles[dot // 4][x // 2] = style
                y = to
            before = column, value

    def mark(self, column: int, value: float, style: str) -> None:
        """Put a mark over what is drawn."""
        row = self.row(value)
        self._dots[row][column // 2] = ord(MARK) - _BLANK
        self._styles[row][column // 2] = style

    def append_row(self, text: Text, row: int) -> None:
        """Put one line of characters behind a text."""
        for dots, style in zip(self._dots[row], self._styles[row], strict=True):
            text.append(chr(_BLANK + dots) if dots else " ", style)
