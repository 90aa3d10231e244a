"""Numbers: the last one of a text, its unit, and when two are equal."""

import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from thinktune.answers.boxes import final_text
from thinktune.answers.numerals import to_digits
from thinktune.answers.units import Unit, unit_at
from thinktune.errors import ConfigError

_NUMBER = re.compile(
    r"""(?<![A-Za-z\d])(?<!\d\.)                          # not the tail of a word or a version
    (?P<sign>(?:(?<![\w)])|(?<=[是為为於于得到約约]))[-+])?   # a sign, not the dash of a range
    [$€£¥]?
    (?P<value>(?:\d{1,3}(?:[,'’]\d{3})+(?!\d)|\d+)?(?:(?<=\d)\.\d+|(?<!\d)\.\d+)?(?:(?<=\d)e[-+]?\d{1,3}(?!\d))?)
    (?<=\d)
    (?:/(?P<divisor>\d+)(?![\d/]))?""",
    re.VERBOSE | re.IGNORECASE,
)
_GROUPING = re.compile(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3})")
_LATEX = (
    (re.compile(r"\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\^\s*\{?\\circ\}?\s*"), "°"),
    (re.compile(r"\\[,;:! ]|~"), " "),
    (re.compile(r"\\%"), "%"),
)
_TOGETHER = re.compile(r"[\s,]*+(?:(?:and|又|零)\s*+)?")
_TOLERANCE = Fraction(1, 10**12)
"""Relative; a third of an hour is twenty minutes, whatever its digits end in."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number and its unit."""

    number: Decimal
    """As it stands in the text; of "1 h 30 min" the last."""
    unit: Unit | None
    """None: there is none, or not one of the table."""
    size: Fraction
    """In the unit that all of its measure share; of "1 h 30 min" the sum."""


def find_number(text: str) -> Decimal | None:
    """Read the last number of a text; None if there is none.

    Full-width digits, Chinese numerals (``numerals.to_digits`` says which), a minus sign,
    exponents, simple fractions (3/4), and commas, apostrophes or narrow spaces between groups of
    three digits are understood. A decimal comma is not: "1,5" is two numbers. Units and percent
    signs are left aside: "50 %" is 50.

    >>> find_number("16 - 3 = 13 eggs, so she earns $1,026.50.")
    Decimal('1026.50')
    """
    number = None
    for match in _NUMBER.finditer(_readable(final_text(text))):
        number = _value(match)
    return number


def find_quantity(text: str) -> Quantity | None:
    """Read the last number of a text with the unit after it; None if there is no number.

    Quantities of one measure that follow each other, the greater unit first, are one.

    >>> find_quantity("It takes 1 hour and 30 minutes.").size
    Fraction(5400, 1)
    """
    text = _readable(final_text(text))
    found: Quantity | None = None
    end = 0
    for match in _NUMBER.finditer(text):
        number = _value(match)
        unit, after = unit_at(text, match.end()) or (None, match.end())
        size = unit.in_common(Fraction(number)) if unit else Fraction(number)
        if (
            found is not None
            and found.unit is not None
            and unit is not None
            and found.unit.measures == unit.measures
            and found.unit.size > unit.size
            and _TOGETHER.fullmatch(text, end, match.start())
        ):
            size += found.size
        found, end = Quantity(number, unit, size), after
    return found


def same_quantity(reference: str, answer: str) -> bool:
    """Say whether the last number of an answer equals that of the reference, units considered.

    Where both have units of the table, they must measure the same, and the sizes must be equal:
    1.5 kg is 1500 g, 37 °C is 98.6 °F, 5 minutes are not 5 metres. Where either has none or an
    unknown one, the numbers must be equal as written: for "1.5 kg", 1.5 is right and 1500 is not.

    Raises:
        ConfigError: the reference holds no number.
    """
    expected, given = find_quantity(reference), find_quantity(answer)
    if expected is None:
        raise ConfigError(f"reference {reference!r} holds no number; use grader=text")
    if given is None:
        return False
    if expected.unit is None or given.unit is None:
        return given.number == expected.number
    near = abs(given.size - expected.size) <= _TOLERANCE * abs(expected.size)
    return near and given.unit.measures == expected.unit.measures


def is_number(text: str) -> bool:
    """Say whether a text is one number and nothing else, but for a currency or percent sign."""
    return _NUMBER.fullmatch(_readable(text).strip().rstrip("%").strip()) is not None


def is_quantity(text: str) -> bool:
    """Say whether a text is one number, with or without a unit of the table, and nothing else."""
    text = _readable(text).strip()
    match = _NUMBER.match(text)
    if match is None:
        return False
    unit = unit_at(text, match.end())
    return (unit[1] if unit else match.end()) == len(text)


def number_text(number: Decimal) -> str:
    """Write a number so that equal ones read the same.

    >>> number_text(Decimal("1000.0")), number_text(Decimal("5E+3"))
    ('1000', '5000')
    """
    text = f"{number:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _readable(text: str) -> str:
    """Text with its digits as ASCII has them, and LaTeX's marks around units gone."""
    text = unicodedata.normalize("NFKC", _GROUPING.sub("", text)).replace("\u2212", "-")
    if "\\" in text or "~" in text:
        for mark, plain in _LATEX:
            text = mark.sub(plain, text)
    return to_digits(text)


def _value(match: re.Match[str]) -> Decimal:
    value = Decimal((match["sign"] or "") + re.sub(r"[,'’]", "", match["value"]))
    divisor = Decimal(match["divisor"] or 1)
    return value / divisor if divisor not in (0, 1) else value
