"""Questions of a small clinic, and what a model might have written to them, graded."""

from collections.abc import Sequence

from thinktune.answers.grading import AnswerKind
from thinktune.evaluation.samples import Answered, ReferenceLosses, Sample
from thinktune.evaluation.scores import grade_samples
from thinktune.evaluation.tasks import Problem, Purpose, Task

LABELS = {"flu": ["influenza"], "cold": []}
Written = str | None
"""An answer; None never closed its reasoning."""


def ask(
    *references: str | None,
    kind: AnswerKind = AnswerKind.LABEL,
    name: str = "clinic",
    purpose: Purpose = Purpose.DOMAIN,
    question: str = "What is it?",
) -> Task:
    """A task with one question a reference."""
    problems = tuple(Problem(f"q{n}", question, of) for n, of in enumerate(references))
    return Task(name, problems, kind, LABELS if kind is AnswerKind.LABEL else {}, purpose)


def write(
    number: int,
    reasoning: str,
    answer: Written,
    *,
    index: int = 0,
    truncated: bool = False,
    num_tokens: int = 9,
) -> Sample:
    """A sample of question ``number``."""
    return Sample(
        f"q{number}",
        index,
        "<prompt>",
        reasoning if answer is None else f"{reasoning}</think>{answer}",
        reasoning,
        answer or "",
        closed=answer is not None,
        truncated=truncated,
        num_tokens=num_tokens,
    )


def answer_all(
    task: Task,
    answers: Sequence[Written | Sequence[Written]],
    *,
    reasoning: str = "fever first",
    losses: ReferenceLosses | None = None,
) -> list[Answered]:
    """Each question answered once, or as often as there are answers."""
    samples = []
    for number, given in enumerate(answers):
        each = [given] if given is None or isinstance(given, str) else given
        samples.append([write(number, reasoning, a, index=n) for n, a in enumerate(each)])
    return grade_samples(task, samples, [losses] * len(samples))
