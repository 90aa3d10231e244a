"""Before against after, question by question: what changed, and whether it can be told."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from thinktune.errors import DataError
from thinktune.evaluation.samples import Graded
from thinktune.evaluation.scores import (
    METRICS,
    Metric,
    Scores,
    Unit,
    has_reasoning,
    summarise,
)
from thinktune.evaluation.statistics import (
    Interval,
    PairCounts,
    count_pairs,
    mcnemar_p,
    paired_difference_interval,
    paired_rate_interval,
)
from thinktune.words import count_words

COLLAPSE_RATIO = 0.4
"""Reasoning shorter than this share of what it was is reported as collapsed."""
SIGNIFICANCE = 0.05


class Outcome(StrEnum):
    """What the evidence says about training."""

    BETTER = "better"
    WORSE = "worse"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True)
class Difference:
    """After minus before, over the questions where both have the metric."""

    mean: float
    interval: Interval
    """Newcombe's paired interval for a rate, the paired bootstrap's for a length."""
    num: int
    """Pairs it is taken over."""


@dataclass(frozen=True, slots=True)
class McNemar:
    """How strict grades changed, and the exact test of it."""

    counts: PairCounts
    p: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same questions before and after training."""

    task_name: str
    outcome: Outcome
    verdict: str
    """The outcome and its evidence in one sentence."""
    warnings: tuple[str, ...]
    """What else a reader should know, a sentence each."""
    before: Scores
    after: Scores
    differences: Mapping[str, Difference]
    """By name in ``METRICS``; a metric that no pair has is absent."""
    mcnemar: McNemar | None
    """Over strict grades; None if no question has a reference."""
    reasoning_ratio: float | None
    """Mean reasoning length after over before, where both closed; None where none did."""
    decoding: Mapping[str, object]
    """How both were decoded, for the record."""
    seed: int
    """Of the intervals and of the choice of questions shown."""


def compare(
    before: Sequence[Graded],
    after: Sequence[Graded],
    *,
    task_name: str,
    decoding: Mapping[str, object],
    seed: int,
) -> Comparison:
    """Compare two models on the same questions.

    Raises:
        DataError: the two were not asked the same questions, in order, with the same prompts.
    """
    _require_pairs(before, after)
    scores_before, scores_after = summarise(before, seed=seed), summarise(after, seed=seed)
    differences = {
        name: difference
        for name, metric in METRICS.items()
        if (difference := _difference(before, after, metric, seed=seed)) is not None
    }
    mcnemar = _mcnemar(before, after)
    outcome = _outcome(differences.get("strict_accuracy"), mcnemar)
    ratio = _reasoning_ratio(before, after)
    return Comparison(
        task_name=task_name,
        outcome=outcome,
        verdict=_verdict(outcome, scores_before, scores_after, differences, mcnemar),
        warnings=tuple(_warnings(outcome, before, after, scores_after, differences, ratio)),
        before=scores_before,
        after=scores_after,
        differences=differences,
        mcnemar=mcnemar,
        reasoning_ratio=ratio,
        decoding=dict(decoding),
        seed=seed,
    )


def choose_shown(after: Sequence[Graded], *, num: int, seed: int) -> list[int]:
    """Choose questions to show, by chance, with one that is wrong after training if there is one.

    Returns:
        Indices in rising order; fewer than ``num`` if there are fewer questions.
    """
    chance = random.Random(seed)
    order = chance.sample(range(len(after)), len(after))
    wrong = [index for index in order if after[index].grade.strict is False][:1]
    return sorted([*wrong, *(index for index in order if index not in wrong)][:num])


def _require_pairs(before: Sequence[Graded], after: Sequence[Graded]) -> None:
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
        for what, same in (
            ("prompt", b.sample.prompt == a.sample.prompt),
            ("reference", b.problem.reference == a.problem.reference),
        ):
            if not same:
                raise DataError(
                    f"question {b.problem.id!r} has one {what} before and another after, so the "
                    "difference would not be due to training; evaluate both again"
                )


def _difference(
    before: Sequence[Graded], after: Sequence[Graded], metric: Metric, *, seed: int
) -> Difference | None:
    values = [(metric.value(b), metric.value(a)) for b, a in zip(before, after, strict=True)]
    pairs = [(b, a) for b, a in values if b is not None and a is not None]
    if not pairs:
        return None
    of_before, of_after = [b for b, _ in pairs], [a for _, a in pairs]
    if metric.unit is Unit.RATE:
        counts = count_pairs([bool(b) for b in of_before], [bool(a) for a in of_after])
        interval = paired_rate_interval(counts)
    else:
        interval = paired_difference_interval(of_before, of_after, seed=seed)
    return Difference(fmean(a - b for b, a in pairs), interval, len(pairs))


def _mcnemar(before: Sequence[Graded], after: Sequence[Graded]) -> McNemar | None:
    pairs = [
        (b.grade.strict, a.grade.strict)
        for b, a in zip(before, after, strict=True)
        if b.grade.strict is not None and a.grade.strict is not None
    ]
    if not pairs:
        return None
    counts = count_pairs([b for b, _ in pairs], [a for _, a in pairs])
    return McNemar(counts, mcnemar_p(counts.only_before, counts.only_after))


def _reasoning_ratio(before: Sequence[Graded], after: Sequence[Graded]) -> float | None:
    lengths = [
        (count_words(b.sample.reasoning), count_words(a.sample.reasoning))
        for b, a in zip(before, after, strict=True)
        if b.sample.closed and a.sample.closed
    ]
    total_before = sum(b for b, _ in lengths)
    return sum(a for _, a in lengths) / total_before if total_before else None


def _outcome(strict: Difference | None, mcnemar: McNemar | None) -> Outcome:
    """Claim a change only if the interval leaves out 0 and McNemar's test agrees."""
    if strict is None or mcnemar is None or mcnemar.p >= SIGNIFICANCE:
        return Outcome.CANNOT_TELL
    if strict.interval.low > 0:
        return Outcome.BETTER
    return Outcome.WORSE if strict.interval.high < 0 else Outcome.CANNOT_TELL


def _verdict(
    outcome: Outcome,
    before: Scores,
    after: Scores,
    differences: Mapping[str, Difference],
    mcnemar: McNemar | None,
) -> str:
    if mcnemar is None:
        return (
            "Cannot tell: no question has a reference, so answers were not graded; finishing and "
            "length are compared below."
        )
    old, new = before.metrics["strict_accuracy"].mean, after.metrics["strict_accuracy"].mean
    strict = differences["strict_accuracy"]
    digits = 2 if strict.num <= 200 else 3  # one question more or less must be seen
    if new == old:
        change = f"stayed at {new:.{digits}f}"
    else:
        direction = "rose" if new > old else "fell"
        change = f"{direction} from {old:.{digits}f} to {new:.{digits}f}"
    p = "p < 0.001" if mcnemar.p < 0.001 else f"p = {mcnemar.p:.3f}"
    return (
        f"{outcome.value.capitalize()}: strict accuracy {change} on {strict.num} questions "
        f"(95% interval of the difference {strict.interval.low:+z.{digits}f} to "
        f"{strict.interval.high:+z.{digits}f}, exact McNemar {p})."
    )


def _warnings(
    outcome: Outcome,
    before: Sequence[Graded],
    after: Sequence[Graded],
    scores_after: Scores,
    differences: Mapping[str, Difference],
    ratio: float | None,
) -> list[str]:
    num = len(after)
    warnings = []
    lenient = differences.get("lenient_accuracy")
    if outcome is Outcome.BETTER and lenient is not None and lenient.interval.low <= 0:
        warnings.append(
            "Lenient accuracy did not clearly rise: the gain is in finishing and in naming one "
            "answer, not shown to be in knowing more answers."
        )
    after_words = scores_after.metrics.get("reasoning_words")
    if not any(g.sample.closed for g in before):
        length = f"{after_words.mean:.0f} words on average" if after_words else "none closed either"
        warnings.append(
            f"Before training the model closed its reasoning on none of {num} questions, so there "
            f"is no length to compare with (after training: {length})."
        )
    elif ratio is not None and ratio < COLLAPSE_RATIO:
        warnings.append(
            f"Reasoning collapsed to {ratio:.0%} of its length before, on the "
            f"{differences['reasoning_words'].num} questions where it was closed both times. "
            "Training on short reasoning teaches short reasoning; check that this is wanted."
        )
    num_empty = sum(g.sample.closed and not has_reasoning(g) for g in after)
    if num_empty:
        warnings.append(f"After training {num_empty} of {num} completions have empty reasoning.")
    num_truncated = sum(g.grade.truncated for g in after)
    if num_truncated:
        warnings.append(
            f"After training {num_truncated} of {num} completions met the token limit; raise "
            "evaluation.max_new_tokens to see whether they end."
        )
    num_ungraded = num - scores_after.num_graded
    if 0 < num_ungraded < num:
        warnings.append(f"{num_ungraded} of {num} questions have no reference and are not graded.")
    return warnings
