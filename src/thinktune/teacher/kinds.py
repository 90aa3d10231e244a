"""Which kind of final answers a run has, and whether all its references are of it."""

import importlib.util
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from thinktune.answers.boxes import find_boxed
from thinktune.answers.choices import find_choice
from thinktune.answers.grading import AnswerKind, grade
from thinktune.answers.labels import Labels, find_labels, labels_from
from thinktune.answers.numbers import is_number
from thinktune.data.example import Example
from thinktune.errors import ConfigError, DataError
from thinktune.teacher.config import TeacherConfig, Verify

_MARKS = ("\\", "^", "$", "=", "_{")
_MAX_LABELS = 50
_MAX_LABEL_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Check:
    """How answers of a run are compared."""

    kind: AnswerKind | None
    """Against references; None asks a judge."""
    labels: Labels
    has_references: bool
    """Some question has one; if none has, each question's answers say how they are compared."""


def plan_check(questions: Sequence[Example], config: TeacherConfig) -> Check:
    """Decide how answers are compared, and refuse references that cannot be, before asking.

    Raises:
        ConfigError: maths without Math-Verify, or outside the main thread.
        DataError: a reference that is no label, number, choice or maths; names the row.
    """
    references = [q.reference for q in questions if q.reference is not None]
    if config.verify is Verify.JUDGE:
        return Check(None, {}, bool(references))
    kind = _kind(references, config)
    labels: Labels = {}
    if kind is AnswerKind.LABEL:
        labels = config.labels or labels_from(references)
        find_labels("", labels)  # refuses labels that cannot be told apart
    if kind is AnswerKind.MATHS:
        require_maths()
    for question in questions:
        if question.reference is not None:
            try:
                grade("", question.reference, labels, kind)
            except ConfigError as error:
                told = str(error).partition(";")[0]
                raise DataError(
                    f"{question.where}: {told}; verify={kind} cannot use it: mend it, or choose "
                    "another --verify"
                ) from error
    return Check(kind, labels, bool(references))


def require_maths() -> None:
    """Refuse to compare maths where that cannot be done.

    Raises:
        ConfigError: Math-Verify is missing, or this is not the main thread.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise ConfigError("maths answers need: pip install thinktune[teacher]")
    if threading.current_thread() is not threading.main_thread():
        raise ConfigError("maths is compared under a time limit, which needs the main thread")


def _kind(references: Sequence[str], config: TeacherConfig) -> AnswerKind:
    """The kind asked for, or the one that all references are of."""
    if config.verify is not Verify.AUTO:
        return AnswerKind(config.verify.value)
    if config.labels:
        return AnswerKind.LABEL
    kind = _kind_of_finals(references)
    if kind is not AnswerKind.TEXT:
        return kind
    distinct = labels_from(references)
    often = len(references) >= 2 * len(distinct)
    short = all(len(label) <= _MAX_LABEL_CHARACTERS for label in distinct)
    is_label = often and short and 0 < len(distinct) <= _MAX_LABELS
    return AnswerKind.LABEL if is_label else AnswerKind.TEXT


def kind_of_answers(answers: Sequence[str]) -> AnswerKind:
    """Say the kind that all answers of a question are of, by what is boxed or the whole."""
    boxes = [find_boxed(answer) for answer in answers]
    if answers and all(box is not None for box in boxes):
        kind = _kind_of_finals([box or "" for box in boxes])
        return AnswerKind.MATHS if kind is AnswerKind.TEXT and _any_marks(boxes) else kind
    choices = [find_choice(answer) for answer in answers]
    if answers and all(choices):
        return AnswerKind.CHOICE
    return _kind_of_finals(answers)


def _any_marks(texts: Sequence[str | None]) -> bool:
    return any(mark in (text or "") for text in texts for mark in _MARKS)


def _kind_of_finals(finals: Sequence[str]) -> AnswerKind:
    if not finals:
        return AnswerKind.TEXT
    if all(map(is_number, finals)):
        return AnswerKind.NUMBER
    if all(len(final.strip("().* ")) == 1 and find_choice(final) for final in finals):
        return AnswerKind.CHOICE
    if all(is_number(final) or _any_marks([final]) for final in finals):
        return AnswerKind.MATHS
    return AnswerKind.TEXT
