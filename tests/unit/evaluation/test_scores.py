import pytest

from thinktune.answers import AnswerKind
from thinktune.errors import DataError
from thinktune.evaluation.samples import Grade, Graded, Sample
from thinktune.evaluation.scores import (
    METRICS,
    Unit,
    answered,
    grade_sample,
    grade_samples,
    summarise,
    to_metrics,
)
from thinktune.evaluation.tasks import Problem, Task

LABELS = {"flu": ["influenza"], "cold": []}


def ask(*references: str | None, kind: AnswerKind = AnswerKind.LABEL) -> Task:
    problems = tuple(Problem(f"q{n}", "What is it?", ref) for n, ref in enumerate(references))
    return Task("clinic", problems, kind, LABELS if kind is AnswerKind.LABEL else {})


def write(
    number: int, reasoning: str, answer: str | None, *, truncated: bool = False, num_tokens: int = 9
) -> Sample:
    """A sample of question ``number``; without an answer it never closed its reasoning."""
    completion = reasoning if answer is None else f"{reasoning}</think>{answer}"
    return Sample(
        f"q{number}",
        "What is it?",
        completion,
        reasoning,
        answer or "",
        closed=answer is not None,
        truncated=truncated,
        num_tokens=num_tokens,
    )


def grade_one(reference: str | None, reasoning: str, answer: str | None) -> Grade:
    task = ask(reference)
    return grade_sample(task.problems[0], write(0, reasoning, answer), task)


def test_an_answer_that_names_the_reference_alone_is_strict():
    assert grade_one("flu", "fever", "Influenza.") == Grade(True, True, True, False, ("flu",))


def test_what_the_reasoning_names_does_not_count_once_it_is_closed():
    grade = grade_one("flu", "flu, surely flu", "A cold.")
    assert (grade.strict, grade.lenient, grade.found) == (False, False, ("cold",))
    assert grade_one("flu", "cold? no", "Flu.").strict


def test_an_unfinished_sample_is_never_strict_but_may_be_lenient():
    assert grade_one("flu", "It is the flu", None) == Grade(False, True, False, False, ("flu",))
    assert not grade_one("flu", "A cold or the flu", None).lenient


def test_an_empty_answer_is_wrong_in_both_ways():
    grade = grade_one("flu", "flu", "")
    assert (grade.closed, grade.strict, grade.lenient) == (True, False, False)


def test_a_question_without_a_reference_is_graded_on_finishing_only():
    grade = grade_one(None, "flu", "Flu.")
    assert (grade.strict, grade.lenient, grade.closed, grade.found) == (None, None, True, ())


def test_a_sample_is_graded_only_against_its_own_question():
    task = ask("flu", "cold")
    with pytest.raises(DataError, match="sample of 'q1' cannot be graded as 'q0'"):
        grade_samples(task, [write(1, "", ""), write(0, "", "")])
    with pytest.raises(DataError, match="has 2 questions, not 1"):
        grade_samples(task, [write(0, "", "")])


def five() -> list[Graded]:
    task = ask("flu", "flu", "cold", "cold", None)
    return grade_samples(
        task,
        [
            write(0, "one two", "Flu.", num_tokens=10),
            write(1, "one two three four", "Flu or cold.", num_tokens=20),
            write(2, "a cold " * 30, None, truncated=True, num_tokens=100),
            write(3, "", "Rest", num_tokens=3),
            write(4, "one", "Rest.", num_tokens=7),
        ],
    )


def test_scores_are_the_means_of_the_grades():
    scores = summarise(five(), seed=1)
    means = {name: estimate.mean for name, estimate in scores.metrics.items()}
    assert (scores.num_questions, scores.num_graded) == (5, 4)
    assert means == {
        "strict_accuracy": 1 / 4,
        "lenient_accuracy": 3 / 4,
        "closure_rate": 4 / 5,
        "unfinished_rate": 1 / 5,
        "truncated_rate": 1 / 5,
        "think_rate": 3 / 5,
        "reasoning_words": pytest.approx(7 / 4),
        "answer_words": pytest.approx(6 / 4),
        "completion_tokens": 28,
    }
    assert scores.metrics["completion_tokens"].median == 10
    assert scores.metrics["reasoning_words"].num == 4


def test_every_interval_holds_its_mean_and_rates_stay_within_zero_and_one():
    for name, estimate in summarise(five(), seed=1).metrics.items():
        assert estimate.interval.low <= estimate.mean <= estimate.interval.high
        if METRICS[name].unit is Unit.RATE:
            assert 0 <= estimate.interval.low < estimate.interval.high <= 1


def test_each_reference_tells_what_was_answered():
    scores = summarise(five(), seed=1)
    flu, cold = scores.by_reference["flu"], scores.by_reference["cold"]
    assert (flu.num, flu.num_strict, flu.num_lenient) == (2, 1, 2)
    assert flu.answered == {"flu": 1, "(several)": 1}
    assert cold.answered == {"(unfinished)": 1, "(other)": 1}


def test_references_that_do_not_repeat_are_not_broken_down():
    task = ask("18", "19", "20", kind=AnswerKind.NUMBER)
    graded = grade_samples(task, [write(n, "", "18") for n in range(3)])
    assert summarise(graded, seed=1).by_reference == {}
    assert [answered(g) for g in graded] == ["18"] * 3


def test_without_references_there_is_no_accuracy():
    scores = summarise(grade_samples(ask(None), [write(0, "a", "b")]), seed=1)
    assert "strict_accuracy" not in scores.metrics
    assert scores.metrics["closure_rate"].mean == 1.0
    with pytest.raises(DataError, match="no graded samples"):
        summarise([], seed=1)


def test_tracked_metrics_are_named_part_task_name():
    metrics = to_metrics(summarise(five(), seed=1), "clinic")
    assert metrics["evaluation/clinic/strict_accuracy"] == 0.25
    assert set(metrics) == {f"evaluation/clinic/{name}" for name in METRICS}
