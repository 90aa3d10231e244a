"""Names of rows as a list to unfold on a page: rows of one file share a line."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from thinktune.data.charts import escaped, number_of
from thinktune.data.faults import NAMED_ROWS

MAX_LINE = 300
"""Longer lines are cut to so many characters."""
_ON_A_LINE = 50
_ROW = re.compile(r"(?P<label>(?:(?!: | = ).)*\brow )(?P<number>\d{1,15})", re.DOTALL)


def fold(names: Sequence[str], num_rows: int, room: int, lang: str = "") -> str:
    """Give a folded list of rows, as many as ``room`` bytes hold; how many more is said below it.

    Args:
        names: as a fault has them: ``train.jsonl row 3``, or that, a colon and what was found.
        num_rows: how many there are; ``names`` may be only the first of them.
        room: most bytes of the list's lines.
        lang: the attribute for the list's language, or nothing.
    """
    if not names:
        return ""
    lines: list[str] = []
    shown = 0
    for line, number in _lines(names):
        room -= len(line.encode()) + len("<li></li>")
        if room < 0:
            break
        lines.append(f"<li>{line}</li>")
        shown += number
    are_rows = len(names) >= min(num_rows, NAMED_ROWS)  # else they tell of many rows at once
    rest = (num_rows if are_rows else len(names)) - shown
    title = f"the first {shown:,} of {num_rows:,} rows" if rest else number_of(num_rows, "row")
    more = f"<p>and {rest:,} more</p>" if rest else ""
    return (
        f"<details><summary>{title if are_rows else 'which'}</summary>"
        f"<ul{lang}>{''.join(lines)}</ul>{more}</details>"
    )


def _lines(names: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Lines of escaped text, with how many names each holds: rows of one file share a line."""
    matched = ((name, _ROW.fullmatch(name)) for name in names)
    for label, group in groupby(matched, key=lambda of: of[1] and of[1]["label"]):
        numbers: list[int] = []
        for name, match in group:
            if match is None:
                yield escaped(name, MAX_LINE), 1
                continue
            numbers.append(int(match["number"]))
            if len(numbers) == _ON_A_LINE:
                yield _one_line(str(label), numbers), len(numbers)
                numbers = []
        if numbers:
            yield _one_line(str(label), numbers), len(numbers)


def _one_line(label: str, numbers: Sequence[int]) -> str:
    """``train.jsonl rows 1, 4 to 7``."""
    told: list[str] = []
    for _, run in groupby(enumerate(numbers), key=lambda of: of[1] - of[0]):
        first, *others = [number for _, number in run]
        if len(others) > 1:
            told.append(f"{first} to {others[-1]}")
        else:
            told += map(str, (first, *others))
    label = label.removesuffix(" ")
    return f"{escaped(label, MAX_LINE)}{'s' if len(numbers) > 1 else ''} {', '.join(told)}"
