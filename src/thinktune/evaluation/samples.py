"""What a model wrote for each question and how it was graded, in memory and on disk."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thinktune import atomic
from thinktune.data.example import Role, Turn
from thinktune.errors import DataError
from thinktune.evaluation.tasks import Problem


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion, as written and as parsed."""

    problem_id: str
    prompt: str
    """The rendered prompt, special tokens included."""
    completion: str
    """Everything the model wrote after the prompt."""
    reasoning: str
    """Text before the closing think tag; everything, if it never closed."""
    answer: str
    """Text after the closing think tag; empty if it never closed."""
    closed: bool
    """The reasoning was closed."""
    truncated: bool
    """The completion met the token limit."""
    num_tokens: int
    """Tokens in the completion."""


@dataclass(frozen=True, slots=True)
class Grade:
    """What one sample is worth."""

    strict: bool | None
    """Reasoning closed, and the answer gives the reference and nothing else; None: no reference."""
    lenient: bool | None
    """The reference is what is given first, wherever it stands; None: no reference."""
    closed: bool
    truncated: bool
    found: tuple[str, ...]
    """Labels named in order, or the final number."""


@dataclass(frozen=True, slots=True)
class Graded:
    """A question, what was written, and its grade."""

    problem: Problem
    sample: Sample
    grade: Grade


def write_samples(path: Path, graded: Sequence[Graded]) -> None:
    """Write one JSON line a question, whole or not at all.

    Metadata that JSON cannot hold is written as its text.
    """
    lines = (json.dumps(_record(g), ensure_ascii=False, default=str) for g in graded)
    atomic.write_text(path, "".join(f"{line}\n" for line in lines))


def read_samples(path: Path) -> list[Graded]:
    """Read what ``write_samples`` wrote.

    Raises:
        DataError: the file is missing, or a row was not written by ``write_samples``.
    """
    try:
        rows = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; run the evaluation first") from error
    graded = []
    for number, row in enumerate(rows, start=1):
        if not row:
            continue
        try:
            graded.append(_graded(json.loads(row)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path} row {number} is not a graded sample ({error}); run the evaluation again"
            ) from error
    return graded


def _record(graded: Graded) -> dict[str, object]:
    problem, sample, grade = graded.problem, graded.sample, graded.grade
    return {
        "id": problem.id,
        "question": problem.question,
        "reference": problem.reference,
        "strict": grade.strict,
        "lenient": grade.lenient,
        "closed": grade.closed,
        "truncated": grade.truncated,
        "found": list(grade.found),
        "reasoning": sample.reasoning,
        "answer": sample.answer,
        "num_tokens": sample.num_tokens,
        "prompt": sample.prompt,
        "completion": sample.completion,
        "system": problem.system,
        "history": [
            {"role": turn.role.value, "content": turn.content, "reasoning": turn.reasoning}
            for turn in problem.history
        ],
        "metadata": dict(problem.metadata),
    }


def _graded(record: dict) -> Graded:
    history = tuple(
        Turn(Role(turn["role"]), turn["content"], turn["reasoning"]) for turn in record["history"]
    )
    problem = Problem(
        id=record["id"],
        question=record["question"],
        reference=record["reference"],
        system=record["system"],
        history=history,
        metadata=record["metadata"],
    )
    sample = Sample(
        problem_id=record["id"],
        prompt=record["prompt"],
        completion=record["completion"],
        reasoning=record["reasoning"],
        answer=record["answer"],
        closed=record["closed"],
        truncated=record["truncated"],
        num_tokens=record["num_tokens"],
    )
    grade = Grade(
        strict=record["strict"],
        lenient=record["lenient"],
        closed=record["closed"],
        truncated=record["truncated"],
        found=tuple(record["found"]),
    )
    return Graded(problem, sample, grade)
