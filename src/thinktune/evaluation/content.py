"""What the evaluation page and its Markdown twin show, as plain values that JSON can hold."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from thinktune.evaluation.differences import Difference
from thinktune.evaluation.samples import Answered, Graded
from thinktune.evaluation.scores import (
    OTHER,
    SEVERAL,
    UNFINISHED,
    Estimate,
    ReferenceScores,
    is_right,
    mostly_right,
    what_answered,
)
from thinktune.evaluation.statistics import Reliability
from thinktune.evaluation.tasks import Problem, Purpose
from thinktune.evaluation.verdict import Results, TaskResult, scores_told
from thinktune.words import count_words

AnsweredSides = Sequence[Sequence[Answered]]
"""What was answered to one task: before and after, or by one model alone."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a result came about, and how to have it again."""

    created: datetime
    """With its time zone."""
    models: tuple[str, ...]
    """What answered on each side: a base model's name, an adapter's folder."""
    command: str
    """What to type to have the same numbers."""
    facts: Mapping[str, str]
    """Seed, versions, decoding and the like, by name."""


def page_content(
    results: Results,
    answered: Mapping[str, AnsweredSides],
    provenance: Provenance,
    *,
    curves: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Give what ``page.to_page`` shows.

    Args:
        results: of every task.
        answered: by task name, in the order of the sides.
        provenance: how they came about.
        curves: ``train`` and ``heldout`` with steps and losses, ``probe`` with steps and rates.
    """
    tasks = [(task, answered[task.last.task_name]) for task in results.tasks]
    return {
        "title": f"{tasks[0][0].last.task_name}: {' and '.join(results.titles.values())}",
        "created": provenance.created.isoformat(timespec="seconds"),
        "outcome": results.outcome and results.outcome.value,
        "verdict": results.verdict,
        "warnings": list(results.warnings),
        "sides": [
            {"key": key, "title": title, "about": about}
            for (key, title), about in zip(results.titles.items(), provenance.models, strict=True)
        ],
        "tasks": [_task(task, sides) for task, sides in tasks],
        "curves": curves,
        "questions": [of for task, sides in tasks for of in _questions(task, sides)],
        "repeat": {
            "command": provenance.command,
            "facts": [list(fact) for fact in provenance.facts.items()],
        },
    }


def metric_values(task: TaskResult, name: str) -> dict[str, object]:
    """Give one metric's estimate by side, and the difference."""
    values: dict[str, object] = {
        key: _estimate(scores.metrics.get(name)) for key, scores in task.scores.items()
    }
    difference = task.comparison.differences.get(name) if task.comparison else None
    return values | {"difference": _difference(difference)}


def notes_of(problem: Problem, graded: Graded) -> list[str]:
    """Say what is wrong with a sample, or odd about it, a few words each."""
    grade, notes = graded.grade, list[str]()
    what = what_answered(problem, graded)
    if what == UNFINISHED:
        notes.append("never closed its reasoning")
    elif grade.strict is False:
        several = " and ".join(grade.found)
        told = {OTHER: "does not give what is asked", SEVERAL: f"names {several}"}
        notes.append(told.get(what, f"answered {what}"))
    if grade.lenient and grade.strict is False:
        notes.append("right if lenient")
    found = zip(problem.required, grade.required_found, strict=False)
    if graded.sample.closed and (missing := [phrase for phrase, there in found if not there]):
        notes.append(f"lacks {', '.join(missing)}")
    if grade.concluded is False:
        notes.append("the reasoning concludes otherwise")
    return notes


def instead_of(reference: str, scores: ReferenceScores) -> str:
    """Say what was answered where the reference was not: ``sinusitis 2, (unfinished) 1``."""
    wrong = (f"{what} {num}" for what, num in scores.answered.items() if what != reference)
    return ", ".join(wrong)


def _task(task: TaskResult, answered: AnsweredSides) -> dict[str, object]:
    scores, comparison = task.last, task.comparison
    pairs = comparison.pairs if comparison else None
    reliability = {key: of.reliability for key, of in task.scores.items()}
    return {
        "name": scores.task_name,
        "purpose": scores.purpose.value,
        "outcome": comparison.outcome.value if comparison else None,
        "verdict": comparison.verdict if comparison else scores_told([scores]),
        "warnings": list(comparison.warnings) if comparison else [],
        "num_questions": scores.num_questions,
        "num_samples": scores.num_samples,
        "metrics": [
            {
                "name": name,
                "title": metric.title,
                "unit": metric.unit.value,
                "better": metric.better.value if metric.better else None,
                "group": metric.group.value,
                **metric_values(task, name),
            }
            for name, metric in task.metrics.items()
        ],
        "pairs": pairs and {name: getattr(pairs, name) for name in _PAIRS},
        "lengths": {
            part: {
                key: list(_lengths(of, part)) for key, of in zip(task.scores, answered, strict=True)
            }
            for part in ("reasoning", "answer")
        },
        "reliability": {key: _reliability(of) for key, of in reliability.items()}
        if any(reliability.values())
        else None,
        "by_reference": list(_by_reference(task)),
    }


_PAIRS = ("both", "only_before", "only_after", "neither")


def _estimate(estimate: Estimate | None) -> dict[str, float] | None:
    if estimate is None:
        return None
    ends = estimate.interval
    return {"mean": estimate.mean, "low": ends.low, "high": ends.high, "num": estimate.num}


def _difference(of: Difference | None) -> dict[str, float | None] | None:
    if of is None:
        return None
    ends = {"low": of.interval.low, "high": of.interval.high}
    return {"mean": of.mean, **ends, "num": of.num, "p": of.p, "p_adjusted": of.p_adjusted}


def _lengths(answered: Sequence[Answered], part: str) -> Iterator[int]:
    for each in answered:
        for graded in each.graded:
            if graded.sample.closed:
                yield count_words(getattr(graded.sample, part))


def _reliability(of: Reliability | None) -> dict[str, object] | None:
    if of is None:
        return None
    bins = [
        {
            "low": each.low,
            "high": each.high,
            "num": each.num,
            "confidence": each.mean_confidence,
            "accuracy": each.accuracy,
            "interval": {"low": each.interval.low, "high": each.interval.high},
        }
        for each in of.bins
    ]
    return {"bins": bins, "error": of.expected_calibration_error}


def _by_reference(task: TaskResult) -> Iterator[dict[str, object]]:
    strict = task.last.purpose is Purpose.DOMAIN
    for reference, of in task.last.by_reference.items():
        sides = {key: scores.by_reference[reference] for key, scores in task.scores.items()}
        right = {key: of.num_strict if strict else of.num_lenient for key, of in sides.items()}
        yield {
            "reference": reference,
            "num": of.num,
            **right,
            "instead": instead_of(reference, task.last.by_reference[reference]),
        }


def _questions(task: TaskResult, answered: AnsweredSides) -> Iterator[dict[str, object]]:
    purpose = task.last.purpose
    for sides in zip(*answered, strict=True):
        problem = sides[0].problem
        by_key = dict(zip(task.scores, sides, strict=True))
        yield {
            "task": task.last.task_name,
            "id": problem.id,
            "question": problem.question,
            "reference": problem.reference,
            "system": problem.system,
            "earlier": [{"role": t.role.value, "content": t.content} for t in problem.history],
            "outcome": _outcome([mostly_right(each, purpose) for each in sides]),
            "unfinished": [
                key for key, each in by_key.items() if not all(g.sample.closed for g in each.graded)
            ],
            "sides": {
                key: [_sample(problem, g, purpose) for g in each.graded]
                for key, each in by_key.items()
            },
        }


def _outcome(right: Sequence[bool | None]) -> str:
    match right:
        case (False, True):
            return "fixed"
        case (True, False):
            return "broken"
    if None in right:
        return "ungraded"
    return "right" if right[0] else "wrong"


def _sample(problem: Problem, graded: Graded, purpose: Purpose) -> dict[str, object]:
    sample = graded.sample
    return {
        "reasoning": sample.reasoning,
        "answer": sample.answer,
        "closed": sample.closed,
        "truncated": sample.truncated,
        "right": is_right(graded, purpose),
        "found": list(graded.grade.found),
        "num_tokens": sample.num_tokens,
        "notes": notes_of(problem, graded),
    }
