import pytest
from pydantic import ValidationError

from thinktune.answers.grading import AnswerKind, Match
from thinktune.data.example import Example, Role, Turn
from thinktune.errors import DataError
from thinktune.evaluation.tasks import (
    EvaluationConfig,
    Grader,
    Problem,
    Purpose,
    Task,
    grade_answer,
    task_from_examples,
)


def examples(*references: str | None) -> list[Example]:
    return [
        Example(f"question {n}", "r", "a", reference=reference, where=f"held-out.jsonl row {n}")
        for n, reference in enumerate(references, start=1)
    ]


def kind_of(*references: str | None, **settings) -> AnswerKind:
    return task_from_examples(examples(*references), EvaluationConfig(**settings), name="t").kind


def test_the_grader_is_chosen_from_the_references():
    assert kind_of("18", "-3", "1,000") is AnswerKind.NUMBER
    assert kind_of("flu", "cold", "flu", "cold") is AnswerKind.LABEL
    assert kind_of("flu", "cold", "cough") is AnswerKind.TEXT
    assert kind_of("A", "B", "A", "B") is AnswerKind.TEXT
    assert kind_of("x" * 61, "x" * 61) is AnswerKind.TEXT
    assert kind_of(None, None) is AnswerKind.TEXT
    assert kind_of("1.5 kg", "20 minutes", "三十五") is AnswerKind.NUMBER
    assert kind_of("20 eggs", "1.5 kg") is AnswerKind.TEXT
    assert kind_of(r"\frac{1}{2}", "7", "$x^2$") is AnswerKind.MATHS
    assert kind_of(r"\frac{1}{2}", "seven") is AnswerKind.TEXT
    assert kind_of("$5 an egg", "$6 a dozen") is AnswerKind.TEXT


def asking(question: str, reference: str | None = None, **metadata) -> Example:
    return Example(question, "r", "a", reference=reference, metadata=metadata, where="row 1")


def task_of(*examples: Example, **settings) -> Task:
    return task_from_examples(examples, EvaluationConfig(**settings), name="t")


@pytest.mark.parametrize("options", ["A. red\nB. blue\nC. green", "(A) red (B) blue (C) green"])
def test_letters_are_choices_where_the_questions_list_them(options):
    listed = asking(f"Which?\n{options}", "(B)")
    task = task_of(listed, asking(f"And now?\n{options}", "C."))
    assert task.kind is AnswerKind.CHOICE
    assert [problem.reference for problem in task.problems] == ["B", "C"]
    assert task_of(listed, asking("What grade? A. or B.", "C")).kind is not AnswerKind.CHOICE
    assert task_of(asking("Which?", "B"), grader="choice").kind is AnswerKind.CHOICE


def test_phrases_are_what_is_graded_where_there_is_no_reference():
    rest = asking("Fever?", required="rest; see a doctor|就醫", forbidden=["aspirin"])
    task = task_of(rest, asking("Cough?"))
    (problem, other) = task.problems
    assert task.kind is AnswerKind.PHRASES
    assert problem.required == ("rest", "see a doctor|就醫")
    assert problem.forbidden == ("aspirin",)
    assert grade_answer(task, problem, "Rest, 就醫.") == Match(True, True, ())
    assert grade_answer(task, problem, "Rest, 就醫, aspirin.") == Match(False, True, ())
    assert grade_answer(task, other, "Rest.") is None


def test_a_reference_goes_before_phrases_unless_phrases_are_asked_for():
    both = asking("How many?", "7", required=["days"])
    mixed = task_of(both, asking("Which?", required=["Paris"]))
    assert mixed.kind is AnswerKind.NUMBER
    assert grade_answer(mixed, mixed.problems[0], "7") == Match(True, True, ("7",))
    assert grade_answer(mixed, mixed.problems[1], "Paris") == Match(True, True, ())
    phrases = task_of(both, asking("Which?", "Paris|Lutetia"), grader="phrases")
    assert grade_answer(phrases, phrases.problems[0], "7") == Match(False, False, ())
    assert grade_answer(phrases, phrases.problems[1], "Lutetia") == Match(True, True, ())


def test_a_judged_task_is_not_graded_here():
    task = task_of(
        asking("Why?", "Because."),
        asking("How?", required=["so"]),
        grader="judge",
        judge={"url": "u"},
    )
    assert task.judged
    assert task.kind is AnswerKind.TEXT
    assert [grade_answer(task, problem, "Because.") for problem in task.problems] == [None, None]
    assert not task_of(asking("Why?", "Because.")).judged


def test_only_a_full_score_of_the_tasks_own_scorer_is_right():
    task = Task(
        "puzzles",
        (Problem("1", "2 + 2?", "four"),),
        AnswerKind.TEXT,
        {},
        score=lambda problem, answer: len(answer) / len(problem.reference or ""),
    )
    assert grade_answer(task, task.problems[0], "4444") == Match(True, True, ())
    assert grade_answer(task, task.problems[0], "444") == Match(False, False, ())


def test_held_out_questions_are_of_the_domain():
    assert task_of(asking("Why?", "Because.")).purpose is Purpose.DOMAIN


def test_what_the_settings_say_wins_over_what_the_references_look_like():
    assert kind_of("18", "18", grader=Grader.TEXT) is AnswerKind.TEXT
    assert kind_of("1 egg", "2 eggs", grader="number") is AnswerKind.NUMBER
    assert kind_of("flu", "cough", grader="label") is AnswerKind.LABEL
    assert kind_of("flu", labels={"influenza": ["flu"]}) is AnswerKind.LABEL


def test_references_of_the_training_split_are_labels_too():
    task = task_from_examples(
        examples("flu", "cold"),
        EvaluationConfig(),
        name="clinic",
        known_references=["cough", "flu", "cold", "cough"],
    )
    assert task.labels == {"flu": [], "cold": [], "cough": []}


def test_a_problem_is_graded_against_the_label_its_reference_stands_for():
    config = EvaluationConfig(labels={"influenza": ["flu"], "cold": []})
    task = task_from_examples(examples("Flu", "cold", None, " "), config, name="clinic")
    assert [p.reference for p in task.problems] == ["influenza", "cold", None, None]


def test_a_reference_that_cannot_be_graded_names_its_row():
    config = EvaluationConfig(labels={"influenza": []})
    with pytest.raises(DataError, match=r"held-out.jsonl row 2: reference 'asthma' is not one of"):
        task_from_examples(examples("influenza", "asthma"), config, name="t")
    with pytest.raises(DataError, match=r"held-out.jsonl row 1: reference 'none' holds no number"):
        task_from_examples(examples("none"), EvaluationConfig(grader=Grader.NUMBER), name="t")
    with pytest.raises(DataError, match="has no questions"):
        task_from_examples([], EvaluationConfig(), name="t")
    with pytest.raises(DataError, match=r"row 1: .* is no choice"):
        task_of(asking("Which?", "perhaps"), grader="choice")
    with pytest.raises(DataError, match=r"row 1: phrases must be a list"):
        task_of(asking("Which?", "7", required=7))
    with pytest.raises(DataError, match=r"row 1: no phrase is required"):
        task_of(asking("Which?", ";"), grader="phrases")


def test_only_the_first_questions_are_asked_but_all_references_are_known():
    config = EvaluationConfig(num_questions=1)
    task = task_from_examples(examples("flu", "cold", "flu", "cold"), config, name="t")
    assert [p.question for p in task.problems] == ["question 1"]
    assert list(task.labels) == ["flu", "cold"]


def test_everything_the_prompt_needs_is_carried_over():
    history = (Turn(Role.USER, "hello"), Turn(Role.ASSISTANT, "hi"))
    example = Example("q", "r", "a", system="s", history=history, metadata={"age": 3})
    (problem,) = task_from_examples([example], EvaluationConfig(), name="t").problems
    assert (problem.question, problem.system, problem.history) == ("q", "s", history)
    assert problem.metadata == {"age": 3}


def test_problem_ids_are_the_records_own_if_they_can_be():
    def ids(*records: Example) -> list[str]:
        return [p.id for p in task_from_examples(records, EvaluationConfig(), name="t").problems]

    def record(number: object, where: str) -> Example:
        return Example(
            "q", "r", "a", metadata={} if number is None else {"id": number}, where=where
        )

    assert ids(record(7, "row 1"), record("b", "row 2")) == ["7", "b"]
    assert ids(record(7, "row 1"), record(7, "row 2")) == ["row 1", "row 2"]
    assert ids(record(None, ""), record(None, "")) == ["question 1", "question 2"]


def test_settings_without_effect_are_refused():
    with pytest.raises(ValidationError, match="top_p has no effect at temperature 0"):
        EvaluationConfig(top_p=0.9)
    with pytest.raises(ValidationError, match="labels have no effect with grader=text"):
        EvaluationConfig(labels={"flu": []}, grader=Grader.TEXT)
    with pytest.raises(ValidationError, match="labels have no effect with grader=choice"):
        EvaluationConfig(labels={"flu": []}, grader=Grader.CHOICE)
    with pytest.raises(ValidationError, match="num_samples=4 at temperature 0 draws the same"):
        EvaluationConfig(num_samples=4)
    assert EvaluationConfig(num_samples=4, temperature=0.6).num_samples == 4
    assert EvaluationConfig(top_p=0.9, temperature=0.6).top_p == 0.9
