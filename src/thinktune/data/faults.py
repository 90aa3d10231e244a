"""What can be wrong with a row by itself, and the way out."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from thinktune.answers.numbers import find_number, is_number
from thinktune.data.example import Example
from thinktune.data.text_faults import PERSONAL, FaultKind, find_text_faults
from thinktune.words import count_words, find_words

FIELDS = ("question", "reasoning", "answer")
NAMED_ROWS = 1000
"""A fault names at most so many rows; their number is always whole."""
MIN_REASONING_WORDS = 10
MIN_LEAKED_WORDS = 2
RESTATED_RATE = 0.9
"""Share of the reasoning's pairs of words that stand in the answer too."""
RESTATED_LENGTH = 1.5
"""Reasoning longer than so many times the answer does not only restate it."""


_BETWEEN = "\n\n"
"""Between texts that are looked through as one: no fault goes across it."""


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
    """Names of the first rows, in the order of the source, some with what was found there."""
    way_out: str
    num_rows: int
    """How many rows it concerns."""


class Tally:
    """Counts the rows of one fault and keeps the names of the first."""

    def __init__(self, severity: Severity, what: str, way_out: str) -> None:
        """Start without rows."""
        self.severity, self.what, self.way_out = severity, what, way_out
        self.rows: list[str] = []
        self.num_rows = 0

    def add(self, row: str, found: str = "") -> None:
        """Count a row, and what was found in it."""
        self.num_rows += 1
        if len(self.rows) < NAMED_ROWS:
            self.rows.append(f"{row}: {found}" if found else row)

    @property
    def fault(self) -> Fault:
        """What was counted so far."""
        return Fault(self.severity, self.what, tuple(self.rows), self.way_out, self.num_rows)


class RowCheck(NamedTuple):
    """One fault that shows in a row alone."""

    severity: Severity
    what: str
    way_out: str
    find: Callable[[Example], str | bool]
    """What was found, or whether something was; empty or false if the row is right."""


class RowFaults:
    """Every fault that shows in one row alone, counted row by row."""

    def __init__(self) -> None:
        """Start without rows."""
        self._tallies: dict[str, Tally] = {}

    def add(self, example: Example, name: str, *, reasoning_words: int) -> None:
        """Check a row, whose words of reasoning were counted already."""
        for check in ROW_CHECKS:
            found = check.find(example)
            if found:
                self._tally(check.severity, check.what, check.way_out).add(
                    name, found if isinstance(found, str) else ""
                )
        if reasoning_words < MIN_REASONING_WORDS:
            self._tally(*TOO_SHORT).add(name)
        texts = _texts(example)
        if not find_text_faults(_BETWEEN.join(text for _, text in texts)):
            return  # in most rows; one text is faster to look through than three
        told: set[FaultKind] = set()
        for field, text in texts:
            for kind, snippet in find_text_faults(text):
                if kind not in told:
                    told.add(kind)
                    severity, what, way_out = TEXT_FAULTS[kind]
                    self._tally(severity, what, way_out).add(name, f"{field} has {snippet!r}")

    def add_unusable(self, reasons: tuple[str, ...], name: str) -> None:
        """Count a row that no example could be made of."""
        for reason in reasons:
            self._tally(
                Severity.ERROR,
                f"cannot be used: {reason.strip(' ,')}",
                "mend the rows or leave them out (thinktune data convert --skip-unusable)",
            ).add(name)

    @property
    def faults(self) -> list[Fault]:
        """What was found so far."""
        return [tally.fault for tally in self._tallies.values()]

    def _tally(self, severity: Severity, what: str, way_out: str) -> Tally:
        return self._tallies.setdefault(what, Tally(severity, what, way_out))


def row_name(example: Example, place: int) -> str:
    """Where an example comes from, or its place counted from 1."""
    return example.where or f"row {place}"


def _texts(example: Example) -> list[tuple[str, str]]:
    texts = [
        ("question", example.question),
        ("reasoning", example.reasoning),
        ("answer", example.answer),
    ]
    if example.system:
        texts.append(("system prompt", example.system))
    for turn in example.history:
        texts += [("earlier turn", turn.content), ("earlier turn", turn.reasoning)]
    return texts


_TAG = re.compile(r"</?(?:think|thinking|thought|thoughts|reasoning)>", re.IGNORECASE)
_HEADING = re.compile(
    r"^[#*\s]*(?:chain of thought|reasoning|thought process|let me think|推理過程|思考過程|推理过程"
    r"|思考过程|思路)[*\s]*(?:[:：]|$)",
    re.IGNORECASE | re.MULTILINE,
)


def _tag_in_a_field(example: Example) -> str:
    for text in (example.question, example.reasoning, example.answer):
        if "<" in text and (tag := _TAG.search(text)):
            return tag[0]
    return ""


def _reasoning_in_answer(example: Example) -> str:
    reasoning, answer = example.reasoning.strip(), example.answer.strip()
    if 0 < len(reasoning) < len(answer) and reasoning in answer:
        return "the whole reasoning"
    if ":" not in answer and "：" not in answer and "\n" not in answer:
        return ""
    heading = _HEADING.search(answer)
    return heading[0].strip() if heading else ""


def _only_restates(example: Example) -> bool:
    reasoning, answer = example.reasoning, example.answer
    if len(reasoning) > RESTATED_LENGTH * len(answer) or reasoning.strip() == answer.strip():
        return False
    pairs = set(pairwise(word.casefold() for word in find_words(reasoning)))
    said = set(pairwise(word.casefold() for word in find_words(answer)))
    return bool(pairs) and len(pairs & said) >= RESTATED_RATE * len(pairs)


_GROUPING = re.compile(r"(?<=\d)[,' \u00a0\u2009\u202f](?=\d{3})")


def _concludes_otherwise(example: Example) -> bool:
    if example.reference is None or example.reference in example.reasoning:
        return False
    reference = example.reference.strip().casefold()
    if not reference or reference not in example.answer.casefold():
        return False
    if reference in example.reasoning.casefold():
        return False
    number = find_number(reference) if is_number(reference) else None
    return number is None or f"{number:f}" not in _GROUPING.sub("", example.reasoning)


def _has_space_around(example: Example) -> bool:
    question, reasoning, answer = example.question, example.reasoning, example.answer
    return (
        question != question.strip() or reasoning != reasoning.strip() or answer != answer.strip()
    )


def _answer_in_question(example: Example) -> bool:
    question, answer = example.question.casefold(), example.answer.strip().casefold()
    if len(answer) <= len(question) and answer in question:
        return count_words(answer) >= MIN_LEAKED_WORDS
    reference = (example.reference or "").strip().casefold()
    if len(reference) < 2 or reference not in question:
        return False
    return not is_number(reference) and count_words(reference) >= MIN_LEAKED_WORDS


TOO_SHORT = (
    Severity.WARNING,
    f"reasoning shorter than {MIN_REASONING_WORDS} words",
    "a model trained on short reasoning thinks as briefly; write the steps out",
)
ROW_CHECKS = (
    RowCheck(
        Severity.ERROR,
        "the reasoning is the answer",
        "write the steps that lead to the answer, or leave the rows out",
        lambda example: example.reasoning.strip() == example.answer.strip(),
    ),
    RowCheck(
        Severity.ERROR,
        "think tags within a text",
        "they would open or close the reasoning a second time; take them out",
        _tag_in_a_field,
    ),
    RowCheck(
        Severity.WARNING,
        "reasoning within the answer",
        "it is learned as part of what the reader gets; move it to the reasoning",
        _reasoning_in_answer,
    ),
    RowCheck(
        Severity.WARNING,
        "reasoning that only restates the answer",
        "write the steps that lead to it, or leave the rows out",
        _only_restates,
    ),
    RowCheck(
        Severity.WARNING,
        "the reference is in the answer, and never reached in the reasoning",
        "a model learns to answer without regard to what it thought; let the reasoning conclude",
        _concludes_otherwise,
    ),
    RowCheck(
        Severity.NOTE,
        "the answer or the reference is in the question",
        "fine where the question lists choices; elsewhere the question gives the answer away",
        _answer_in_question,
    ),
    RowCheck(
        Severity.NOTE,
        "white space before or after a text",
        "the template drops it around reasoning and answer, and keeps it in the question; strip it "
        "(thinktune data clean)",
        _has_space_around,
    ),
)
"""Faults that show in one row alone, but for those of its texts."""

_PERSONAL = (
    "replace it, or make sure that you may train on it; nothing is removed for you, and a model "
    "can give back what it was trained on"
)
TEXT_FAULTS: dict[FaultKind, tuple[Severity, str, str]] = {
    FaultKind.CONTROL: (
        Severity.WARNING,
        "control characters or the replacement character U+FFFD",
        "usually text that was read in the wrong encoding; make the file again from its origin",
    ),
    FaultKind.INVISIBLE: (
        Severity.NOTE,
        "invisible characters: zero width, or marks of direction",
        "they are tokens a model learns to write; take them out (thinktune data clean)",
    ),
    FaultKind.MOJIBAKE: (
        Severity.WARNING,
        "text that was read in the wrong encoding",
        "make the file again from its origin, or mend it (thinktune data clean --fix mojibake)",
    ),
    FaultKind.HTML: (
        Severity.WARNING,
        "HTML tags or entities",
        "a model learns to write them; take them out (thinktune data clean --fix html)",
    ),
    **{
        kind: (Severity.WARNING, f"personal data: {kind}", _PERSONAL)
        for kind in FaultKind
        if kind in PERSONAL
    },
    FaultKind.NAME: (Severity.NOTE, "personal data: name with a title", _PERSONAL),
}
"""Faults of a text by kind: severity, what it is, and the way out."""
