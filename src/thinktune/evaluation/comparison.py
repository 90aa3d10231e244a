"""Before against after on one task, question by question: what changed, and if it can be told."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from thinktune.errors import DataError
from thinktune.evaluation.alarms import Pairing, find_alarms, reasoning_ratio
from thinktune.evaluation.differences import Difference, differences_of, pairs_of
from thinktune.evaluation.metrics import measure, metrics_for, num_samples_of
from thinktune.evaluation.resampling import questions_needed, smallest_detectable
from thinktune.evaluation.samples import Answered
from thinktune.evaluation.scores import MAIN_METRICS, Scores, mostly_right, scores_of
from thinktune.evaluation.statistics import PairCounts, count_pairs
from thinktune.evaluation.tasks import Purpose

SHORT_TITLES = {"pass_at_1": "pass@1", "lenient_accuracy": "lenient accuracy"}
"""The main metrics in a sentence."""
NUM_SHOWN = 3
"""Questions of a task that the terminal and ``report.md`` show; ``report.html`` has all."""
_WITHIN_REACH = 20
"""Asking so many times as many questions is advice; beyond, the difference is too small to tell."""


class Outcome(StrEnum):
    """What the evidence says about training."""

    BETTER = "better"
    WORSE = "worse"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same questions of one task, answered by two models."""

    sides: tuple[str, str]
    """What the two are called, such as before and after."""
    before: Scores
    after: Scores
    outcome: Outcome
    warnings: tuple[str, ...]
    """What else a reader should know, a sentence each."""
    differences: Mapping[str, Difference]
    """By name in ``metrics_for``; a metric that no pair has is absent."""
    pairs: PairCounts | None
    """Questions of which most samples are right (``scores.is_right``); None: none is graded."""
    reasoning_ratio: float | None
    """Mean reasoning length after over before, where both closed; None where none did."""
    num_needed: int | None
    """Questions that would tell a difference of this size; None where nothing says how many."""
    detectable: float | None
    """The difference that so many questions would tell; None where nothing says which."""
    decoding: Mapping[str, object]
    """How both were decoded, for the record."""
    seed: int
    """Of the intervals and of the choice of questions shown."""

    @property
    def task_name(self) -> str:
        """Stands in metric keys."""
        return self.before.task_name

    @property
    def purpose(self) -> Purpose:
        """What the task's results stand for."""
        return self.before.purpose

    @property
    def main(self) -> str:
        """The metric that the outcome is taken from."""
        return MAIN_METRICS[self.purpose]

    @property
    def is_graded(self) -> bool:
        """Some question has a grade on both sides; else there is no claim and no evidence."""
        return self.main in self.differences

    @property
    def verdict(self) -> str:
        """The outcome and its evidence in one sentence."""
        outcome = self.outcome.value.capitalize()
        if not self.is_graded:
            return (
                f"{outcome}: no question could be graded on both sides, so only finishing, length "
                "and style are compared."
            )
        rest = "".join(f"; {part}" for part in (self.shortfall, self.second_evidence) if part)
        return f"{outcome}: {self.claim} ({self.evidence}){rest}."

    @property
    def claim(self) -> str:
        """How the main metric went, for the middle of a sentence; needs a graded pair."""
        of = self.differences[self.main]
        change = self._change(self.main, 2 if of.num <= 200 else 3)  # one question must be seen
        return f"{SHORT_TITLES[self.main]} {change} on {of.num} questions"

    @property
    def evidence(self) -> str:
        """The interval and the test behind the claim."""
        of = self.differences[self.main]
        form = f"+z.{2 if of.num <= 200 else 3}f"
        p = "p < 0.001" if of.p < 0.001 else f"p = {of.p:.3f}"
        low, high = f"{of.interval.low:{form}}", f"{of.interval.high:{form}}"
        return f"95% interval of the difference {low} to {high}, {of.test} {p}"

    @property
    def shortfall(self) -> str:
        """What would tell, where these questions cannot; empty where they can."""
        if self.outcome is not Outcome.CANNOT_TELL:
            return ""
        num = self.differences[self.main].num
        if self.num_needed is not None and num < self.num_needed <= _WITHIN_REACH * num:
            about = _rounded(self.num_needed)
            return f"a difference of this size needs about {about:,} questions"
        if self.detectable is not None:
            return f"so many questions tell a difference of about {self.detectable:.2f}"
        return "no question went another way, so nothing says how many would tell"

    @property
    def second_evidence(self) -> str:
        """How the loss of the reference answers went outside the domain, where that is told."""
        loss = self.differences.get("loss_answer")
        if self.purpose is not Purpose.RETENTION or loss is None or not loss.changed:
            return ""
        return f"the loss of the reference answers {self._change('loss_answer', 2)}"

    def _change(self, name: str, digits: int) -> str:
        old, new = self.before.metrics[name].mean, self.after.metrics[name].mean
        if new == old:
            return f"stayed at {new:.{digits}f}"
        direction = "rose" if new > old else "fell"
        return f"{direction} from {old:.{digits}f} to {new:.{digits}f}"


def compare(
    before: Sequence[Answered],
    after: Sequence[Answered],
    *,
    task_name: str,
    purpose: Purpose,
    decoding: Mapping[str, object],
    seed: int,
    sides: tuple[str, str] = ("before", "after"),
) -> Comparison:
    """Compare two models on the same questions.

    Raises:
        DataError: the two were not asked the same questions, in order, with as many samples of
            each. Prompts may differ, as those of two base models do; a warning says so.
    """
    _require_pairs(before, after)
    metrics, main = metrics_for(num_samples_of([*before, *after])), MAIN_METRICS[purpose]
    values = [measure(answered, metrics) for answered in (before, after)]
    old, new = (
        scores_of(answered, of, task_name=task_name, purpose=purpose, seed=seed)
        for answered, of in zip((before, after), values, strict=True)
    )
    differences = differences_of(values[0], values[1], metrics, main=main, seed=seed)
    outcome = _outcome(differences.get(main))
    graded = pairs_of(values[0][main], values[1][main])
    main_values = [b for b, _ in graded], [a for _, a in graded]
    pairing = Pairing(before, after, old, new, differences, sides)
    return Comparison(
        sides=sides,
        before=old,
        after=new,
        outcome=outcome,
        warnings=tuple(find_alarms(pairing)),
        differences=differences,
        pairs=_pairs(before, after, purpose),
        reasoning_ratio=reasoning_ratio(before, after),
        num_needed=questions_needed(*main_values) if graded else None,
        detectable=smallest_detectable(*main_values) if graded else None,
        decoding=dict(decoding),
        seed=seed,
    )


def choose_shown(
    answered: Sequence[Answered], purpose: Purpose, *, num: int = NUM_SHOWN, seed: int
) -> list[int]:
    """Choose questions to show, by chance, with one that was answered wrongly if there is one.

    Returns:
        Indices in rising order; fewer than ``num`` if there are fewer questions.
    """
    chance = random.Random(seed)
    order = chance.sample(range(len(answered)), len(answered))
    wrong = [index for index in order if mostly_right(answered[index], purpose) is False][:1]
    return sorted([*wrong, *(index for index in order if index not in wrong)][:num])


def _require_pairs(before: Sequence[Answered], after: Sequence[Answered]) -> None:
    if len(before) != len(after):
        raise DataError(
            f"{len(before)} questions before and {len(after)} after cannot be paired; "
            "ask both models the same questions"
        )
    for number, (b, a) in enumerate(zip(before, after, strict=True), start=1):
        if b.problem.id != a.problem.id:
            raise DataError(
                f"question {number} is {b.problem.id!r} before and {a.problem.id!r} after; "
                "ask both models the same questions in the same order"
            )
        for what in ("question", "system", "history", "reference"):
            if getattr(b.problem, what) != getattr(a.problem, what):
                raise DataError(
                    f"question {b.problem.id!r} has one {what} before and another after, so the "
                    "difference would not be due to training; evaluate both again"
                )


def _pairs(
    before: Sequence[Answered], after: Sequence[Answered], purpose: Purpose
) -> PairCounts | None:
    right = [
        (mostly_right(b, purpose), mostly_right(a, purpose))
        for b, a in zip(before, after, strict=True)
    ]
    graded = [(b, a) for b, a in right if b is not None and a is not None]
    return count_pairs([b for b, _ in graded], [a for _, a in graded]) if graded else None


def _outcome(main: Difference | None) -> Outcome:
    if main is None or not main.changed:
        return Outcome.CANNOT_TELL
    return Outcome.BETTER if main.mean > 0 else Outcome.WORSE


def _rounded(number: int) -> int:
    """Round up to two digits: more would promise more than a guess of this kind holds.

    >>> _rounded(187), _rounded(34)
    (190, 34)
    """
    step = 10 ** max(len(str(number)) - 2, 0)
    return -(-number // step) * step
