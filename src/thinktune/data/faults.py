"""What is wrong with a set of examples, and the way out."""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from thinktune.data.example import Example
from thinktune.words import count_words, find_words

MIN_REASONING_WORDS = 10
OPENING_WORDS = 5
OPENING_RATE = 0.2
MIN_SAME_OPENING = 3
MIN_LEAKED_WORDS = 2


class Severity(StrEnum):
    """How much a fault matters."""

    ERROR = "error"
    """It spoils training or makes the comparison worthless."""
    WARNING = "warning"
    """It usually hurts."""
    NOTE = "note"
    """Worth knowing; often intended."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, the rows it is wrong in, and the way out."""

    severity: Severity
    what: str
    rows: tuple[str, ...]
    """Names of all the rows, in the order of the source."""
    way_out: str

    @property
    def num_rows(self) -> int:
        """How many rows it concerns."""
        return len(self.rows)


def find_faults(examples: Sequence[Example], heldout: Sequence[Example] = ()) -> list[Fault]:
    """Everything wrong with ``examples``, errors first."""
    faults = [
        fault
        for fault in (
            find_leaks(examples, heldout),
            *_repeated_questions(examples),
            *(_rows_where(examples, *check) for check in ROW_CHECKS),
            _same_opening(examples),
        )
        if fault.rows
    ]
    return sorted(faults, key=lambda fault: list(Severity).index(fault.severity))


def row_name(example: Example, place: int) -> str:
    """Where an example comes from, or its place counted from 1."""
    return example.where or f"row {place}"


def _rows_where(
    examples: Iterable[Example],
    severity: Severity,
    what: str,
    way_out: str,
    is_wrong: Callable[[Example], bool],
) -> Fault:
    named = enumerate(examples, start=1)
    rows = tuple(row_name(example, place) for place, example in named if is_wrong(example))
    return Fault(severity, what, rows, way_out)


def _texts(example: Example) -> tuple[str, ...]:
    turns = (text for turn in example.history for text in (turn.content, turn.reasoning))
    return (example.question, example.reasoning, example.answer, example.system, *turns)


def _has_control_character(example: Example) -> bool:
    """Control characters but line breaks and tabs, and U+FFFD, which stands for lost text."""
    return any(
        character == "\ufffd"
        or (unicodedata.category(character) == "Cc" and character not in "\n\r\t")
        for text in _texts(example)
        for character in text
    )


def _answer_in_question(example: Example) -> bool:
    answer = example.answer.strip().casefold()
    if count_words(answer) < MIN_LEAKED_WORDS:
        return False
    return answer in example.question.casefold()


ROW_CHECKS: tuple[tuple[Severity, str, str, Callable[[Example], bool]], ...] = (
    (
        Severity.ERROR,
        "the reasoning is the answer",
        "write the steps that lead to the answer, or leave the rows out",
        lambda example: example.reasoning.strip() == example.answer.strip(),
    ),
    (
        Severity.WARNING,
        f"reasoning shorter than {MIN_REASONING_WORDS} words",
        "a model trained on short reasoning thinks as briefly; write the steps out",
        lambda example: count_words(example.reasoning) < MIN_REASONING_WORDS,
    ),
    (
        Severity.WARNING,
        "control characters or the replacement character U+FFFD",
        "usually text that was read in the wrong encoding; make the file again from its origin",
        _has_control_character,
    ),
    (
        Severity.NOTE,
        "the answer's text is in the question",
        "fine where the question lists choices; elsewhere the question gives the answer away",
        _answer_in_question,
    ),
    (
        Severity.NOTE,
        "white space before or after a text",
        "the template drops it around reasoning and answer, and keeps it in the question; strip it",
        lambda example: any(
            text != text.strip() for text in (example.question, example.reasoning, example.answer)
        ),
    ),
)
"""Faults that show in one row alone."""


def _asked(example: Example) -> tuple[object, ...]:
    """What makes two questions the same: the words, and what was said before them."""
    said = tuple((turn.role, turn.content.strip()) for turn in example.history)
    return (" ".join(example.question.split()), example.system.strip(), said)


def _repeated_questions(examples: Sequence[Example]) -> tuple[Fault, Fault]:
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for place, example in enumerate(examples):
        groups[_asked(example)].append(place)
    same: list[int] = []
    differing: list[int] = []
    for places in groups.values():
        if len(places) > 1:
            answers = {examples[place].answer.strip() for place in places}
            (differing if len(answers) > 1 else same).extend(places)
    names = [row_name(example, place) for place, example in enumerate(examples, start=1)]
    return (
        Fault(
            Severity.WARNING,
            "the same question again, with the same answer",
            tuple(names[place] for place in sorted(same)),
            "keep one of each; repeated rows weigh more and are learned by heart",
        ),
        Fault(
            Severity.WARNING,
            "the same question with different answers",
            tuple(names[place] for place in sorted(differing)),
            "keep the right answer; if all are right, say in the question what tells them apart",
        ),
    )


def find_leaks(examples: Sequence[Example], heldout: Sequence[Example]) -> Fault:
    """Training rows whose question is also among the held-out ones; no rows if there is none."""
    where: dict[object, str] = {}
    for place, example in enumerate(heldout, start=1):
        where.setdefault(" ".join(example.question.split()), row_name(example, place))
    rows = (
        (row_name(example, place), where.get(" ".join(example.question.split())))
        for place, example in enumerate(examples, start=1)
    )
    return Fault(
        Severity.ERROR,
        "the question is also among the held-out questions",
        tuple(f"{name} = {other}" for name, other in rows if other is not None),
        "take it out of one of the two; a model is not tested on what it was taught",
    )


def _same_opening(examples: Sequence[Example]) -> Fault:
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for place, example in enumerate(examples, start=1):
        opening = tuple(word.casefold() for word in find_words(example.reasoning))
        if len(opening) >= OPENING_WORDS:
            groups[opening[:OPENING_WORDS]].append(row_name(example, place))
    rows = max(groups.values(), key=len, default=[])
    wrong = len(rows) >= MIN_SAME_OPENING and len(rows) > OPENING_RATE * len(examples)
    return Fault(
        Severity.WARNING,
        f"reasoning that begins with the same {OPENING_WORDS} words",
        tuple(rows) if wrong else (),
        "a template is learned instead of thinking; vary how the reasoning starts",
    )
