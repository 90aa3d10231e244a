"""What a model wrote for each question and how it was graded, in memory and on disk."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from thinktune import atomic
from thinktune.data.example import Role, Turn
from thinktune.errors import DataError
from thinktune.evaluation.tasks import Problem


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion, as written and as parsed."""

    problem_id: str
    index: int
    """Which of the samples drawn for its problem, from 0."""
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
    """Reasoning closed, and the answer gives what is asked and nothing else; None: not graded."""
    lenient: bool | None
    """What is asked is given first, wherever it stands; None: not graded."""
    found: tuple[str, ...] = ()
    """Labels named in order, the final number or the letter."""
    vote: str | None = None
    """What equal answers are counted under for a majority; None where it gives none."""
    concluded: bool | None = None
    """The answer is what the reasoning concludes; None where that cannot be read."""
    required_found: tuple[bool, ...] = ()
    """Whether each phrase that the problem requires stands in the answer."""


@dataclass(frozen=True, slots=True)
class Graded:
    """What was written, and its grade."""

    sample: Sample
    grade: Grade


@dataclass(frozen=True, slots=True)
class ReferenceLosses:
    """How likely a model finds the reference texts: mean nats a target token, None if not taken.

    The answer is scored after its own reasoning, after none, and after another question's. Where
    the three are equal the answer does not rest on what the reasoning says.
    """

    reasoning: float | None
    answer: float | None
    answer_cut: float | None
    answer_swapped: float | None


@dataclass(frozen=True, slots=True)
class Answered:
    """A question with all samples that one model drew for it."""

    problem: Problem
    graded: tuple[Graded, ...]
    """In the order of their indices; at least one."""
    losses: ReferenceLosses | None = None


def with_judgement(
    answered: Sequence[Answered], verdicts: Mapping[tuple[str, int], bool | None]
) -> list[Answered]:
    """Grade samples by what a judge said of them, strict and lenient alike.

    Args:
        answered: every sample, judged or not.
        verdicts: by problem and index; a sample that has none, or None, is not graded. One that
            never closed its reasoning gave no answer to judge and is wrong.
    """
    return [
        replace(each, graded=tuple(_judged(g, verdicts) for g in each.graded)) for each in answered
    ]


def _judged(graded: Graded, verdicts: Mapping[tuple[str, int], bool | None]) -> Graded:
    sample = graded.sample
    right = verdicts.get((sample.problem_id, sample.index)) if sample.closed else False
    return replace(graded, grade=replace(graded.grade, strict=right, lenient=right))


def to_record(sample: Sample) -> dict[str, object]:
    """Give a sample as plain values, for one line of a file."""
    record = asdict(sample)
    return {"id": record.pop("problem_id"), **record}


def from_record(record: Mapping[str, Any]) -> Sample:
    """Read what ``to_record`` gave, perhaps among other values.

    Raises:
        KeyError: a value is missing.
    """
    names = [name for name in Sample.__dataclass_fields__ if name != "problem_id"]
    return Sample(record["id"], **{name: record[name] for name in names})


def write_samples(path: Path, answered: Sequence[Answered]) -> None:
    """Write one JSON line a sample, whole or not at all; the first of a problem has the losses.

    Metadata that JSON cannot hold is written as its text.
    """
    with atomic.text_aside(path) as file:
        for each in answered:
            for graded in each.graded:
                line = json.dumps(_record(each, graded), ensure_ascii=False, default=str)
                file.write(f"{line}\n")


def read_samples(path: Path) -> list[Answered]:
    """Read what ``write_samples`` wrote.

    Raises:
        DataError: the file is missing, or a row was not written by ``write_samples``.
    """
    try:
        rows = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; run the evaluation first") from error
    return list(_grouped(path, rows))


def _grouped(path: Path, rows: Sequence[str]) -> Iterator[Answered]:
    current: Answered | None = None
    for number, row in enumerate(rows, start=1):
        if not row:
            continue
        try:
            record = json.loads(row)
            graded = _graded(record)
            if current is not None and graded.sample.index == len(current.graded):
                if graded.sample.problem_id != current.problem.id:
                    raise ValueError("the first sample of its problem is missing")
                current = replace(current, graded=(*current.graded, graded))
                continue
            if graded.sample.index != 0:
                raise ValueError(f"sample {graded.sample.index} stands in another's place")
            fresh = Answered(_problem(record), (graded,), _losses(record["losses"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path} row {number} is not a graded sample ({error}); run the evaluation again"
            ) from error
        if current is not None:
            yield current
        current = fresh
    if current is not None:
        yield current


def _record(answered: Answered, graded: Graded) -> dict[str, object]:
    problem = answered.problem
    record = {
        "id": problem.id,
        "index": graded.sample.index,
        "question": problem.question,
        "reference": problem.reference,
        **asdict(graded.grade),
        **to_record(graded.sample),
        "system": problem.system,
        "history": [asdict(turn) for turn in problem.history],
        "required": problem.required,
        "forbidden": problem.forbidden,
        "metadata": dict(problem.metadata),
    }
    if graded.sample.index == 0:
        record["losses"] = None if answered.losses is None else asdict(answered.losses)
    return record


def _graded(record: Mapping[str, Any]) -> Graded:
    grade = Grade(
        strict=record["strict"],
        lenient=record["lenient"],
        found=tuple(record["found"]),
        vote=record["vote"],
        concluded=record["concluded"],
        required_found=tuple(record["required_found"]),
    )
    return Graded(from_record(record), grade)


def _problem(record: Mapping[str, Any]) -> Problem:
    history = tuple(
        Turn(Role(turn["role"]), turn["content"], turn["reasoning"]) for turn in record["history"]
    )
    return Problem(
        id=record["id"],
        question=record["question"],
        reference=record["reference"],
        system=record["system"],
        history=history,
        metadata=record["metadata"],
        required=tuple(record["required"]),
        forbidden=tuple(record["forbidden"]),
    )


def _losses(record: Mapping[str, Any] | None) -> ReferenceLosses | None:
    return None if record is None else ReferenceLosses(**record)
