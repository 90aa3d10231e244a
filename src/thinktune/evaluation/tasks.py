"""Which questions are asked before and after training, and what counts as a right answer."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from thinktune.answers.choices import find_choice
from thinktune.answers.grading import AnswerKind, Match, grade, grade_phrases
from thinktune.answers.labels import Labels, label_of, labels_from
from thinktune.answers.numbers import is_quantity
from thinktune.answers.phrases import read_phrases
from thinktune.data.example import Example, Turn
from thinktune.errors import ConfigError, DataError
from thinktune.settings import Settings

_MAX_LABELS = 50
_MAX_LABEL_CHARACTERS = 60
_MATHS = re.compile(r"\\[A-Za-z]|\$[^$]+\$|\^|_\{")
_CHOICE = re.compile(r"\(?[A-J]\)?\.?")
_OPTION = re.compile(r"(?<![A-Za-z0-9])([A-J])[.)）:：、]")


class Grader(StrEnum):
    """How final answers are graded; ``auto`` decides from the labels and references."""

    AUTO = "auto"
    LABEL = "label"
    NUMBER = "number"
    CHOICE = "choice"
    MATHS = "maths"
    PHRASES = "phrases"
    TEXT = "text"
    JUDGE = "judge"


class EvaluationConfig(Settings):
    """What is asked before and after training, how it is answered and how it is graded."""

    grader: Grader = Grader.AUTO
    """``label``: the reference is the one label named; ``number``: the last number equals it;
    ``choice``: the letter decided for; ``maths``: the expression is equal; ``phrases``: what
    column required says is there, and what column forbidden says is not; ``text``: the whole answer
    equals it; ``judge``: another model decides; ``auto``: labels if they are given, else the kind
    that every reference is of, labels if few references come back often, phrases if there are
    required phrases and no reference, else text."""
    labels: dict[str, list[str]] = Field(default_factory=dict)
    """Every possible final answer with its aliases; empty: the distinct references."""
    tasks: tuple[str, ...] = ("retention",)
    """Further tasks asked before and after: names, data files, or reasoning-gym generators."""
    num_questions: PositiveInt | None = None
    """Ask only the first so many held-out questions; null: all."""
    num_samples: PositiveInt = 1
    """Samples drawn for each question; more than one needs a temperature."""
    max_new_tokens: PositiveInt = 1024
    """A completion that has not ended by then is cut and counted as truncated."""
    batch_size: PositiveInt | None = None
    """Questions answered at a time; null: as many as fit."""
    temperature: NonNegativeFloat = 0.0
    """0 takes the likeliest token each time, which leaves nothing to chance."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Sample from the likeliest tokens that hold this much probability; needs a temperature."""
    judge: dict[str, Any] = Field(default_factory=dict)
    """Where grader=judge: ``url`` and ``model`` of an OpenAI-compatible endpoint, and what else
    `thinktune.judging.JudgeConfig` knows."""
    num_probe: PositiveInt = 16
    """Held-out questions answered every training.sample_steps, for a curve beside the loss."""

    @model_validator(mode="after")
    def _refuse_settings_without_effect(self) -> "EvaluationConfig":
        if self.top_p < 1 and self.temperature == 0:
            raise ValueError("top_p has no effect at temperature 0; set a temperature or drop it")
        if self.num_samples > 1 and self.temperature == 0:
            raise ValueError(
                f"num_samples={self.num_samples} at temperature 0 draws the same sample each time; "
                "set a temperature"
            )
        if bool(self.judge) != (self.grader is Grader.JUDGE):
            raise ValueError("grader=judge and judge go together")
        if self.labels and self.grader not in (Grader.AUTO, Grader.LABEL):
            raise ValueError(f"labels have no effect with grader={self.grader}; drop one of them")
        return self


class Purpose(StrEnum):
    """What the results of a task stand for."""

    DOMAIN = "domain"
    """What the training is for."""
    RETENTION = "retention"
    """What the model could do before, and should not lose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One held-out question with what it is graded against."""

    id: str
    """Names the question in every file; unique within a task."""
    question: str
    reference: str | None = None
    """The known truth, for labels the label itself and for choices the letter."""
    system: str = ""
    history: tuple[Turn, ...] = ()
    metadata: Mapping[str, object] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    """Phrases the answer should have, as ``answers.phrases`` reads them."""
    forbidden: tuple[str, ...] = ()
    """Phrases the answer should not have."""
    reasoning: str = ""
    """The reference reasoning and ``answer``, where the row has both: a model's loss on them."""
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """Questions that are graded alike."""

    name: str
    """Stands in metric keys: ``evaluation/<name>/pass_at_1``."""
    problems: tuple[Problem, ...]
    kind: AnswerKind
    """Of the references; a problem without one is graded by its phrases, if it has any."""
    labels: Labels
    """Empty unless the answers are labels."""
    purpose: Purpose = Purpose.DOMAIN
    judged: bool = False
    """Another model grades; ``grade_answer`` does not."""
    score: Callable[[Problem, str], float] | None = None
    """The task's own scorer of an answer, from 0 to 1; it goes before kind and phrases."""


def grade_answer(task: Task, problem: Problem, answer: str) -> Match | None:
    """Grade an answer as its task says; None if there is nothing to grade it against here.

    By the task's own scorer, where only a full score is right; else against the reference; else by
    the phrases required and forbidden. A judged task gives None. Required phrases beside a
    reference do not count here: they are measured by themselves.
    """
    if task.judged:
        return None
    if task.score is not None:
        is_right = task.score(problem, answer) >= 1
        return Match(is_right, is_right, ())
    if problem.reference is not None and task.kind is not AnswerKind.PHRASES:
        return grade(answer, problem.reference, task.labels, task.kind)
    if problem.required or problem.forbidden:
        return grade_phrases(answer, problem.required, problem.forbidden)
    return None


def task_from_examples(
    examples: Sequence[Example],
    config: EvaluationConfig,
    *,
    name: str,
    known_references: Iterable[str] = (),
) -> Task:
    """Make a task of held-out examples.

    Args:
        examples: the held-out examples, in the order they are asked.
        config: how many are asked, and how answers are graded.
        name: what the task is called in metric keys and files.
        known_references: references of other examples, such as the training split; where labels
            are not given, these are labels too, so that naming one counts as naming another.

    Raises:
        DataError: there are no examples; or a reference cannot be graded as the others are (maths
            without Math-Verify too), or phrases cannot be read: names the row.
    """
    if not examples:
        raise DataError(f"task {name} has no questions; hold out at least one example")
    every_reference = [e.reference for e in examples if e.reference and e.reference.strip()]
    every_reference += [r for r in known_references if r.strip()]
    kind = _answer_kind(examples, every_reference, config)
    labels: Labels = {}
    if kind is AnswerKind.LABEL:
        labels = config.labels or labels_from(every_reference)
    asked = examples[: config.num_questions]
    problems = tuple(
        _problem(example, problem_id, kind, labels)
        for problem_id, example in zip(_ids(asked), asked, strict=True)
    )
    return Task(name, problems, kind, labels, judged=config.grader is Grader.JUDGE)


def _answer_kind(
    examples: Sequence[Example], references: Sequence[str], config: EvaluationConfig
) -> AnswerKind:
    if config.grader is Grader.JUDGE:
        return AnswerKind.TEXT
    if config.grader is not Grader.AUTO:
        return AnswerKind(config.grader.value)
    if config.labels:
        return AnswerKind.LABEL
    if not references:
        has_phrases = any(e.metadata.get(n) for e in examples for n in ("required", "forbidden"))
        return AnswerKind.PHRASES if has_phrases else AnswerKind.TEXT
    if all(map(is_quantity, references)):
        return AnswerKind.NUMBER
    if _are_choices(examples, references):
        return AnswerKind.CHOICE
    if all(is_quantity(r) or _MATHS.search(r) for r in references):
        return AnswerKind.MATHS
    distinct = labels_from(references)
    often = len(references) >= 2 * len(distinct)
    short = all(1 < len(label) <= _MAX_LABEL_CHARACTERS for label in distinct)
    return AnswerKind.LABEL if often and short and len(distinct) <= _MAX_LABELS else AnswerKind.TEXT


def _are_choices(examples: Sequence[Example], references: Sequence[str]) -> bool:
    """Say whether every reference is a letter, and every question with one lists that option."""
    if not all(_CHOICE.fullmatch(reference.strip()) for reference in references):
        return False
    return all(
        {"A", "B", find_choice(e.reference)} <= set(_OPTION.findall(e.question))
        for e in examples
        if e.reference and e.reference.strip()
    )


def _problem(example: Example, problem_id: str, kind: AnswerKind, labels: Labels) -> Problem:
    try:
        required = read_phrases(example.metadata.get("required"))
        forbidden = read_phrases(example.metadata.get("forbidden"))
        reference = (example.reference or "").strip() or None
        if reference is not None:
            if kind is AnswerKind.PHRASES and not (required or forbidden):
                required = read_phrases(reference)
            reference = _graded_reference(reference, kind, labels)
    except ConfigError as error:
        raise DataError(f"{problem_id}: {error}") from error
    return Problem(
        id=problem_id,
        question=example.question,
        reference=reference,
        system=example.system,
        history=example.history,
        metadata=example.metadata,
        required=required,
        forbidden=forbidden,
        reasoning=example.reasoning.strip(),
        answer=example.answer.strip(),
    )


def _graded_reference(reference: str, kind: AnswerKind, labels: Labels) -> str:
    """The reference as it is compared, refused now if that cannot be done later."""
    match kind:
        case AnswerKind.LABEL:
            return label_of(reference, labels)
        case AnswerKind.CHOICE:
            grade("", reference, labels, kind)
            return find_choice(reference) or reference
        case _:
            grade("", reference, labels, kind)
            return reference


def _ids(examples: Sequence[Example]) -> list[str]:
    """Prefer the record's own id, then its place in its file, then its number."""
    own = [str(example.metadata.get("id", "")) for example in examples]
    places = [example.where for example in examples]
    for ids in (own, places):
        if all(ids) and max(Counter(ids).values()) == 1:
            return ids
    return [f"question {number}" for number in range(1, len(examples) + 1)]
