"""Which questions are asked before and after training, and what counts as a right answer."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from thinktune.answers import AnswerKind, find_number, is_number, label_of, labels_from
from thinktune.data.example import Example, Turn
from thinktune.errors import ConfigError, DataError
from thinktune.settings import Settings

_MAX_LABELS = 50
_MAX_LABEL_CHARACTERS = 60


class Grader(StrEnum):
    """How final answers are graded; ``auto`` decides from the labels and references."""

    AUTO = "auto"
    LABEL = "label"
    NUMBER = "number"
    TEXT = "text"


class EvaluationConfig(Settings):
    """What is asked before and after training, how it is answered and how it is graded."""

    grader: Grader = Grader.AUTO
    """``label``: the reference is the one label named; ``number``: the last number equals it;
    ``text``: the whole answer equals it; ``auto``: numbers if every reference is one, labels if
    they are given or few references come back often, else text."""
    labels: dict[str, list[str]] = Field(default_factory=dict)
    """Every possible final answer with its aliases; empty: the distinct references."""
    num_questions: PositiveInt | None = None
    """Ask only the first so many held-out questions; null: all."""
    max_new_tokens: PositiveInt = 1024
    """A completion that has not ended by then is cut and counted as truncated."""
    batch_size: PositiveInt = 32
    """Questions answered at a time."""
    temperature: NonNegativeFloat = 0.0
    """0 takes the likeliest token each time, which leaves nothing to chance."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Sample from the likeliest tokens that hold this much probability; needs a temperature."""
    num_shown: PositiveInt = 3
    """Questions the report shows in full, side by side."""

    @model_validator(mode="after")
    def _refuse_settings_without_effect(self) -> "EvaluationConfig":
        if self.top_p < 1 and self.temperature == 0:
            raise ValueError("top_p has no effect at temperature 0; set a temperature or drop it")
        if self.labels and self.grader in (Grader.NUMBER, Grader.TEXT):
            raise ValueError(f"labels have no effect with grader={self.grader}; drop one of them")
        return self


@dataclass(frozen=True, slots=True)
class Problem:
    """One held-out question with what it is graded against."""

    id: str
    """Names the question in every file; unique within a task."""
    question: str
    reference: str | None = None
    """The known truth, for labels the label itself; None is graded only on finishing."""
    system: str = ""
    history: tuple[Turn, ...] = ()
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """Questions that are graded alike."""

    name: str
    """Stands in metric keys: ``evaluation/<name>/strict_accuracy``."""
    problems: tuple[Problem, ...]
    kind: AnswerKind
    labels: Mapping[str, Sequence[str]]
    """Empty unless the answers are labels."""


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
        DataError: there are no examples, or a reference is no label or number; names the row.
    """
    if not examples:
        raise DataError(f"task {name} has no questions; hold out at least one example")
    references = [e.reference for e in examples if e.reference and e.reference.strip()]
    every_reference = [*references, *(r for r in known_references if r.strip())]
    kind = _answer_kind(every_reference, config)
    labels: Mapping[str, Sequence[str]] = {}
    if kind is AnswerKind.LABEL:
        labels = config.labels or labels_from(every_reference)
    asked = examples[: config.num_questions]
    ids = _ids(asked)
    problems = tuple(
        Problem(
            id=problem_id,
            question=example.question,
            reference=_graded_reference(example.reference, problem_id, kind, labels),
            system=example.system,
            history=example.history,
            metadata=example.metadata,
        )
        for problem_id, example in zip(ids, asked, strict=True)
    )
    return Task(name, problems, kind, labels)


def _answer_kind(references: Sequence[str], config: EvaluationConfig) -> AnswerKind:
    if config.grader is not Grader.AUTO:
        return AnswerKind(config.grader.value)
    if config.labels:
        return AnswerKind.LABEL
    if references and all(is_number(reference) for reference in references):
        return AnswerKind.NUMBER
    distinct = labels_from(references)
    often = len(references) >= 2 * len(distinct)
    short = all(1 < len(label) <= _MAX_LABEL_CHARACTERS for label in distinct)
    if distinct and often and short and len(distinct) <= _MAX_LABELS:
        return AnswerKind.LABEL
    return AnswerKind.TEXT


def _graded_reference(
    reference: str | None,
    problem_id: str,
    kind: AnswerKind,
    labels: Mapping[str, Sequence[str]],
) -> str | None:
    reference = (reference or "").strip()
    if not reference:
        return None
    if kind is AnswerKind.NUMBER and find_number(reference) is None:
        raise DataError(f"{problem_id}: reference {reference!r} holds no number; use grader=text")
    if kind is AnswerKind.LABEL:
        try:
            return label_of(reference, labels)
        except ConfigError as error:
            raise DataError(f"{problem_id}: {error}") from error
    return reference


def _ids(examples: Sequence[Example]) -> list[str]:
    """Prefer the record's own id, then its place in its file, then its number."""
    own = [str(example.metadata.get("id", "")) for example in examples]
    places = [example.where for example in examples]
    for ids in (own, places):
        if all(ids) and max(Counter(ids).values()) == 1:
            return ids
    return [f"question {number}" for number in range(1, len(examples) + 1)]
