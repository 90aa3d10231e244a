from dataclasses import replace

import pytest

from thinktune.answers import AnswerKind
from thinktune.errors import DataError
from thinktune.evaluation.comparison import Comparison, Outcome, choose_shown, compare
from thinktune.evaluation.samples import Graded, Sample
from thinktune.evaluation.scores import grade_samples
from thinktune.evaluation.statistics import PairCounts
from thinktune.evaluation.tasks import Problem, Task

LABELS = {"flu": [], "cold": []}


def graded(
    *answers: str | None, reference: str | None = "flu", reasoning: str = "a b c d"
) -> list[Graded]:
    """One sample a question; None never closed its reasoning."""
    problems = tuple(Problem(f"q{n}", f"question {n}", reference) for n in range(len(answers)))
    samples = [
        Sample(
            f"q{n}",
            f"<prompt {n}>",
            f"{reasoning}{answer or ''}",
            reasoning,
            answer or "",
            closed=answer is not None,
            truncated=answer is None,
            num_tokens=10 if answer else 100,
        )
        for n, answer in enumerate(answers)
    ]
    return grade_samples(Task("clinic", problems, AnswerKind.LABEL, LABELS), samples)


def compared(before: list[Graded], after: list[Graded]) -> Comparison:
    return compare(before, after, task_name="clinic", decoding={"temperature": 0}, seed=1)


def test_a_clear_rise_is_better_and_says_on_what_evidence():
    comparison = compared(graded(*["cold"] * 20), graded(*["flu"] * 19, "cold"))
    assert comparison.outcome is Outcome.BETTER
    assert comparison.verdict == (
        "Better: strict accuracy rose from 0.00 to 0.95 on 20 questions (95% interval of the "
        "difference +0.70 to +0.99, exact McNemar p < 0.001)."
    )
    assert comparison.warnings == ()


def test_swapping_before_and_after_turns_better_into_worse():
    before, after = graded(*["cold"] * 20), graded(*["flu"] * 20)
    back = compared(after, before)
    assert back.outcome is Outcome.WORSE
    assert back.verdict.startswith("Worse: strict accuracy fell from 1.00 to 0.00")
    assert back.differences["strict_accuracy"].mean == -1.0


@pytest.mark.parametrize("num_better", [0, 1, 5])
def test_too_few_changed_questions_cannot_tell(num_better):
    # Five changed questions give an exact p of 0.0625 at best.
    after = graded(*["flu"] * num_better, *["cold"] * 15)
    comparison = compared(graded(*["cold"] * (num_better + 15)), after)
    assert comparison.outcome is Outcome.CANNOT_TELL
    assert comparison.verdict.startswith("Cannot tell: strict accuracy")
    assert ("stayed at 0.00" in comparison.verdict) == (num_better == 0)


def test_pairs_are_counted_question_by_question():
    comparison = compared(graded("flu", "flu", "cold", "cold"), graded("flu", "cold", "flu", None))
    assert comparison.mcnemar is not None
    assert comparison.mcnemar.counts == PairCounts(1, 1, 1, 1)
    assert comparison.mcnemar.p == 1.0


def test_lengths_are_compared_only_where_both_closed():
    comparison = compared(
        graded("flu", "flu", None, reasoning="a b c d"), graded("flu", None, "flu", reasoning="a b")
    )
    difference = comparison.differences["reasoning_words"]
    assert (difference.mean, difference.num) == (-2.0, 1)
    assert comparison.reasoning_ratio == 0.5


def test_collapsed_reasoning_is_warned_of_under_forty_percent():
    before = graded("flu", "flu", reasoning="w " * 10)
    (warning,) = compared(before, graded("flu", "flu", reasoning="w " * 3)).warnings
    assert warning.startswith("Reasoning collapsed to 30% of its length before, on the 2 questions")
    assert compared(before, graded("flu", "flu", reasoning="w " * 4)).warnings == ()


def test_a_base_model_that_never_closed_is_not_called_longer_or_shorter():
    comparison = compared(graded(None, None), graded("flu", "flu"))
    assert comparison.reasoning_ratio is None
    assert "reasoning_words" not in comparison.differences
    assert comparison.warnings == (
        "Before training the model closed its reasoning on none of 2 questions, so there is no "
        "length to compare with (after training: 4 words on average).",
    )
    never = compared(graded(None), graded(None)).warnings[0]
    assert never.endswith("(after training: none closed either).")


def test_a_gain_in_format_alone_is_not_called_knowledge():
    before = graded(*[None] * 20, reasoning="flu")
    warnings = compared(before, graded(*["flu"] * 20, reasoning="flu")).warnings
    assert any(w.startswith("Lenient accuracy did not clearly rise") for w in warnings)


def test_empty_reasoning_and_cut_completions_after_training_are_warned_of():
    warnings = compared(graded("flu", "flu"), graded("flu", None, reasoning="")).warnings
    assert any("1 of 2 completions have empty reasoning" in w for w in warnings)
    assert any("1 of 2 completions met the token limit" in w for w in warnings)


def test_questions_without_reference_cannot_tell_but_are_compared():
    comparison = compared(graded(None, reference=None), graded("flu", reference=None))
    assert comparison.outcome is Outcome.CANNOT_TELL
    assert comparison.mcnemar is None
    assert "no question has a reference" in comparison.verdict
    assert comparison.differences["closure_rate"].mean == 1.0


def test_some_questions_without_reference_are_counted():
    def mixed() -> list[Graded]:
        return graded("flu", "flu")[:1] + graded("flu", "flu", reference=None)[1:]

    comparison = compared(mixed(), mixed())
    assert "1 of 2 questions have no reference and are not graded." in comparison.warnings
    assert comparison.differences["strict_accuracy"].num == 1


def test_different_questions_cannot_be_paired():
    pair = graded("flu", "cold")
    with pytest.raises(DataError, match="2 questions before and 1 after cannot be paired"):
        compared(pair, pair[:1])
    with pytest.raises(DataError, match="question 1 is 'q0' before and 'q1' after"):
        compared(pair, pair[::-1])
    reprompted = replace(pair[1], sample=replace(pair[1].sample, prompt="other"))
    with pytest.raises(DataError, match="'q1' has one prompt before and another after"):
        compared(pair, [pair[0], reprompted])
    with pytest.raises(DataError, match="'q0' has one reference before and another after"):
        compared(pair, graded("flu", "cold", reference="cold"))
    with pytest.raises(DataError, match="no graded samples"):
        compared([], [])


def test_the_shown_questions_include_one_that_is_wrong_after_training():
    after = graded(*["flu"] * 30, "cold", *["flu"] * 30)
    for seed in range(10):
        assert 30 in choose_shown(after, num=3, seed=seed)
        assert choose_shown(after, num=1, seed=seed) == [30]
        assert choose_shown(after[29:32], num=3, seed=seed) == [0, 1, 2]


def test_the_shown_questions_are_distinct_and_depend_on_the_seed_alone():
    after = graded(*["flu"] * 50)
    chosen = [tuple(choose_shown(after, num=3, seed=seed)) for seed in range(10)]
    assert chosen == [tuple(choose_shown(after, num=3, seed=seed)) for seed in range(10)]
    assert len(set(chosen)) > 1
    assert all(len(set(indices)) == 3 for indices in chosen)
    assert choose_shown(after[:2], num=3, seed=1) == [0, 1]
