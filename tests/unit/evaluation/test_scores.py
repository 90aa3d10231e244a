from dataclasses import replace

import pytest

from tests.answered_questions import answer_all, ask, write
from thinktune.answers.grading import AnswerKind
from thinktune.errors import DataError
from thinktune.evaluation.metrics import METRICS, Unit, metrics_for
from thinktune.evaluation.samples import Answered, Grade
from thinktune.evaluation.scores import (
    Scores,
    grade_sample,
    grade_samples,
    mostly_right,
    summarise,
    to_metrics,
    what_answered,
)
from thinktune.evaluation.statistics import wilson_interval
from thinktune.evaluation.tasks import Problem, Purpose


def grade_one(reference: str | None, reasoning: str, answer: str | None) -> Grade:
    task = ask(reference)
    return grade_sample(task.problems[0], write(0, reasoning, answer), task)


def summed(answered: list[Answered], purpose: Purpose = Purpose.DOMAIN) -> Scores:
    return summarise(answered, task_name="clinic", purpose=purpose, seed=1)


def test_an_answer_that_names_the_reference_alone_is_strict():
    assert grade_one("flu", "fever", "Influenza.") == Grade(True, True, ("flu",), "flu", False)


def test_what_the_reasoning_names_does_not_count_once_it_is_closed():
    grade = grade_one("flu", "flu, surely flu", "A cold.")
    assert (grade.strict, grade.lenient, grade.found) == (False, False, ("cold",))
    assert grade_one("flu", "cold? no", "Flu.").strict


def test_an_unfinished_sample_is_never_strict_but_may_be_lenient():
    assert grade_one("flu", "It is the flu", None) == Grade(False, True, ("flu",))
    assert not grade_one("flu", "A cold or the flu", None).lenient


def test_an_empty_answer_is_wrong_in_both_ways():
    grade = grade_one("flu", "flu", "")
    assert (grade.strict, grade.lenient, grade.vote) == (False, False, None)


def test_the_reasoning_concludes_the_answer_or_another_one():
    assert grade_one("flu", "a cold? no, the flu", "Flu.").concluded is True
    assert grade_one("flu", "the flu? no, a cold", "Flu.").concluded is False
    assert grade_one("flu", "the flu", "Flu or a cold.").concluded is None
    text = ask("rest well", kind=AnswerKind.TEXT)
    assert grade_sample(text.problems[0], write(0, "rest", "rest well"), text).concluded is None


def test_a_question_without_a_reference_is_not_graded():
    grade = grade_one(None, "flu", "Flu.")
    assert (grade.strict, grade.lenient, grade.found) == (None, None, ())


def test_phrases_are_measured_beside_a_reference_and_grade_where_there_is_none():
    beside = Problem("q0", "?", "flu", required=("rest", "see a doctor"), forbidden=("aspirin",))
    alone = replace(beside, reference=None)
    task = replace(ask(), problems=(beside, alone))
    answer = write(0, "", "Flu: rest.")
    assert grade_sample(beside, answer, task).strict
    assert grade_sample(beside, answer, task).required_found == (True, False)
    assert grade_sample(alone, answer, task).strict is False
    full = write(0, "", "Rest; see a doctor, no aspirin.")
    graded = grade_sample(alone, full, task)
    assert (graded.strict, graded.lenient, graded.required_found) == (False, True, (True, True))
    assert grade_sample(alone, write(0, "rest, see a doctor", None), task).required_found == (
        False,
        False,
    )


def test_a_task_with_its_own_scorer_grades_by_it():
    task = replace(ask("42"), kind=AnswerKind.TEXT, score=lambda _, answer: len(answer) / 4)
    grades = [
        grade_sample(task.problems[0], write(0, "", answer), task).strict
        for answer in ("four", "two")
    ]
    assert grades == [True, False]


def test_a_judged_task_is_not_graded_by_rules():
    task = replace(ask("flu"), judged=True, kind=AnswerKind.TEXT)
    grade = grade_sample(task.problems[0], write(0, "", "flu"), task)
    assert (grade.strict, grade.lenient) == (None, None)


def test_a_sample_is_graded_only_against_its_own_question():
    task = ask("flu", "cold")
    with pytest.raises(DataError, match="sample of 'q1' cannot be graded as 'q0'"):
        grade_samples(task, [[write(1, "", "")], [write(0, "", "")]])
    with pytest.raises(DataError, match="has 2 questions, not 1"):
        grade_samples(task, [[write(0, "", "")]])


def five() -> list[Answered]:
    return grade_samples(
        ask("flu", "flu", "cold", "cold", None),
        [
            [write(0, "one flu", "Flu.", num_tokens=10)],
            [write(1, "one two three four", "Flu or cold.", num_tokens=20)],
            [write(2, "a cold " * 30, None, truncated=True, num_tokens=100)],
            [write(3, "", "Rest", num_tokens=3)],
            [write(4, "one", "Rest.", num_tokens=7)],
        ],
    )


def test_scores_are_the_means_of_the_grades():
    scores = summed(five())
    means = {name: estimate.mean for name, estimate in scores.metrics.items()}
    assert (scores.num_questions, scores.num_graded, scores.num_samples) == (5, 4, 1)
    assert means == {
        "pass_at_1": 1 / 4,
        "lenient_accuracy": 3 / 4,
        "closure_rate": 4 / 5,
        "unfinished_rate": 1 / 5,
        "truncated_rate": 1 / 5,
        "think_rate": 3 / 5,
        "reasoning_words": pytest.approx(7 / 4),
        "answer_words": pytest.approx(6 / 4),
        "completion_tokens": 28,
        "repetition": pytest.approx(1, abs=0.1),
        "mixing_rate": 0.0,
        "reasoning_script": 1,
        "answer_script": 1,
        "conclusion_rate": 1,
    }
    assert scores.metrics["completion_tokens"].median == 10
    assert scores.metrics["reasoning_words"].num == 4


def test_every_interval_holds_its_mean_and_rates_stay_within_zero_and_one():
    for name, estimate in summed(five()).metrics.items():
        assert estimate.interval.low <= estimate.mean <= estimate.interval.high
        if METRICS[name].unit is Unit.RATE:
            assert 0 <= estimate.interval.low < estimate.interval.high <= 1


def test_a_rate_of_one_sample_has_wilsons_interval_and_one_of_several_is_wide_too():
    once = summed(answer_all(ask(*["flu"] * 5), ["flu"] * 5)).metrics["pass_at_1"]
    assert once.interval == wilson_interval(5, 5)
    several = answer_all(ask(*["flu"] * 5), [["flu", "flu"]] * 4 + [["flu", "cold"]])
    interval = summed(several).metrics["pass_at_1"].interval
    assert interval.low < 0.9 < interval.high <= 1


def test_each_reference_tells_what_was_answered():
    scores = summed(five())
    flu, cold = scores.by_reference["flu"], scores.by_reference["cold"]
    assert (flu.num, flu.num_strict, flu.num_lenient) == (2, 1, 2)
    assert flu.answered == {"flu": 1, "(several)": 1}
    assert cold.answered == {"(unfinished)": 1, "(other)": 1}


def test_a_question_counts_once_by_reference_however_often_it_was_asked():
    (flu,) = summed(
        answer_all(ask("flu", "flu"), [["flu", "cold"], ["flu", "flu"]])
    ).by_reference.values()
    assert (flu.num, flu.num_strict, flu.answered) == (2, 1, {"flu": 3, "cold": 1})


def test_references_that_do_not_repeat_are_not_broken_down():
    answered = answer_all(ask("18", "19", "20", kind=AnswerKind.NUMBER), ["18"] * 3)
    assert summed(answered).by_reference == {}
    assert [what_answered(a.problem, a.graded[0]) for a in answered] == ["18"] * 3


def test_without_references_there_is_no_accuracy():
    scores = summed(answer_all(ask(None), ["b"]))
    assert "pass_at_1" not in scores.metrics
    assert (scores.num_graded, scores.metrics["closure_rate"].mean) == (0, 1.0)
    with pytest.raises(DataError, match="no graded samples"):
        summed([])


def test_agreement_is_held_against_being_right():
    task = ask(*["flu"] * 3)
    agreed = [["flu"] * 4, ["flu", "flu", "cold", None], ["cold", "cold", "flu", None]]
    found = summed(answer_all(task, agreed)).reliability
    assert found is not None
    assert [(b.mean_confidence, b.num, b.accuracy) for b in found.bins] == [
        (0.5, 2, 0.5),
        (1, 1, 1),
    ]
    assert summed(answer_all(task, ["flu"] * 3)).reliability is None


def test_a_question_is_right_if_most_of_its_samples_are():
    answered = answer_all(
        ask("flu", "flu", "flu", None), [["flu", "flu", None], ["flu", None], ["cold"], ["flu"]]
    )
    assert [mostly_right(each, Purpose.DOMAIN) for each in answered] == [True, False, False, None]


def test_outside_the_domain_a_right_answer_that_never_closed_is_right():
    (answered,) = answer_all(ask("flu"), [None], reasoning="It is the flu")
    assert mostly_right(answered, Purpose.DOMAIN) is False
    assert mostly_right(answered, Purpose.RETENTION) is True


def test_tracked_metrics_are_named_part_task_name():
    metrics = to_metrics(summed(five()))
    assert metrics["evaluation/clinic/pass_at_1"] == 0.25
    assert set(metrics) < {f"evaluation/clinic/{name}" for name in metrics_for(1)}
