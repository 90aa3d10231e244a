"""Final answers: how one is found in a text, and when it equals the known truth."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from thinktune.errors import ConfigError
from thinktune.words import UNSPACED

Labels = Mapping[str, Sequence[str]]
"""Label to its aliases; a label is always an alias of itself."""


class AnswerKind(StrEnum):
    """What a final answer is, and so when two are equal."""

    LABEL = "label"
    NUMBER = "number"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Match:
    """Whether a text gives the reference, and what it gives."""

    strict: bool
    """The text gives the reference and nothing else."""
    lenient: bool
    """The text gives the reference, perhaps beside other things."""
    found: tuple[str, ...]
    """Labels in the order named, or the final number; empty for text answers."""


def grade(
    answer: str, reference: str, labels: Labels, kind: AnswerKind = AnswerKind.LABEL
) -> Match:
    r"""Hold an answer against the known truth.

    ========  ==============================================  ====================================
    kind      strict                                          lenient
    ========  ==============================================  ====================================
    label     the reference is named and no other label is    the reference is the first one named
    number    the last number equals the reference            the same
    text      the whole answer equals the reference           the answer contains the reference
    ========  ==============================================  ====================================

    Numbers and texts are taken from the last ``\boxed{}`` where there is one.

    >>> grade("Most likely influenza, not a cold.", "flu", {"flu": ["influenza"], "cold": []})
    Match(strict=False, lenient=True, found=('flu', 'cold'))

    Raises:
        ConfigError: the reference is not one of the labels, or holds no number.
    """
    match kind:
        case AnswerKind.LABEL:
            label = label_of(reference, labels)
            found = find_labels(answer, labels)
            return Match(found == (label,), found[:1] == (label,), found)
        case AnswerKind.NUMBER:
            expected = find_number(reference)
            if expected is None:
                raise ConfigError(f"reference {reference!r} holds no number; use grader=text")
            number = find_number(answer)
            return Match(
                number == expected, number == expected, () if number is None else (f"{number:f}",)
            )
        case AnswerKind.TEXT:
            expected_text = normalise(reference)
            text = normalise(_boxed(answer))
            contains = (
                re.search(_bounded(re.escape(expected_text), expected_text), text) is not None
            )
            return Match(text == expected_text, bool(expected_text) and contains, ())


def find_labels(answer: str, labels: Labels) -> tuple[str, ...]:
    """List the labels an answer names, each once, in the order of first mention.

    Case and width do not matter; a space, a hyphen and an underscore in an alias are one. A Latin
    alias must stand as a word of its own, one in a script without spaces may stand inside other
    text. Where aliases overlap the longest wins: "stomach flu" is not also "flu". A one-letter
    alias must appear in its own case, so that option "A" is not every article.

    Meaning is not read: "no sign of influenza" and "non-influenza" both name influenza.

    >>> find_labels("Stomach flu.", {"gastroenteritis": ["stomach flu"], "influenza": ["flu"]})
    ('gastroenteritis',)

    Raises:
        ConfigError: an alias is empty or belongs to two labels.
    """
    text = unicodedata.normalize("NFKC", answer)
    mentions = [
        (match.start(), match.end(), label)
        for alias, label in _aliases(labels).items()
        for match in _alias_pattern(alias).finditer(text)
    ]
    kept: list[tuple[int, int, str]] = []
    for mention in sorted(mentions, key=lambda m: (m[0] - m[1], m[0])):
        if all(mention[1] <= start or end <= mention[0] for start, end, _ in kept):
            kept.append(mention)
    return tuple(dict.fromkeys(label for _, _, label in sorted(kept)))


def label_of(reference: str, labels: Labels) -> str:
    """Give the label a reference stands for: its name, an alias, or the only label it names.

    Raises:
        ConfigError: the reference is not one of the labels.
    """
    exact = _aliases(labels).get(_alias_key(reference))
    if exact is not None:
        return exact
    found = find_labels(reference, labels)
    if len(found) == 1:
        return found[0]
    known = ", ".join(labels)
    raise ConfigError(
        f"reference {reference!r} is not one of the labels ({known}); "
        "add it to evaluation.labels as a label or an alias"
    )


def labels_from(references: Iterable[str]) -> dict[str, list[str]]:
    """Take the distinct references as labels, in order of first appearance, without aliases."""
    labels: dict[str, str] = {}
    for reference in references:
        labels.setdefault(_alias_key(reference), reference.strip())
    return {label: [] for label in labels.values()}


_NUMBER = re.compile(
    r"""(?<![A-Za-z\d])(?<!\d\.)                          # not the tail of a word or a version
    (?P<sign>(?<![\w)])[-+])?                             # a sign, not the dash of a range
    [$€£¥]?
    (?P<value>(?:\d{1,3}(?:[,'’]\d{3})+(?!\d)|\d+)?(?:(?<=\d)\.\d+|(?<!\d)\.\d+)?(?:(?<=\d)e[-+]?\d{1,3}(?!\d))?)
    (?<=\d)
    (?:/(?P<divisor>\d+)(?![\d/]))?""",
    re.VERBOSE | re.IGNORECASE,
)


def find_number(text: str) -> Decimal | None:
    """Read the last number of a text; None if there is none.

    Full-width digits, a minus sign, exponents, simple fractions (3/4), and commas, apostrophes or
    narrow spaces between groups of three digits are understood. A decimal comma is not: "1,5" is
    two numbers. Units and percent signs are left aside: "50 %" is 50.

    >>> find_number("16 - 3 = 13 eggs, so she earns $1,026.50.")
    Decimal('1026.50')
    """
    text = re.sub(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3})", "", _boxed(text))
    text = unicodedata.normalize("NFKC", text).replace("\u2212", "-")
    number = None
    for match in _NUMBER.finditer(text):
        value = Decimal((match["sign"] or "") + re.sub(r"[,'’]", "", match["value"]))
        divisor = Decimal(match["divisor"] or 1)
        number = value / divisor if divisor not in (0, 1) else value
    return number


def is_number(text: str) -> bool:
    """Say whether a text is one number and nothing else, but for a currency or percent sign."""
    text = unicodedata.normalize("NFKC", text).replace("\u2212", "-").strip().rstrip("%").strip()
    return _NUMBER.fullmatch(text) is not None


def normalise(text: str) -> str:
    """Make texts comparable: case, width, spacing and punctuation at the ends do not matter.

    >>> normalise(" **The  Answer**. ")
    'the answer'
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return re.sub(r"\s+", " ", text).strip(" .,;:!?*_`\"'“”‘’「」『』。、")


def _boxed(text: str) -> str:
    boxes = re.findall(r"\\boxed\s*\{([^{}]*)\}", text)
    return boxes[-1] if boxes else text


def _alias_key(alias: str) -> str:
    key = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", alias).strip())
    return key if len(key) == 1 else key.lower()


def _aliases(labels: Labels) -> dict[str, str]:
    owners: dict[str, str] = {}
    for label, aliases in labels.items():
        for alias in (label, *aliases):
            key = _alias_key(alias)
            if not key:
                raise ConfigError(f"label {label!r} has an empty alias; remove it")
            if owners.setdefault(key, label) != label:
                raise ConfigError(
                    f"alias {alias!r} belongs to both {owners[key]!r} and {label!r}; keep it in one"
                )
    return owners


def _alias_pattern(alias: str) -> re.Pattern[str]:
    pattern = r"[\s_-]+".join(re.escape(word) for word in alias.split(" "))
    return re.compile(_bounded(pattern, alias), 0 if len(alias) == 1 else re.IGNORECASE)


def _bounded(pattern: str, text: str) -> str:
    letter = rf"[^\W_{UNSPACED}]"
    before = rf"(?<!{letter})" if re.match(letter, text) else ""
    after = rf"(?!{letter})" if re.search(rf"{letter}\Z", text) else ""
    return before + pattern + after
