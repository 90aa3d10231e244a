from collections.abc import Sequence

import pytest

from tests.answered_questions import Written, answer_all, ask
from thinktune.evaluation.comparison import Comparison, Outcome, compare
from thinktune.evaluation.samples import Answered, ReferenceLosses
from thinktune.evaluation.scores import summarise
from thinktune.evaluation.tasks import Purpose
from thinktune.evaluation.verdict import Alone, Evaluation


def judged(
    before: Sequence[Answered],
    after: Sequence[Answered],
    purpose: Purpose = Purpose.DOMAIN,
    name: str | None = None,
) -> Comparison:
    name = name or {Purpose.DOMAIN: "clinic", Purpose.RETENTION: "retention"}[purpose]
    return compare(before, after, task_name=name, purpose=purpose, decoding={}, seed=1)


def answers(
    num_right: int, num: int, reference: str | None = "flu", loss: float | None = None
) -> list[Answered]:
    given: list[Written] = ["flu"] * num_right + ["cold"] * (num - num_right)
    losses = None if loss is None else ReferenceLosses(None, loss, None, None)
    return answer_all(ask(*[reference] * num), given, reasoning="the flu", losses=losses)


BETTER = judged(answers(0, 20), answers(20, 20))
LEVEL = judged(answers(10, 20), answers(10, 20))
KEPT = judged(answers(20, 30), answers(21, 30), Purpose.RETENTION)
LOST = judged(answers(24, 30), answers(10, 30), Purpose.RETENTION)


def test_the_domain_decides_and_what_was_kept_is_a_clause():
    evaluation = Evaluation((BETTER, KEPT))
    assert evaluation.outcome is Outcome.BETTER
    assert evaluation.verdict == (
        "Better: pass@1 rose from 0.00 to 1.00 on 20 questions; outside the domain nothing lost "
        "that 30 questions could show (95% interval of the difference +0.77 to +1.00, exact "
        "McNemar p < 0.001)."
    )


def test_a_proven_loss_is_named_before_the_evidence_and_has_its_own():
    evaluation = Evaluation((BETTER, LOST))
    assert evaluation.outcome is Outcome.BETTER
    claim, _, evidence = evaluation.verdict.partition(" (")
    assert claim.endswith(
        "; but lost outside the domain: lenient accuracy fell from 0.80 to 0.33 on 30 questions"
    )
    assert "; retention: 95% interval of the difference -" in evidence


def test_a_fall_that_could_be_chance_is_not_called_kept():
    fell = judged(answers(21, 30), answers(20, 30), Purpose.RETENTION)
    told = "outside the domain cannot tell whether anything was lost: lenient accuracy fell from"
    assert told in Evaluation((BETTER, fell)).verdict


def test_nothing_that_could_be_lost_is_not_called_kept():
    none = judged(answers(0, 30), answers(0, 30), Purpose.RETENTION)
    told = "outside the domain cannot tell, since none of 30 questions was right before"
    assert told in Evaluation((BETTER, none)).verdict
    ungraded = judged(answers(1, 3, None), answers(1, 3, None), Purpose.RETENTION)
    told = "outside the domain cannot tell, since no question could be graded"
    assert told in Evaluation((BETTER, ungraded)).verdict


def test_reference_answers_that_became_unlikely_are_named_beside_what_was_kept():
    kept = judged(answers(9, 9, loss=0.5), answers(9, 9, loss=0.75), Purpose.RETENTION)
    told = "could show, while the loss of the reference answers rose from 0.50 to 0.75"
    assert told in Evaluation((BETTER, kept)).verdict


def test_a_gain_outside_the_domain_does_not_make_it_better():
    gained = judged(answers(5, 30), answers(25, 30), Purpose.RETENTION)
    evaluation = Evaluation((LEVEL, gained))
    assert evaluation.outcome is Outcome.CANNOT_TELL
    assert "; outside the domain lenient accuracy rose from 0.17 to 0.83" in evaluation.verdict


def test_several_other_skills_are_told_apart_by_name():
    sums = judged(answers(20, 30), answers(21, 30), Purpose.RETENTION, "sums")
    verdict = Evaluation((BETTER, LOST, sums)).verdict
    assert "; but lost in retention: lenient accuracy fell" in verdict
    assert "; in sums nothing lost that 30 questions could show" in verdict


def test_tasks_of_the_domain_that_disagree_cannot_tell():
    worse = judged(answers(20, 20), answers(0, 20), name="ward")
    assert Evaluation((BETTER, LEVEL)).outcome is Outcome.BETTER
    evaluation = Evaluation((BETTER, worse))
    assert evaluation.outcome is Outcome.CANNOT_TELL
    assert evaluation.verdict.startswith("Cannot tell: clinic: pass@1 rose from 0.00 to 1.00")
    assert "; ward: pass@1 fell from 1.00 to 0.00" in evaluation.verdict


def test_other_skills_alone_are_judged_by_themselves():
    evaluation = Evaluation((LOST,))
    assert evaluation.outcome is Outcome.WORSE
    assert evaluation.verdict.startswith("Worse: lenient accuracy fell from 0.80 to 0.33")


@pytest.mark.parametrize("kept", [(), (KEPT,)])
def test_one_that_cannot_be_told_says_what_would_tell(kept):
    verdict = Evaluation((LEVEL, *kept)).verdict
    assert verdict.startswith("Cannot tell: pass@1 stayed at 0.50 on 20 questions")
    assert verdict.endswith("so nothing says how many would tell.")


def test_without_grades_it_cannot_tell():
    ungraded = judged(answers(1, 3, None), answers(1, 3, None))
    verdict = Evaluation((ungraded,)).verdict
    assert verdict == "Cannot tell: no question could be graded on both sides."


def test_warnings_are_those_of_the_domain_and_say_if_nothing_else_was_asked():
    silent = judged(answers(0, 20), answers(20, 20, loss=0.5))
    (warning,) = Evaluation((silent,)).warnings
    assert warning == "Nothing outside the domain was asked, so a lost skill would not show."
    some = judged(
        answers(1, 2, None)[:1] + answers(2, 2)[1:], answers(1, 2, None)[:1] + answers(2, 2)[1:]
    )
    assert Evaluation((some, KEPT)).warnings == ("1 of 2 questions are not graded.",)
    assert "clinic: 1 of 2 questions are not graded." in Evaluation((BETTER, some, KEPT)).warnings


def test_one_model_alone_has_numbers_and_no_outcome():
    scores = [
        summarise(answers(15, 20), task_name="clinic", purpose=Purpose.DOMAIN, seed=1),
        summarise(answers(1, 3, None), task_name="ward", purpose=Purpose.DOMAIN, seed=1),
    ]
    alone = Alone(tuple(scores))
    assert (alone.outcome, alone.warnings) == (None, ())
    assert alone.verdict == (
        "clinic: pass@1 0.75 on 20 questions; ward: 3 questions, not graded (95% intervals: "
        "0.53 to 0.89)."
    )
