"""Final answers: how one is found in a text, and when it equals the known truth."""

import logging
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
    CHOICE = "choice"
    MATHS = "maths"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Match:
    """Whether a text gives the reference, and what it gives."""

    strict: bool
    """The text gives the reference and nothing else."""
    lenient: bool
    """The text gives the reference, perhaps beside other things."""
    found: tuple[str, ...]
    """Labels in the order named, the final number or the letter; empty for maths and text."""


def grade(
    answer: str, reference: str, labels: Labels, kind: AnswerKind = AnswerKind.LABEL
) -> Match:
    r"""Hold an answer against the known truth.

    ========  ==============================================  ====================================
    kind      strict                                          lenient
    ========  ==============================================  ====================================
    label     the reference is named and no other label is    the reference is the first one named
    number    the last number equals the reference            the same
    choice    the letter decided for is the reference's       the same
    maths     the expression equals the reference             the same
    text      the whole answer equals the reference           the answer contains the reference
    ========  ==============================================  ====================================

    All but labels are taken from the last ``\boxed{}`` where there is one.

    >>> grade("Most likely influenza, not a cold.", "flu", {"flu": ["influenza"], "cold": []})
    Match(strict=False, lenient=True, found=('flu', 'cold'))

    Raises:
        ConfigError: the reference is not one of the labels, or holds no number, letter or maths.
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
            equal = number == expected
            return Match(equal, equal, () if number is None else (f"{number:f}",))
        case AnswerKind.CHOICE:
            letter = find_choice(reference)
            if letter is None:
                raise ConfigError(f"reference {reference!r} is no choice such as C or (C)")
            chosen = find_choice(answer)
            return Match(chosen == letter, chosen == letter, (chosen,) if chosen else ())
        case AnswerKind.MATHS:
            equal = same_maths(reference, answer)
            return Match(equal, equal, ())
        case AnswerKind.TEXT:
            expected_text = normalise(reference)
            text = normalise(_boxed(answer))
            contains = re.search(_bounded(re.escape(expected_text), expected_text), text)
            return Match(text == expected_text, bool(expected_text and contains), ())


def find_labels(answer: str, labels: Labels) -> tuple[str, ...]:
    """List the labels an answer names, each once, in the order of first mention.

    Case and width do not matter; a space, a hyphen and an underscore in an alias are one. A Latin
    alias must stand as a word of its own, one in a script without spaces may stand inside other
    text. Where aliases overlap the longest wins: "stomach flu" is not also "flu". A one-letter
    alias must appear in its own case, so that option "A" is not every article.

    Meaning is not read: "non-influenza" names influenza.

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


_LETTER = r"[*_(\[（「 ]{0,4}(?P<letter>[A-HJ]|I(?!['’]|\s+[a-z]))(?![A-Za-z'’])"
_CHOSEN = re.compile(  # bounded, for a looping model writes "the answer is" ten thousand times
    r"(?:(?i:answer|option|choice)|答案|選項|选项|應選|应选|故選|故选)"
    r"(?:[ *:：=是為为]|(?i:is|the|correct|option|choice|answer|most likely)\b){0,12}" + _LETTER
)
_LEADING = re.compile(rf"{_LETTER}[*_\s]*(?:[)\]）」.:：,、].*)?\Z", re.DOTALL)
_IN_BRACKETS = re.compile(r"[(（](?P<letter>[A-J])[)）]")


def find_choice(text: str) -> str | None:
    r"""Read the letter, A to J, that a text decides for; None if it decides for none.

    In this order: the last ``\boxed{}``; the last "Answer: C", "option C" or 答案是 C; a text that
    is a letter or starts with one, as "C. Paris" does, or has one in brackets, and no other so.

    >>> find_choice("A is too early and (B) too late, so the answer is (C).")
    'C'
    """
    text = " ".join(text.upper().split() if len(text.strip()) == 1 else text.split())
    text = unicodedata.normalize("NFKC", re.sub(r"\\(?:text\w*|math\w+)\s*\{", "{", text))
    if (boxed := find_boxed(text)) is not None:
        alone = _LEADING.match(boxed.strip("{} "))
        return alone["letter"] if alone else None
    if decided := [match["letter"] for match in _CHOSEN.finditer(text)]:
        return decided[-1]
    letters = {match["letter"] for match in _IN_BRACKETS.finditer(text)}
    if alone := _LEADING.match(text):
        letters.add(alone["letter"])
    return letters.pop() if len(letters) == 1 else None


def same_maths(reference: str, answer: str, *, seconds: int = 5) -> bool:
    """Say whether an answer's final expression equals the reference's, as Math-Verify sees it.

    A reference without marks is read as LaTeX. A comparison ends after ``seconds``, as unequal;
    that limit is a Unix alarm and needs the main thread.

    Raises:
        ConfigError: Math-Verify is missing, or the reference holds no maths.
    """
    try:
        import math_verify  # noqa: PLC0415 - an optional extra, and slow to import
    except ImportError as error:
        raise ConfigError("maths answers need: pip install thinktune[teacher]") from error
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns of each time-out
    marked = re.search(r"(?<!\\)\$|\\[(\[]|\\f?boxed", reference)
    boxes = (find_boxed(reference) if marked else reference, find_boxed(answer))
    gold, found = (
        math_verify.parse(text if box is None else f"$\\boxed{{{box}}}$", parsing_timeout=seconds)
        for text, box in zip((reference, answer), boxes, strict=True)
    )
    if not gold:
        raise ConfigError(f"reference {reference!r} holds no maths that can be read")
    return bool(math_verify.verify(gold, found, timeout_seconds=seconds))


def find_boxed(text: str) -> str | None:
    r"""Give what the last ``\boxed{}`` holds, braces inside it too; None if there is none.

    >>> find_boxed(r"so \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    last: str | None = None
    starts: list[int] = []
    for match in re.finditer(r"\\f?boxed\s*\{|(?<!\\)[{}]", text):
        if match[0] != "}":
            starts.append(match.end() if len(match[0]) > 1 else 0)
        elif starts and (start := starts.pop()):
            last = text[start : match.start()]
    return last


def normalise(text: str) -> str:
    """Make texts comparable: case, width, spacing and punctuation at the ends do not matter.

    >>> normalise(" **The  Answer**. ")
    'the answer'
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return re.sub(r"\s+", " ", text).strip(" .,;:!?*_`\"'“”‘’「」『』。、")


def _boxed(text: str) -> str:
    boxed = find_boxed(text)
    return text if boxed is None else boxed


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
