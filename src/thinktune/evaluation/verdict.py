"""What all tasks together say: better, worse or cannot tell, at what, and at what price."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thinktune.evaluation.comparison import SHORT_TITLES, Comparison, Outcome
from thinktune.evaluation.metrics import Metric, metrics_for
from thinktune.evaluation.scores import MAIN_METRICS, Scores
from thinktune.evaluation.tasks import Purpose

BEFORE, AFTER, ALONE = "before", "after", "alone"
"""Keys of the sides, and names of their files."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One task, of two models or of one."""

    scores: Mapping[str, Scores]
    """By key of the side."""
    comparison: Comparison | None
    """None if there is one side."""

    @property
    def last(self) -> Scores:
        """Of the last side: what training led to, and all that the sides have in common."""
        return list(self.scores.values())[-1]

    @property
    def metrics(self) -> dict[str, Metric]:
        """Those that some side has, the one that the task is judged by first."""
        known = metrics_for(self.last.num_samples)
        return {
            name: known[name]
            for name in dict.fromkeys((MAIN_METRICS[self.last.purpose], *known))
            if any(name in scores.metrics for scores in self.scores.values())
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Two models on every task they were asked."""

    comparisons: tuple[Comparison, ...]
    """One a task; at least one."""

    @property
    def titles(self) -> dict[str, str]:
        """What the two models are called, by key."""
        return dict(zip((BEFORE, AFTER), self.comparisons[0].sides, strict=True))

    @property
    def tasks(self) -> list[TaskResult]:
        """Every task with its scores by side."""
        return [TaskResult({BEFORE: of.before, AFTER: of.after}, of) for of in self.comparisons]

    @property
    def outcome(self) -> Outcome:
        """What the tasks that training is for say; where they disagree it cannot be told.

        Without such a task, what the others say.
        """
        told = {comparison.outcome for comparison in self._judged} - {Outcome.CANNOT_TELL}
        return told.pop() if len(told) == 1 else Outcome.CANNOT_TELL

    @property
    def verdict(self) -> str:
        """The outcome, its evidence and what became of other skills, in one sentence.

        A proven loss outside the domain stands in front of the brackets with the evidence.
        """
        judged, kept = self._judged, self._kept
        graded = [of for of in judged if of.is_graded]
        named = len(judged) > 1
        claims = [f"{of.task_name}: {of.claim}" if named else of.claim for of in graded]
        claims = claims or ["no question could be graded on both sides"]
        claims += [_retention(of, named=len(kept) > 1) for of in kept]
        lost = [of for of in kept if of.outcome is Outcome.WORSE]
        evidence = [of.evidence for of in graded]
        evidence += [f"{of.task_name}: {of.evidence}" for of in lost]
        told = "; ".join(claims) + (f" ({'; '.join(evidence)})" if evidence else "")
        if len(graded) == 1 and graded[0].shortfall:
            told += f"; {graded[0].shortfall}"
        return f"{self.outcome.value.capitalize()}: {told}."

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know first; those of other skills are with their tasks."""
        named = len(self._judged) > 1
        told = [
            f"{of.task_name}: {sentence}" if named else sentence
            for of in self._judged
            for sentence in of.warnings
        ]
        if all(of.purpose is Purpose.DOMAIN for of in self.comparisons):
            told.append("Nothing outside the domain was asked, so a lost skill would not show.")
        return tuple(told)

    @property
    def _judged(self) -> Sequence[Comparison]:
        domain = [of for of in self.comparisons if of.purpose is Purpose.DOMAIN]
        return domain or self.comparisons

    @property
    def _kept(self) -> Sequence[Comparison]:
        return [of for of in self.comparisons if of not in self._judged]


@dataclass(frozen=True, slots=True)
class Alone:
    """One model on every task it was asked: no comparison, so no outcome."""

    scores: tuple[Scores, ...]
    """One a task; at least one."""

    outcome = None
    warnings = ()

    @property
    def titles(self) -> dict[str, str]:
        """What the one side is called, by its key."""
        return {ALONE: "answers"}

    @property
    def tasks(self) -> list[TaskResult]:
        """Every task with its scores."""
        return [TaskResult({ALONE: scores}, None) for scores in self.scores]

    @property
    def verdict(self) -> str:
        """How it did, in one sentence; no verdict on anything."""
        return scores_told(self.scores)


Results = Evaluation | Alone
"""What a report is made of."""


def scores_told(scores: Sequence[Scores]) -> str:
    """Say in one sentence how one model did alone, which is no verdict on anything."""
    claims, intervals = [], []
    for of in scores:
        main = MAIN_METRICS[of.purpose]
        estimate = of.metrics.get(main)
        if estimate is None:
            claims.append(f"{of.task_name}: {of.num_questions} questions, not graded")
            continue
        form = f".{2 if estimate.num <= 200 else 3}f"
        told = f"{SHORT_TITLES[main]} {estimate.mean:{form}} on {estimate.num} questions"
        claims.append(f"{of.task_name}: {told}")
        intervals.append(f"{estimate.interval.low:{form}} to {estimate.interval.high:{form}}")
    sure = f" (95% intervals: {', '.join(intervals)})" if intervals else ""
    return f"{'; '.join(claims)}{sure}."


def _retention(comparison: Comparison, *, named: bool) -> str:
    """What became of skills that training was not for, as a clause."""
    where = f"in {comparison.task_name}" if named else "outside the domain"
    if not comparison.is_graded:
        return f"{where} cannot tell, since no question could be graded"
    difference = comparison.differences[comparison.main]
    if comparison.outcome is Outcome.WORSE:
        return f"but lost {where}: {comparison.claim}"
    if comparison.outcome is Outcome.BETTER:
        told = f"{where} {comparison.claim}"
    elif comparison.before.metrics[comparison.main].mean == 0:
        told = f"{where} cannot tell, since none of {difference.num} questions was right before"
    elif difference.mean < 0:
        told = f"{where} cannot tell whether anything was lost: {comparison.claim}"
    else:
        told = f"{where} nothing lost that {difference.num} questions could show"
    rest = comparison.second_evidence
    return f"{told}, while {rest}" if rest else told
