from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.answered_questions import Written, answer_all, ask
from thinktune.errors import DataError
from thinktune.evaluation.comparison import Comparison, Outcome, choose_shown, compare
from thinktune.evaluation.differences import SIGNIFICANCE, Test
from thinktune.evaluation.metrics import METRICS
from thinktune.evaluation.samples import Answered, ReferenceLosses
from thinktune.evaluation.statistics import PairCounts, holm
from thinktune.evaluation.tasks import Purpose


def answered(
    *answers: Written | Sequence[Written], reference: str | None = "flu", reasoning: str = "a flu"
) -> list[Answered]:
    return answer_all(ask(*[reference] * len(answers)), answers, reasoning=reasoning)


def compared(
    before: list[Answered], after: list[Answered], purpose: Purpose = Purpose.DOMAIN
) -> Comparison:
    decoding = {"temperature": 0}
    return compare(before, after, task_name="clinic", purpose=purpose, decoding=decoding, seed=1)


def test_a_clear_rise_is_better_and_says_on_what_evidence():
    comparison = compared(answered(*["cold"] * 20), answered(*["flu"] * 19, "cold"))
    assert comparison.outcome is Outcome.BETTER
    assert comparison.verdict == (
        "Better: pass@1 rose from 0.00 to 0.95 on 20 questions (95% interval of the "
        "difference +0.70 to +0.99, exact McNemar p < 0.001)."
    )
    assert comparison.warnings == ()


def test_swapping_before_and_after_turns_better_into_worse():
    before, after = answered(*["cold"] * 20), answered(*["flu"] * 20)
    back = compared(after, before)
    assert back.outcome is Outcome.WORSE
    assert back.verdict.startswith("Worse: pass@1 fell from 1.00 to 0.00")
    assert back.differences["pass_at_1"].mean == -1.0


@pytest.mark.parametrize("num_better", [0, 1, 5])
def test_too_few_changed_questions_cannot_tell(num_better):
    # Five changed questions give an exact p of 0.0625 at best.
    after = answered(*["flu"] * num_better, *["cold"] * 15)
    comparison = compared(answered(*["cold"] * (num_better + 15)), after)
    assert comparison.outcome is Outcome.CANNOT_TELL
    assert comparison.verdict.startswith("Cannot tell: pass@1")
    assert ("stayed at 0.00" in comparison.verdict) == (num_better == 0)


def test_where_it_cannot_tell_it_says_how_many_questions_would():
    before = answered(*["flu"] * 8, *["cold"] * 12)
    after = answered(*["flu"] * 5, *["cold"] * 3, *["flu"] * 5, *["cold"] * 7)
    comparison = compared(before, after)
    assert comparison.num_needed is not None
    assert 150 < comparison.num_needed < 350
    assert comparison.verdict.startswith(
        "Cannot tell: pass@1 rose from 0.40 to 0.50 on 20 questions (95% interval"
    )
    about = int(comparison.verdict.removesuffix(" questions.").rpartition(" ")[2])
    assert comparison.num_needed <= about < comparison.num_needed + 10


def test_the_questions_that_it_says_would_do_mostly_do():
    before, after = (["flu"] * 4 + ["cold"] * 16), (["flu"] * 8 + ["cold"] * 12)
    few = compared(answered(*before), answered(*after))
    assert (few.outcome, few.num_needed) != (Outcome.BETTER, None)
    times = -(-(few.num_needed or 0) // 20)
    many = compared(answered(*before * times), answered(*after * times))
    assert many.outcome is Outcome.BETTER


def test_without_a_changed_question_no_number_is_promised():
    comparison = compared(answered(*["flu"] * 9), answered(*["flu"] * 9))
    assert (comparison.num_needed, comparison.detectable) == (None, None)
    assert comparison.verdict.endswith("so nothing says how many would tell.")


def test_as_many_gained_as_lost_says_what_so_many_questions_tell():
    before, after = ["flu"] * 5 + ["cold"] * 35, ["cold"] * 5 + ["flu"] * 5 + ["cold"] * 30
    comparison = compared(answered(*before), answered(*after))
    assert comparison.detectable is not None
    told = f"so many questions tell a difference of about {comparison.detectable:.2f}."
    assert comparison.verdict.endswith(told)


def test_pairs_are_counted_question_by_question():
    comparison = compared(
        answered("flu", "flu", "cold", "cold"), answered("flu", "cold", "flu", None)
    )
    assert comparison.pairs == PairCounts(1, 1, 1, 1)
    assert comparison.differences["pass_at_1"].p == 1.0


def test_yes_and_no_is_tested_by_mcnemar_and_shares_by_permutation():
    once = compared(answered(*["cold"] * 9), answered(*["flu"] * 9))
    assert once.differences["pass_at_1"].test is Test.MCNEMAR
    assert once.differences["reasoning_words"].test is Test.PERMUTATION
    several = compared(
        answered(*[["cold", "flu"]] * 9), answered(*[["flu", "flu"]] * 8, ["flu", "cold"])
    )
    difference = several.differences["pass_at_1"]
    assert difference.test is Test.PERMUTATION
    assert difference.p == 2 / 2**8
    assert "sign-flip permutation p = 0.008" in several.verdict
    assert several.pairs == PairCounts(0, 0, 8, 1)


def test_only_metrics_with_a_direction_are_adjusted_and_all_of_them_together():
    comparison = compared(answered(*[None] * 9), answered(*["flu"] * 9))
    adjusted = {
        name: of.p_adjusted
        for name, of in comparison.differences.items()
        if of.p_adjusted is not None
    }
    assert "pass_at_1" not in adjusted
    assert "completion_tokens" not in adjusted
    assert {"lenient_accuracy", "closure_rate", "truncated_rate"} < set(adjusted)
    assert all(METRICS[name].better for name in adjusted)
    assert adjusted == holm({name: comparison.differences[name].p for name in adjusted})


def test_a_change_that_many_metrics_would_show_by_chance_is_not_called_one():
    comparison = compared(answered(*[None] * 6, *["flu"] * 9), answered(*["flu"] * 15))
    closure = comparison.differences["closure_rate"]
    assert closure.p < SIGNIFICANCE < (closure.p_adjusted or 0)
    assert closure.interval.low > 0
    assert not closure.changed
    assert comparison.differences["pass_at_1"].changed


def test_lengths_are_compared_only_where_both_closed():
    comparison = compared(
        answered("flu", "flu", None, reasoning="a b c d"),
        answered("flu", None, "flu", reasoning="a b"),
    )
    difference = comparison.differences["reasoning_words"]
    assert (difference.mean, difference.num) == (-2.0, 1)
    assert comparison.reasoning_ratio == 0.5


def test_questions_without_reference_cannot_tell_but_are_compared():
    comparison = compared(answered(None, reference=None), answered("flu", reference=None))
    assert comparison.outcome is Outcome.CANNOT_TELL
    assert (comparison.pairs, comparison.is_graded) == (None, False)
    assert "no question could be graded" in comparison.verdict
    assert comparison.differences["closure_rate"].mean == 1.0


def test_outside_the_domain_closing_the_reasoning_is_no_gain():
    before = answered(*[None] * 20, reasoning="It is the flu")
    after = answered(*["flu"] * 20)
    assert compared(before, after).outcome is Outcome.BETTER
    kept = compared(before, after, Purpose.RETENTION)
    assert kept.outcome is Outcome.CANNOT_TELL
    assert kept.verdict.startswith("Cannot tell: lenient accuracy stayed at 1.00 on 20 questions")
    assert kept.pairs == PairCounts(both=20)


def test_outside_the_domain_the_loss_of_reference_answers_is_second_evidence():
    def scored(loss: float) -> list[Answered]:
        losses = ReferenceLosses(None, loss, None, None)
        return answer_all(ask(*["flu"] * 20), ["flu"] * 20, losses=losses)

    kept = compared(scored(0.5), scored(1.25), Purpose.RETENTION)
    assert kept.second_evidence == "the loss of the reference answers rose from 0.50 to 1.25"
    assert kept.verdict.endswith(f"; {kept.second_evidence}.")
    assert compared(scored(0.5), scored(0.5), Purpose.RETENTION).second_evidence == ""
    assert compared(scored(0.5), scored(1.25)).second_evidence == ""


def test_different_questions_cannot_be_paired():
    pair = answered("flu", "cold")
    with pytest.raises(DataError, match="2 questions before and 1 after cannot be paired"):
        compared(pair, pair[:1])
    with pytest.raises(DataError, match="question 1 is 'q0' before and 'q1' after"):
        compared(pair, pair[::-1])
    with pytest.raises(DataError, match="'q0' has one reference before and another after"):
        compared(pair, answered("flu", "cold", reference="cold"))
    other = replace(pair[1], problem=replace(pair[1].problem, system="Be brief."))
    with pytest.raises(DataError, match="'q1' has one system before and another after"):
        compared(pair, [pair[0], other])
    with pytest.raises(DataError, match="some questions have 1 samples and some 2"):
        compared(pair, answered(["flu", "flu"], ["flu", "flu"]))
    with pytest.raises(DataError, match="no graded samples"):
        compared([], [])


def test_the_shown_questions_include_one_that_is_wrong():
    after = answered(*["flu"] * 30, "cold", *["flu"] * 30)
    for seed in range(10):
        assert 30 in choose_shown(after, Purpose.DOMAIN, num=3, seed=seed)
        assert choose_shown(after, Purpose.DOMAIN, num=1, seed=seed) == [30]
        assert choose_shown(after[29:32], Purpose.DOMAIN, num=3, seed=seed) == [0, 1, 2]


def test_the_shown_questions_are_distinct_and_depend_on_the_seed_alone():
    after = answered(*["flu"] * 50)

    def chosen(seed: int) -> tuple[int, ...]:
        return tuple(choose_shown(after, Purpose.DOMAIN, num=3, seed=seed))

    assert [chosen(seed) for seed in range(10)] == [chosen(seed) for seed in range(10)]
    assert len({chosen(seed) for seed in range(10)}) > 1
    assert all(len(set(chosen(seed))) == 3 for seed in range(10))
    assert choose_shown(after[:2], Purpose.DOMAIN, num=3, seed=1) == [0, 1]
