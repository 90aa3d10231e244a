"""What one sample is worth, and what many are worth together."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, median

from thinktune.answers import grade
from thinktune.errors import DataError
from thinktune.evaluation.samples import Grade, Graded, Sample
from thinktune.evaluation.statistics import Interval, bootstrap_interval, wilson_interval
from thinktune.evaluation.tasks import Problem, Task
from thinktune.words import count_words

UNFINISHED, OTHER, SEVERAL = "(unfinished)", "(other)", "(several)"
"""What was answered, where it is not one label."""


def grade_sample(problem: Problem, sample: Sample, task: Task) -> Grade:
    """Grade one sample.

    Strict asks three things: the reasoning was closed, the answer after it gives the reference, and
    it gives nothing else. A sample that never closed is unfinished: not strict, and reported apart.
    Lenient forgives format: the reference is what is given first in the answer, or, in a
    sample that never closed, first in the whole completion. ``answers.grade`` says what
    giving means for labels, numbers and texts.

    Raises:
        DataError: the sample answers another problem.
    """
    if sample.problem_id != problem.id:
        raise DataError(f"sample of {sample.problem_id!r} cannot be graded as {problem.id!r}")
    strict, lenient, found = None, None, ()
    if problem.reference is not None:
        text = sample.answer if sample.closed else sample.completion
        match = grade(text, problem.reference, task.labels, task.kind)
        strict, lenient, found = sample.closed and match.strict, match.lenient, match.found
    return Grade(strict, lenient, sample.closed, sample.truncated, found)


def grade_samples(task: Task, samples: Sequence[Sample]) -> list[Graded]:
    """Grade one sample for each problem of a task, in the order of the problems."""
    if len(samples) != len(task.problems):
        raise DataError(f"task {task.name} has {len(task.problems)} questions, not {len(samples)}")
    return [
        Graded(problem, sample, grade_sample(problem, sample, task))
        for problem, sample in zip(task.problems, samples, strict=True)
    ]


class Unit(StrEnum):
    """What a metric counts."""

    RATE = "rate"
    WORDS = "words"
    TOKENS = "tokens"


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of every sample that has one; its mean over samples is what is reported."""

    title: str
    unit: Unit
    of: Callable[[Graded], float | bool | None]
    """What is counted of one sample; None where it does not apply."""

    def value(self, graded: Graded) -> float | None:
        """Give the value of one sample, 0 or 1 for a rate; None where it does not apply."""
        value = self.of(graded)
        return None if value is None else float(value)


METRICS: dict[str, Metric] = {
    "strict_accuracy": Metric("strict accuracy", Unit.RATE, lambda g: g.grade.strict),
    "lenient_accuracy": Metric("lenient accuracy", Unit.RATE, lambda g: g.grade.lenient),
    "closure_rate": Metric("reasoning closed", Unit.RATE, lambda g: g.grade.closed),
    "unfinished_rate": Metric("never closed", Unit.RATE, lambda g: not g.grade.closed),
    "truncated_rate": Metric("met the token limit", Unit.RATE, lambda g: g.grade.truncated),
    "think_rate": Metric("reasoning closed, not empty", Unit.RATE, lambda g: has_reasoning(g)),
    "reasoning_words": Metric(
        "reasoning, where closed", Unit.WORDS, lambda g: _words(g, g.sample.reasoning)
    ),
    "answer_words": Metric(
        "answer, where closed", Unit.WORDS, lambda g: _words(g, g.sample.answer)
    ),
    "completion_tokens": Metric("completion", Unit.TOKENS, lambda g: g.sample.num_tokens),
}


def has_reasoning(graded: Graded) -> bool:
    """Say whether there is reasoning, and it was closed."""
    return graded.sample.closed and bool(graded.sample.reasoning.strip())


def _words(graded: Graded, text: str) -> int | None:
    return count_words(text) if graded.sample.closed else None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over samples and how sure it is."""

    mean: float
    interval: Interval
    """Wilson's for a rate, the bootstrap's for a length."""
    median: float
    num: int
    """Samples it is taken over."""


@dataclass(frozen=True, slots=True)
class ReferenceScores:
    """How the questions with one reference went."""

    num: int
    num_strict: int
    num_lenient: int
    answered: Mapping[str, int]
    """What was given instead or rightly, to how often: a label, or one of the three above."""


@dataclass(frozen=True, slots=True)
class Scores:
    """How one model did on a task."""

    num_questions: int
    num_graded: int
    """Questions with a reference; the others count only for finishing and length."""
    metrics: Mapping[str, Estimate]
    """By name in ``METRICS``; a metric that applies to no sample is absent."""
    by_reference: Mapping[str, ReferenceScores]
    """Empty where references do not repeat."""


def summarise(graded: Sequence[Graded], *, seed: int) -> Scores:
    """Put the grades of a task together.

    Raises:
        DataError: there is nothing to put together.
    """
    if not graded:
        raise DataError("no graded samples; ask at least one question")
    metrics = {}
    for name, metric in METRICS.items():
        values = [value for g in graded if (value := metric.value(g)) is not None]
        if values:
            metrics[name] = estimate(values, metric.unit, seed=seed)
    num_graded = sum(g.problem.reference is not None for g in graded)
    return Scores(len(graded), num_graded, metrics, _by_reference(graded))


def estimate(values: Sequence[float], unit: Unit, *, seed: int) -> Estimate:
    """Give the mean of values with the interval that suits their unit."""
    if unit is Unit.RATE:
        interval = wilson_interval(int(sum(values)), len(values))
    else:
        interval = bootstrap_interval(values, seed=seed)
    return Estimate(fmean(values), interval, float(median(values)), len(values))


def to_metrics(scores: Scores, task_name: str) -> dict[str, float]:
    """Flatten scores for tracking: ``evaluation/<task>/strict_accuracy`` and so on."""
    return {f"evaluation/{task_name}/{name}": e.mean for name, e in scores.metrics.items()}


def answered(graded: Graded) -> str:
    """Name what a sample answered: a label or number, or why there is not one."""
    if not graded.grade.closed:
        return UNFINISHED
    if graded.grade.strict and graded.problem.reference is not None:
        return graded.problem.reference
    match graded.grade.found:
        case ():
            return OTHER
        case (one,):
            return one
        case _:
            return SEVERAL


def _by_reference(graded: Sequence[Graded]) -> dict[str, ReferenceScores]:
    groups: dict[str, list[Graded]] = {}
    for g in graded:
        if g.problem.reference is not None:
            groups.setdefault(g.problem.reference, []).append(g)
    if 2 * len(groups) > sum(map(len, groups.values())):
        return {}
    return {
        reference: ReferenceScores(
            num=len(group),
            num_strict=sum(bool(g.grade.strict) for g in group),
            num_lenient=sum(bool(g.grade.lenient) for g in group),
            answered=dict(Counter(map(answered, group)).most_common()),
        )
        for reference, group in sorted(groups.items())
    }
