"""A field of an example by its name, rows grouped by it, and rules that compare it."""

import json
import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from thinktune.data.example import Example
from thinktune.errors import ConfigError, DataError

FIELDS = ("question", "reasoning", "answer", "reference", "system")
"""Fields by their own name; others are ``metadata.NAME``, or ``metadata.NAME.NAME`` inside."""
NO_VALUE = "(none)"
SHOWN_STRATA = 40
"""Lines of a table on the screen and in a card."""

Comparison = Callable[[object, object], bool]
COMPARISONS: Mapping[str, Comparison] = {
    ">=": lambda held, wanted: held >= wanted,  # pyright: ignore[reportOperatorIssue]
    "<=": lambda held, wanted: held <= wanted,  # pyright: ignore[reportOperatorIssue]
    "!=": lambda held, wanted: held != wanted,
    "==": lambda held, wanted: held == wanted,
    "=": lambda held, wanted: held == wanted,
    ">": lambda held, wanted: held > wanted,  # pyright: ignore[reportOperatorIssue]
    "<": lambda held, wanted: held < wanted,  # pyright: ignore[reportOperatorIssue]
}
_RULE = re.compile(r"\s*(?P<path>[^<>=!]+?)\s*(?P<sign>>=|<=|!=|==|=|>|<)\s*(?P<value>.+?)\s*")


def field_of(path: str) -> Callable[[Example], object]:
    """Give what reads a field; None where an example lacks it.

    >>> field_of("metadata.age")(Example("q", "r", "a", metadata={"age": 7}))
    7

    Raises:
        ConfigError: there is no such field.
    """
    if path in FIELDS:
        return lambda example: getattr(example, path) or None
    head, *names = path.split(".")
    if head != "metadata" or not all(names) or not names:
        raise ConfigError(f"no field {path!r}; known: {', '.join(FIELDS)}, metadata.NAME")

    def read(example: Example) -> object:
        held: object = example.metadata
        for name in names:
            held = held.get(name) if isinstance(held, Mapping) else None
        return held

    return read


@dataclass(frozen=True, slots=True)
class Strata:
    """Rows by the values of some fields."""

    names: tuple[str, ...]
    """Of each stratum, in the order of first appearance."""
    rows: np.ndarray
    """The number of each row's stratum."""


def count_table(strata: Strata, sides: dict[str, np.ndarray]) -> tuple[tuple[str, ...], ...]:
    """Count the rows of each stratum on each side: a heading, the first 40 strata, a total."""
    num = len(strata.names)
    counts = [np.bincount(strata.rows[side], minlength=num) for side in sides.values()]
    lines = [
        (name, *(f"{count[number]:,}" for count in counts))
        for number, name in enumerate(strata.names)
    ]
    if len(lines) > SHOWN_STRATA:
        more = f"... {len(lines) - SHOWN_STRATA:,} more"
        lines = [*lines[:SHOWN_STRATA], (more, *("" for _ in sides))]
    total = [("all", *(f"{count.sum():,}" for count in counts))] if num > 1 else []
    return (("", *sides), *lines, *total)


class Stratifier:
    """Puts rows into strata one at a time, in 4 bytes each."""

    def __init__(self, paths: Sequence[str]) -> None:
        """Group by the values of these fields; by none, all rows are one stratum.

        Raises:
            ConfigError: there is no such field.
        """
        self._paths = paths
        self._readers = [field_of(path) for path in paths]
        self._numbers: dict[str, int] = {}
        self._rows = array("i")
        self._seen = [False] * len(paths)

    def add(self, example: Example) -> None:
        """Take in the next row."""
        values = [read(example) for read in self._readers]
        for place, value in enumerate(values):
            self._seen[place] |= value is not None
        name = " / ".join(map(as_name, values)) or "all"
        self._rows.append(self._numbers.setdefault(name, len(self._numbers)))

    def strata(self) -> Strata:
        """Give the strata of all rows so far.

        Raises:
            DataError: no row has one of the fields.
        """
        for path, seen in zip(self._paths, self._seen, strict=True):
            if not seen:
                raise DataError(f"--by {path}: no row has it")
        return Strata(tuple(self._numbers), np.frombuffer(self._rows, np.int32))


def as_name(value: object) -> str:
    """Write a value as the name of a stratum."""
    if value is None:
        return NO_VALUE
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


@dataclass(frozen=True, slots=True)
class Rule:
    """A comparison of one field with one value."""

    text: str
    _read: Callable[[Example], object]
    _sign: str
    _value: str

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """Read ``FIELD SIGN VALUE``; the signs are >= <= > < = == and !=.

        Raises:
            ConfigError: it is not so, or there is no such field.
        """
        found = _RULE.fullmatch(text)
        if found is None:
            raise ConfigError(
                f"rule {text!r}: write FIELD, one of >= <= > < = !=, and a value, "
                "as in metadata.year>=2024"
            )
        value = found["value"]
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        return cls(text, field_of(found["path"]), found["sign"], value)

    def holds(self, example: Example) -> bool | None:
        """Say whether the example is as the rule says; None if it lacks the field.

        Two numbers are compared as numbers, anything else as text, so dates as 2024-05-01 are. A
        value that is no number is neither more nor less than one: that too is None.

        >>> rule = Rule.parse("metadata.year >= 2024")
        >>> [rule.holds(Example("q", "r", "a", metadata={"year": y})) for y in (999, "2024")]
        [False, True]
        """
        held = self._read(example)
        if held is None:
            return None
        name = as_name(held)
        number, wanted = _number(name), _number(self._value)
        compare = COMPARISONS[self._sign]
        if number is not None and wanted is not None:
            return compare(number, wanted)
        if wanted is not None and self._sign[0] in "<>":
            return None
        return compare(name, self._value)


def all_hold(rules: Iterable[Rule], example: Example) -> bool | None:
    """Say whether every rule holds; None if the example lacks a field of one."""
    held = [rule.holds(example) for rule in rules]
    return None if None in held else all(held)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
