"""What one sample is worth, and what all of a task are worth together."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean, median

from thinktune.answers.grading import AnswerKind, conclusion, vote
from thinktune.answers.phrases import find_phrases
from thinktune.errors import DataError
from thinktune.evaluation.metrics import (
    Unit,
    Values,
    agreement,
    measure,
    metrics_for,
    num_samples_of,
    winners_right,
)
from thinktune.evaluation.samples import Answered, Grade, Graded, ReferenceLosses, Sample
from thinktune.evaluation.statistics import (
    Interval,
    Reliability,
    bootstrap_interval,
    reliability,
    wilson_interval,
)
from thinktune.evaluation.tasks import Problem, Purpose, Task, grade_answer

MAIN_METRICS = {Purpose.DOMAIN: "pass_at_1", Purpose.RETENTION: "lenient_accuracy"}
"""What a task is judged by; ``is_right`` says why."""
UNFINISHED, OTHER, SEVERAL = "(unfinished)", "(other)", "(several)"
"""What was answered, where it is not one label."""
_NO_CONCLUSION = (AnswerKind.PHRASES, AnswerKind.TEXT)


def grade_sample(problem: Problem, sample: Sample, task: Task) -> Grade:
    """Grade one sample.

    Strict asks three things: the reasoning was closed, the answer after it gives the reference, and
    it gives nothing else. A sample that never closed is unfinished: not strict, and reported apart.
    Lenient forgives format: the reference is what is given first in the answer, or, in a
    sample that never closed, first in the whole completion. ``answers.grading`` says what
    giving means for labels, numbers and texts. Only a closed sample votes and has a conclusion.

    Raises:
        DataError: the sample answers another problem.
    """
    if sample.problem_id != problem.id:
        raise DataError(f"sample of {sample.problem_id!r} cannot be graded as {problem.id!r}")
    match = grade_answer(task, problem, sample.answer if sample.closed else sample.completion)
    kind = AnswerKind.PHRASES if problem.reference is None else task.kind
    voted = vote(sample.answer, kind, task.labels) if sample.closed else None
    concluded = None
    if voted is not None and kind not in _NO_CONCLUSION:
        concluded = conclusion(sample.reasoning, kind, task.labels) == voted
    return Grade(
        strict=None if match is None else sample.closed and match.strict,
        lenient=None if match is None else match.lenient,
        found=() if match is None else match.found,
        vote=voted,
        concluded=concluded,
        required_found=find_phrases(sample.answer, problem.required),
    )


def grade_samples(
    task: Task,
    samples: Sequence[Sequence[Sample]],
    losses: Sequence[ReferenceLosses | None] | None = None,
) -> list[Answered]:
    """Grade the samples of each problem of a task, in the order of the problems.

    Raises:
        DataError: there are samples of more or fewer problems, or of others.
    """
    problems = task.problems
    if len(samples) != len(problems):
        raise DataError(f"task {task.name} has {len(problems)} questions, not {len(samples)}")
    return [
        Answered(problem, tuple(Graded(s, grade_sample(problem, s, task)) for s in drawn), of)
        for problem, drawn, of in zip(
            problems, samples, losses or [None] * len(problems), strict=True
        )
    ]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over questions and how sure it is."""

    mean: float
    interval: Interval
    """Wilson's where every value is 0 or 1, else the bootstrap's."""
    median: float
    num: int
    """Questions it is taken over."""


@dataclass(frozen=True, slots=True)
class ReferenceScores:
    """How the questions with one reference went."""

    num: int
    num_strict: int
    """Questions of which most samples are strictly right."""
    num_lenient: int
    answered: Mapping[str, int]
    """What was given instead or rightly, to in how many samples: a label, or one of the three
    above."""


@dataclass(frozen=True, slots=True)
class Scores:
    """How one model did on a task."""

    task_name: str
    purpose: Purpose
    num_questions: int
    num_graded: int
    """Questions that could be graded; the others count only for finishing, length and style."""
    num_samples: int
    """Samples drawn of each question."""
    metrics: Mapping[str, Estimate]
    """By name in ``metrics_for(num_samples)``; a metric that applies to no question is absent."""
    by_reference: Mapping[str, ReferenceScores]
    """Empty where references do not repeat."""
    reliability: Reliability | None
    """How often the majority is right, by how many samples agree; None with one sample."""


def summarise(
    answered: Sequence[Answered], *, task_name: str, purpose: Purpose, seed: int
) -> Scores:
    """Put the grades of a task together.

    Raises:
        DataError: there is nothing to put together, or questions have unequal numbers of samples.
    """
    metrics = metrics_for(num_samples_of(answered))
    values = measure(answered, metrics)
    return scores_of(answered, values, task_name=task_name, purpose=purpose, seed=seed)


def scores_of(
    answered: Sequence[Answered], values: Values, *, task_name: str, purpose: Purpose, seed: int
) -> Scores:
    """Put values together that were measured before."""
    num_samples = num_samples_of(answered)
    metrics = metrics_for(num_samples)
    given = {name: [v for v in of if v is not None] for name, of in values.items()}
    return Scores(
        task_name,
        purpose,
        num_questions=len(answered),
        num_graded=len(given["pass_at_1"]),
        num_samples=num_samples,
        metrics={
            name: estimate(of, metrics[name].unit, seed=seed) for name, of in given.items() if of
        },
        by_reference=_by_reference(answered),
        reliability=_reliability(answered) if num_samples > 1 else None,
    )


def is_yes_or_no(values: Sequence[float], unit: Unit) -> bool:
    """Say whether each value is a plain 0 or 1, for which there are exact methods."""
    return unit is Unit.RATE and all(value in (0, 1) for value in values)


def estimate(values: Sequence[float], unit: Unit, *, seed: int) -> Estimate:
    """Give the mean of values with the interval that suits them."""
    if is_yes_or_no(values, unit):
        interval = wilson_interval(int(sum(values)), len(values))
    else:
        interval = bootstrap_interval(values, seed=seed, bounds=bounds_of(unit))
    return Estimate(fmean(values), interval, float(median(values)), len(values))


def bounds_of(unit: Unit) -> tuple[float, float]:
    """Between what the values of a unit lie."""
    return (0.0, 1.0) if unit is Unit.RATE else (-inf, inf)


def to_metrics(scores: Scores) -> dict[str, float]:
    """Flatten scores for tracking: ``evaluation/<task>/pass_at_1`` and so on."""
    return {f"evaluation/{scores.task_name}/{name}": e.mean for name, e in scores.metrics.items()}


def is_right(graded: Graded, purpose: Purpose) -> bool | None:
    """Whether a sample is right as its task counts it; None if it is not graded.

    Strictly where the task is what the training is for. Leniently where it is what should not be
    lost: who learns to close the reasoning must not seem to have learnt the answers by it.
    """
    return graded.grade.strict if purpose is Purpose.DOMAIN else graded.grade.lenient


def mostly_right(answered: Answered, purpose: Purpose) -> bool | None:
    """Whether more than half of a question's samples are right; None if none is graded."""
    right = [r for g in answered.graded if (r := is_right(g, purpose)) is not None]
    return fmean(right) > 0.5 if right else None


def what_answered(problem: Problem, graded: Graded) -> str:
    """Name what a sample answered: a label or number, or why there is not one."""
    if not graded.sample.closed:
        return UNFINISHED
    if graded.grade.strict and problem.reference is not None:
        return problem.reference
    match graded.grade.found:
        case ():
            return OTHER
        case (one,):
            return one
        case _:
            return SEVERAL


def _reliability(answered: Sequence[Answered]) -> Reliability | None:
    pairs = [
        (sure, bool(right) and right[0] >= 0.5)  # of tied answers the one given first
        for each in answered
        if (sure := agreement(each)) is not None and (right := winners_right(each)) is not None
    ]
    return reliability([sure for sure, _ in pairs], [r for _, r in pairs]) if pairs else None


def _by_reference(answered: Sequence[Answered]) -> dict[str, ReferenceScores]:
    groups: dict[str, list[Answered]] = {}
    for each in answered:
        if each.problem.reference is not None:
            groups.setdefault(each.problem.reference, []).append(each)
    if 2 * len(groups) > sum(map(len, groups.values())):
        return {}
    return {
        reference: ReferenceScores(
            num=len(group),
            num_strict=sum(bool(mostly_right(each, Purpose.DOMAIN)) for each in group),
            num_lenient=sum(bool(mostly_right(each, Purpose.RETENTION)) for each in group),
            answered=dict(
                Counter(
                    what_answered(each.problem, g) for each in group for g in each.graded
                ).most_common()
            ),
        )
        for reference, group in sorted(groups.items())
    }
