from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.answered_questions import Written, answer_all, ask, write
from thinktune.answers.grading import AnswerKind
from thinktune.errors import DataError
from thinktune.evaluation.metrics import (
    METRICS,
    agreement,
    majority_right,
    measure,
    metrics_for,
    num_samples_of,
)
from thinktune.evaluation.samples import Answered, ReferenceLosses
from thinktune.evaluation.scores import grade_samples


def one(answers: Sequence[Written], reference: str | None = "flu") -> Answered:
    (answered,) = answer_all(ask(reference), [answers])
    return answered


def value(name: str, answered: Answered) -> float | None:
    return metrics_for(len(answered.graded))[name].of(answered)


def test_one_sample_has_no_metrics_of_several():
    assert metrics_for(1) == METRICS
    assert list(METRICS)[:2] == ["pass_at_1", "lenient_accuracy"]


@pytest.mark.parametrize(
    ("num", "named"),
    [
        (2, ["pass_at_2", "maj_at_2"]),
        (5, ["pass_at_2", "pass_at_4", "pass_at_5", "maj_at_5"]),
        (8, ["pass_at_2", "pass_at_4", "pass_at_8", "maj_at_8"]),
    ],
)
def test_several_samples_have_pass_at_each_power_of_two_and_at_all(num, named):
    names = list(metrics_for(num))
    assert names[2 : 2 + len(named)] == named
    assert names[2 + len(named)] == "agreement"
    assert set(names) - set(METRICS) == {*named, "agreement"}


def test_accuracy_of_several_samples_is_their_share_and_their_best():
    answered = one(["flu", "cold", None, "cold"])
    assert value("pass_at_1", answered) == 0.25
    assert value("pass_at_2", answered) == 0.5
    assert value("pass_at_4", answered) == 1.0


def test_the_majority_counts_and_those_without_an_answer_lower_agreement():
    assert (majority_right(one(["flu", "flu", "cold"])), agreement(one(["flu", None]))) == (1, 0.5)
    assert majority_right(one(["flu", "cold", "cold"])) == 0
    assert majority_right(one(["flu", "cold"])) == 0.5
    assert (majority_right(one([None, None])), agreement(one([None, None]))) == (0, 0)
    assert (majority_right(one(["flu"], None)), agreement(one(["flu"], None))) == (None, None)


def test_a_vote_that_holds_right_and_wrong_answers_counts_in_shares():
    (answered,) = answer_all(ask("20 kg", kind=AnswerKind.NUMBER), [["20 kg", "20 g", "3 kg"]])
    assert [g.grade.vote for g in answered.graded] == ["20", "20", "3"]
    assert majority_right(answered) == 0.5


def test_lengths_and_scripts_are_those_of_closed_samples_only():
    answered = one(["flu", None])
    assert value("answer_words", answered) == 1
    assert value("closure_rate", answered) == 0.5
    never = one([None])
    assert [value(name, never) for name in ("reasoning_words", "answer_script")] == [None, None]
    assert value("completion_tokens", never) == 9


def test_simplified_characters_in_a_traditional_answer_show():
    task = ask("流感", kind=AnswerKind.TEXT, question="發燒三天，喉嚨痛，是什麼病？")
    samples = [[write(0, "病人發燒，應該是流感", "头痛发烧，应该多休息")]]
    (answered,) = grade_samples(task, samples)
    reasoning, answer = (value(name, answered) for name in ("reasoning_script", "answer_script"))
    assert reasoning == 1
    assert answer == 0


def test_a_loop_shows_even_where_it_never_closed():
    (answered,) = answer_all(ask("flu"), [None], reasoning="wait, is it the flu or a cold? " * 20)
    repeated = value("repetition", answered)
    assert repeated is not None
    assert repeated > 0.9


def test_required_phrases_are_a_share():
    task = ask("flu")
    problem = replace(task.problems[0], required=("rest", "drink", "see a doctor"))
    (answered,) = answer_all(replace(task, problems=(problem,)), ["flu: rest and drink"])
    assert value("required_rate", answered) == pytest.approx(2 / 3)
    assert value("required_rate", one(["flu"])) is None


def test_the_gain_of_reasoning_is_what_another_ones_costs():
    losses = ReferenceLosses(reasoning=2.0, answer=0.25, answer_cut=0.5, answer_swapped=1.0)
    (answered,) = answer_all(ask("flu"), ["flu"], losses=losses)
    names = ("reasoning_gain", "loss_reasoning", "loss_answer", "loss_answer_cut")
    assert [value(name, answered) for name in names] == [0.75, 2.0, 0.25, 0.5]
    (bare,) = answer_all(ask("flu"), ["flu"], losses=replace(losses, answer_swapped=None))
    assert value("reasoning_gain", bare) is None
    assert value("loss_answer", one(["flu"])) is None


def test_every_metric_is_measured_of_every_question_in_order():
    answered = answer_all(ask("flu", None), ["flu", "flu"])
    values = measure(answered, METRICS)
    assert list(values) == list(METRICS)
    assert values["pass_at_1"] == [1, None]


def test_unequal_numbers_of_samples_are_refused():
    mixed = answer_all(ask("flu", "flu"), [["flu"], ["flu", "flu"]])
    with pytest.raises(DataError, match="some questions have 1 samples and some 2"):
        num_samples_of(mixed)
    with pytest.raises(DataError, match="no graded samples"):
        num_samples_of([])


@pytest.mark.parametrize(
    ("reasoning", "answer", "mixed"),
    [("First the fever.", "flu", 0.0), ("First the 體溫.", "flu", 1.0), ("先量體溫。", "flu", 0.0)],
)
def test_a_text_that_changes_its_language_on_the_way_is_counted(reasoning, answer, mixed):
    (answered,) = answer_all(ask("flu"), [answer], reasoning=reasoning)
    assert METRICS["mixing_rate"].of(answered) == mixed
