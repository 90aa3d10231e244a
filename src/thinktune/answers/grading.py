"""When an answer gives the known truth, what it gives, and what a reasoning comes to."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from thinktune.answers.boxes import final_text, find_boxed
from thinktune.answers.choices import find_choice
from thinktune.answers.labels import Labels, find_labels, label_of, mentions
from thinktune.answers.maths import maths_key, same_maths
from thinktune.answers.numbers import find_number, number_text, same_quantity
from thinktune.answers.phrases import find_phrases, read_phrases
from thinktune.answers.wording import normalise, wording_pattern
from thinktune.errors import ConfigError


class AnswerKind(StrEnum):
    """What a final answer is, and so when two are equal."""

    LABEL = "label"
    NUMBER = "number"
    CHOICE = "choice"
    MATHS = "maths"
    PHRASES = "phrases"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Match:
    """Whether a text gives the reference, and what it gives."""

    strict: bool
    """The text gives the reference and nothing else."""
    lenient: bool
    """The text gives the reference, perhaps beside other things."""
    found: tuple[str, ...]
    """Labels in the order named, the final number or the letter; empty for the other kinds."""


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
    phrases   every phrase of the reference is there          the same
    text      the whole answer equals the reference           the answer contains the reference
    ========  ==============================================  ====================================

    All but labels and phrases are taken from the last ``\boxed{}`` where there is one. Numbers have
    units: ``numbers.same_quantity``. The reference of phrases is as ``phrases.read_phrases`` reads
    it; ``grade_phrases`` knows forbidden ones too.

    >>> grade("Most likely influenza, not a cold.", "flu", {"flu": ["influenza"], "cold": []})
    Match(strict=False, lenient=True, found=('flu', 'cold'))

    Raises:
        ConfigError: the reference is not one of the labels, or holds no number, letter, maths or
            phrase.
    """
    match kind:
        case AnswerKind.LABEL:
            label = label_of(reference, labels)
            found = find_labels(answer, labels)
            return Match(found == (label,), found[:1] == (label,), found)
        case AnswerKind.NUMBER:
            equal = same_quantity(reference, answer)
            number = find_number(answer)
            return Match(equal, equal, () if number is None else (number_text(number),))
        case AnswerKind.CHOICE:
            letter = find_choice(reference)
            if letter is None:
                raise ConfigError(f"reference {reference!r} is no choice such as C or (C)")
            chosen = find_choice(answer)
            return Match(chosen == letter, chosen == letter, (chosen,) if chosen else ())
        case AnswerKind.MATHS:
            equal = same_maths(reference, answer)
            return Match(equal, equal, ())
        case AnswerKind.PHRASES:
            return grade_phrases(answer, read_phrases(reference))
        case AnswerKind.TEXT:
            expected = normalise(reference)
            text = normalise(final_text(answer))
            contains = re.search(wording_pattern(expected), text)
            return Match(text == expected, bool(expected and contains), ())


def grade_phrases(answer: str, required: Sequence[str], forbidden: Sequence[str] = ()) -> Match:
    """Hold an answer against phrases it must have, and phrases it must not.

    Strict: every required phrase is there and no forbidden one. Lenient: every required phrase is
    there. Phrases are found as ``phrases.find_phrases`` does.

    Raises:
        ConfigError: there is no phrase to look for.
    """
    if not required and not forbidden:
        raise ConfigError("no phrase is required or forbidden; give at least one")
    every = all(find_phrases(answer, required))
    return Match(every and not any(find_phrases(answer, forbidden)), every, ())


def vote(answer: str, kind: AnswerKind, labels: Labels) -> str | None:
    """Give the key under which equal final answers are counted together; None if it gives none.

    The label, if exactly one is named; the last number, its unit left aside ("20 minutes" and "20"
    vote alike, "1.5 kg" and "1500 g" do not); the letter; maths as ``maths.maths_key`` writes it;
    for the other kinds the whole answer. The key is no answer to grade: grade a sample that voted
    for it. For self-consistency (arXiv:2203.11171).

    >>> vote("So she has 1,000.0 eggs.", AnswerKind.NUMBER, {})
    '1000'
    """
    match kind:
        case AnswerKind.LABEL:
            found = find_labels(answer, labels)
            return found[0] if len(found) == 1 else None
        case AnswerKind.NUMBER:
            number = find_number(answer)
            return None if number is None else number_text(number)
        case AnswerKind.CHOICE:
            return find_choice(answer)
        case AnswerKind.MATHS:
            return maths_key(answer)
        case AnswerKind.PHRASES | AnswerKind.TEXT:
            return normalise(final_text(answer)) or None


def conclusion(reasoning: str, kind: AnswerKind, labels: Labels) -> str | None:
    r"""Give what a reasoning itself comes to, as ``vote`` writes it; None if it comes to nothing.

    The last label it names, which is the last of the last sentence that names one; the last number;
    the letter decided for; the last ``\boxed{}``. Free text has no conclusion that could be found.
    A reasoning and its answer agree if this equals the answer's vote; where a reasoning ends
    "influenza rather than a cold" they seem not to.
    """
    match kind:
        case AnswerKind.LABEL:
            return (mentions(reasoning, labels) or [None])[-1]
        case AnswerKind.MATHS:
            return None if find_boxed(reasoning) is None else maths_key(reasoning)
        case AnswerKind.PHRASES | AnswerKind.TEXT:
            return None
        case _:
            return vote(reasoning, kind, labels)
