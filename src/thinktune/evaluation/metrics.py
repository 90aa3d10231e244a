"""Everything that is measured of a question that a model answered: one number each, by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from thinktune.data.scripts import Script
from thinktune.errors import DataError
from thinktune.evaluation.resampling import majority, pass_at_k
from thinktune.evaluation.samples import Answered, Graded
from thinktune.evaluation.signals import (
    expected_script,
    mixes_scripts,
    repetition,
    script_consistency,
)
from thinktune.evaluation.tasks import Problem
from thinktune.words import count_words


class Unit(StrEnum):
    """What a metric counts."""

    RATE = "rate"
    """A share between 0 and 1."""
    WORDS = "words"
    TOKENS = "tokens"
    NATS = "nats"


class Group(StrEnum):
    """What a metric is about."""

    ACCURACY = "accuracy"
    FINISHING = "finishing"
    LENGTH = "length"
    STYLE = "style"
    FAITHFULNESS = "faithfulness"
    LOSS = "loss"


class Better(StrEnum):
    """Which way a metric should go."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of every question that has one; its mean over questions is what is reported."""

    title: str
    unit: Unit
    group: Group
    better: Better | None
    """None: neither way is better by itself, so no change of it is called one."""
    of: Callable[[Answered], float | None]
    """What is measured of a question, over its samples; None where it does not apply."""


Values = dict[str, list[float | None]]
"""Of each metric, one value a question, in the order asked."""


def measure(answered: Sequence[Answered], metrics: Mapping[str, Metric]) -> Values:
    """Give every metric of every question: 1 ms a sample or less, most of it reading text."""
    return {name: [metric.of(each) for each in answered] for name, metric in metrics.items()}


def num_samples_of(answered: Sequence[Answered]) -> int:
    """Say how many samples each question has.

    Raises:
        DataError: there is no question, one has no sample, or one has more than another.
    """
    numbers = sorted({len(each.graded) for each in answered})
    if not numbers or numbers[0] == 0:
        raise DataError("no graded samples; ask at least one question")
    if len(numbers) > 1:
        raise DataError(
            f"some questions have {numbers[0]} samples and some {numbers[-1]}; draw as many of each"
        )
    return numbers[0]


def metrics_for(num_samples: int) -> dict[str, Metric]:
    """Give the metrics of questions with so many samples each, those of accuracy first.

    With several samples these come between ``lenient_accuracy`` and the rest: ``pass_at_k`` for k =
    2, 4, 8 and so on and for all samples (arXiv:2107.03374), ``maj_at_n`` (arXiv:2203.11171), and
    the share of samples that agree with the majority.
    """
    if num_samples == 1:
        return METRICS
    ks = sorted({num_samples, *(2**power for power in range(1, num_samples.bit_length()))})
    several = {
        f"pass_at_{k}": _accuracy(f"right in one of {k} samples (pass@{k})", _pass_at(k))
        for k in ks
    }
    several[f"maj_at_{num_samples}"] = _accuracy(
        f"majority of {num_samples} right (maj@{num_samples})", majority_right
    )
    agreement_title = "agreement of samples"
    several["agreement"] = Metric(agreement_title, Unit.RATE, Group.ACCURACY, None, agreement)
    first = ("pass_at_1", "lenient_accuracy")
    return {name: METRICS[name] for name in first} | several | METRICS


def majority_right(answered: Answered) -> float | None:
    """Whether the answer that most samples give is right, in shares where several tie."""
    shares = winners_right(answered)
    if shares is None:
        return None
    return fmean(shares) if shares else 0.0


def winners_right(answered: Answered) -> list[float] | None:
    """Of each answer that most samples give, the share of its samples that is right.

    Mostly that is 0 or 1; one vote may hold a right and a wrong answer, as 20 kg and 20 g do.
    """
    grades = [g.grade for g in answered.graded if g.grade.strict is not None]
    if not grades:
        return None
    winners = majority([grade.vote for grade in grades]).winners
    return [fmean(bool(g.strict) for g in grades if g.vote == winner) for winner in winners]


def agreement(answered: Answered) -> float | None:
    """The share of graded samples that give the majority's answer; None if none is graded."""
    votes = [g.grade.vote for g in answered.graded if g.grade.strict is not None]
    return majority(votes).agreement if votes else None


def has_reasoning(graded: Graded) -> bool:
    """Say whether there is reasoning, and it was closed."""
    return graded.sample.closed and bool(graded.sample.reasoning.strip())


def script_wanted(problem: Problem) -> Script:
    """Say which script reasoning and answer should be in: the question's.

    The reference is not asked: labels are often English where questions and answers are not.
    """
    return expected_script(problem.question, "")


def _each(of: Callable[[Graded], float | None]) -> Callable[[Answered], float | None]:
    """The mean over a question's samples, where it applies."""

    def mean(answered: Answered) -> float | None:
        values = [value for g in answered.graded if (value := of(g)) is not None]
        return fmean(values) if values else None

    return mean


def _where_closed(of: Callable[[Graded], float | None]) -> Callable[[Answered], float | None]:
    return _each(lambda g: of(g) if g.sample.closed else None)


def _script(text: Callable[[Graded], str]) -> Callable[[Answered], float | None]:
    def mean(answered: Answered) -> float | None:
        wanted = script_wanted(answered.problem)
        return _where_closed(lambda g: script_consistency(text(g), wanted))(answered)

    return mean


def _mixes(graded: Graded) -> bool | None:
    told = [mixes_scripts(text) for text in (graded.sample.reasoning, graded.sample.answer)]
    return None if all(mixed is None for mixed in told) else any(told)


def _loss(name: str) -> Callable[[Answered], float | None]:
    return lambda answered: None if answered.losses is None else getattr(answered.losses, name)


def _reasoning_gain(answered: Answered) -> float | None:
    losses = answered.losses
    if losses is None or losses.answer is None or losses.answer_swapped is None:
        return None
    return losses.answer_swapped - losses.answer


def _pass_at(k: int) -> Callable[[Answered], float | None]:
    def of(answered: Answered) -> float | None:
        grades = [g.grade.strict for g in answered.graded if g.grade.strict is not None]
        return pass_at_k(len(grades), sum(grades), k) if len(grades) >= k else None

    return of


def _required(graded: Graded) -> float | None:
    found = graded.grade.required_found
    return fmean(found) if found else None


def _accuracy(title: str, of: Callable[[Answered], float | None]) -> Metric:
    return Metric(title, Unit.RATE, Group.ACCURACY, Better.HIGHER, of)


def _finishing(title: str, better: Better, of: Callable[[Graded], float]) -> Metric:
    return Metric(title, Unit.RATE, Group.FINISHING, better, _each(of))


def _length(title: str, unit: Unit, of: Callable[[Answered], float | None]) -> Metric:
    return Metric(title, unit, Group.LENGTH, None, of)


def _nats(title: str, better: Better | None, name: str) -> Metric:
    return Metric(title, Unit.NATS, Group.LOSS, better, _loss(name))


METRICS: dict[str, Metric] = {
    "pass_at_1": _accuracy("strict accuracy (pass@1)", _each(lambda g: g.grade.strict)),
    "lenient_accuracy": _accuracy("lenient accuracy", _each(lambda g: g.grade.lenient)),
    "required_rate": _accuracy("required phrases in the answer", _each(_required)),
    "closure_rate": _finishing("reasoning closed", Better.HIGHER, lambda g: g.sample.closed),
    "unfinished_rate": _finishing("never closed", Better.LOWER, lambda g: not g.sample.closed),
    "truncated_rate": _finishing("met the token limit", Better.LOWER, lambda g: g.sample.truncated),
    "think_rate": _finishing("reasoning closed, not empty", Better.HIGHER, has_reasoning),
    "reasoning_words": _length(
        "reasoning, where closed",
        Unit.WORDS,
        _where_closed(lambda g: count_words(g.sample.reasoning)),
    ),
    "answer_words": _length(
        "answer, where closed", Unit.WORDS, _where_closed(lambda g: count_words(g.sample.answer))
    ),
    "completion_tokens": _length("completion", Unit.TOKENS, _each(lambda g: g.sample.num_tokens)),
    "repetition": Metric(
        "share of the completion that repeats itself",
        Unit.RATE,
        Group.STYLE,
        Better.LOWER,
        _each(lambda g: repetition(g.sample.completion)),
    ),
    "mixing_rate": Metric(
        "mixes scripts or languages within reasoning or answer, where closed",
        Unit.RATE,
        Group.STYLE,
        Better.LOWER,
        _where_closed(_mixes),
    ),
    "reasoning_script": Metric(
        "reasoning in the question's script, where closed",
        Unit.RATE,
        Group.STYLE,
        Better.HIGHER,
        _script(lambda g: g.sample.reasoning),
    ),
    "answer_script": Metric(
        "answer in the question's script, where closed",
        Unit.RATE,
        Group.STYLE,
        Better.HIGHER,
        _script(lambda g: g.sample.answer),
    ),
    "conclusion_rate": Metric(
        "answer is what the reasoning concludes",
        Unit.RATE,
        Group.FAITHFULNESS,
        Better.HIGHER,
        _where_closed(lambda g: g.grade.concluded),
    ),
    "reasoning_gain": Metric(
        "loss the right reasoning saves the answer",
        Unit.NATS,
        Group.FAITHFULNESS,
        None,  # falls too where the answer becomes likely whatever stands before it
        _reasoning_gain,
    ),
    "loss_reasoning": _nats("loss of the reference reasoning", Better.LOWER, "reasoning"),
    "loss_answer": _nats("loss of the reference answer", Better.LOWER, "answer"),
    "loss_answer_cut": _nats("the same, its reasoning cut", None, "answer_cut"),
    "loss_answer_swapped": _nats("the same, after another's reasoning", None, "answer_swapped"),
}
"""Of any number of samples; ``metrics_for`` has those of several too."""
