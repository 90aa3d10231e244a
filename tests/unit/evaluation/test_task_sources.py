import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from thinktune.answers.grading import AnswerKind, Match
from thinktune.errors import ConfigError, DataError
from thinktune.evaluation.task_sources import BOXED, INSTRUCTION, TASKS, find_task
from thinktune.evaluation.tasks import EvaluationConfig, Grader, Purpose, Task, grade_answer

CONFIG = EvaluationConfig()


def written(folder: Path, *rows: dict, name: str = "exam.jsonl") -> Task:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return find_task(str(path), CONFIG, seed=0)


def strict(task: Task, place: int, answer: str) -> bool | None:
    match = grade_answer(task, task.problems[place], answer)
    return None if match is None else match.strict


def test_every_shipped_task_is_found_and_every_question_of_it_can_be_graded():
    for name in TASKS:
        task = find_task(name, CONFIG, seed=0)
        assert (task.name, task.purpose) == (name, Purpose.RETENTION)
        assert all(grade_answer(task, problem, "") is not None for problem in task.problems)


def test_retention_has_twenty_questions_a_group_and_starts_fairly():
    problems = find_task("retention", CONFIG, seed=0).problems
    groups = Counter(problem.metadata["group"] for problem in problems)
    assert groups == {"arithmetic": 20, "general": 20, "languages": 20}
    assert len({problem.id for problem in problems}) == 60
    assert len({problem.question for problem in problems}) == 60
    few = find_task("retention", EvaluationConfig(num_questions=6), seed=0).problems
    assert set(Counter(problem.metadata["group"] for problem in few).values()) == {2}


def test_no_retention_question_gives_its_own_answer_away():
    task = find_task("retention", CONFIG, seed=0)
    for problem in task.problems:
        match = grade_answer(task, problem, problem.question)
        assert match is not None
        assert not match.lenient, problem.id


def test_retention_is_right_for_right_answers_only():
    task = find_task("retention", CONFIG, seed=0)
    places = {problem.id: place for place, problem in enumerate(task.problems)}
    right = {
        "arithmetic-01": "2 + 3 = 5",
        "arithmetic-13": "Each pen costs $1.50, so seven cost $10.5.",
        "arithmetic-14": "It takes 1 hour and 35 minutes.",
        "general-03": "There are seven days in a week.",
        "general-10": r"Water is $\text{H}_2\text{O}$, or H₂O.",
        "languages-03": "一個星期有七天。",
        "languages-05": "Gras ist grün.",
        "languages-18": "夏目漱石です。",
    }
    for name, answer in right.items():
        assert strict(task, places[name], answer), name
        assert not strict(task, places[name], "I do not know."), name


def test_settings_of_the_held_out_questions_do_not_reach_other_tasks():
    config = EvaluationConfig(labels={"influenza": ["flu"]}, grader=Grader.LABEL)
    assert find_task("retention", config, seed=0).kind is AnswerKind.NUMBER
    judged = EvaluationConfig(
        grader=Grader.JUDGE, judge={"url": "http://localhost/v1", "model": "j"}
    )
    assert not find_task("retention", judged, seed=0).judged


def test_a_file_in_the_form_of_gsm8k_is_recognised(tmp_path):
    task = written(
        tmp_path,
        {"question": "3 + 4?", "answer": "3 + 4 = <<3+4=7>>7\n#### 7"},
        {"question": "A dozen hundreds?", "answer": "12 x 100\n#### 1,200"},
    )
    assert (task.name, task.kind, task.purpose) == ("exam", AnswerKind.NUMBER, Purpose.DOMAIN)
    assert [problem.reference for problem in task.problems] == ["7", "1,200"]
    assert strict(task, 1, "So 1200 in all.")


@pytest.mark.parametrize(
    "row",
    [
        {"choices": ["red", "blue", "green"], "answer": 1},
        {"choices": ["red", "blue", "green"], "answer": "B"},
        {"choices": ["red", "blue", "green"], "answer": "(b)"},
        {"choices": ["red", "blue", "green"], "answer": "blue"},
        {"choices": ["1", "2", "3"], "answer": "2"},
        {"choices": {"text": ["red", "blue"], "label": ["A", "B"]}, "answerKey": "B"},
        {"choices": {"text": ["red", "blue"], "label": ["1", "2"]}, "answerKey": "2"},
        {"options": {"A": "red", "B": "blue"}, "answer": "blue", "answer_idx": "B"},
        {"A": "red", "B": "blue", "C": "green", "D": "", "answer": "B"},
        {"A": "red", "B": "blue", "C": "green", "answer": 1},
    ],
)
def test_multiple_choice_rows_become_lettered_questions(tmp_path, row):
    task = written(tmp_path, {"question": "Which?", **row})
    (problem,) = task.problems
    assert task.kind is AnswerKind.CHOICE
    assert problem.reference == "B"
    assert problem.question.startswith("Which?\n\nA. ")
    assert problem.question.endswith(INSTRUCTION)
    assert "\nB. " in problem.question
    assert "\nD. " not in problem.question
    assert grade_answer(task, problem, "The answer is (B).") == Match(True, True, ("B",))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": ["red", "blue"], "answer": 2}, "row 1: answer .* is none of its options"),
        ({"choices": ["red", "red"], "answer": "red"}, "row 1: answer .* is none of its options"),
        ({"choices": ["red", "blue"], "answer": None}, "row 1: answer .* is none of its options"),
        ({"choices": ["red"], "answer": 0}, "row 1: a question and two to 10 options"),
        ({"choices": "red, blue", "answer": 0}, "row 1: a question and two to 10 options"),
    ],
)
def test_a_multiple_choice_row_that_cannot_be_asked_is_named(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        written(tmp_path, {"question": "Which?", **row})


def test_csv_with_option_columns_is_multiple_choice(tmp_path):
    path = tmp_path / "exam.csv"
    path.write_text("question,A,B,C,D,answer\nWhich?,red,blue,green,grey,C\n", encoding="utf-8")
    assert find_task(str(path), CONFIG, seed=0).problems[0].reference == "C"


def test_only_the_test_split_is_asked_where_there_is_one(tmp_path):
    rows = [
        {"question": f"q{n}", "reference": str(n), "split": split}
        for n, split in enumerate(["train", "test", "test"])
    ]
    assert [p.question for p in written(tmp_path, *rows).problems] == ["q1", "q2"]
    assert len(written(tmp_path, *rows[:1], name="train_only.jsonl").problems) == 1
    assert len(find_task("clinic-en", CONFIG, seed=0).problems) == 72


def test_phrases_alone_make_a_task(tmp_path):
    task = written(
        tmp_path,
        {"question": "Fever?", "required": ["rest", "see a doctor|就醫"], "forbidden": "aspirin"},
        {"question": "Cough?"},
    )
    assert task.kind is AnswerKind.PHRASES
    assert strict(task, 0, "Rest and see a doctor.") is True
    assert strict(task, 0, "Rest, aspirin, see a doctor.") is False
    assert strict(task, 1, "Rest.") is None


def test_a_file_with_nothing_to_grade_against_is_refused(tmp_path):
    with pytest.raises(DataError, match="nothing to grade answers against"):
        written(tmp_path, {"question": "Fever?", "answer": "Rest."})


def test_a_task_that_is_not_there_names_those_that_are(tmp_path):
    for spec in ("retentoin", str(tmp_path / "nothing.jsonl")):
        with pytest.raises(
            ConfigError, match=r"no task .*; tasks: retention, a data file, or reas"
        ):
            find_task(spec, CONFIG, seed=0)
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"broken\.jsonl"):
        find_task(str(broken), CONFIG, seed=0)


@pytest.mark.parametrize("spec", ["", ":5", "chain_sum:0", "chain_sum:x", "a,,b", "chain_sum:2:3"])
def test_generators_that_are_not_written_right_are_refused(spec):
    with pytest.raises(ConfigError, match="write reasoning-gym:NAME,NAME:NUM"):
        find_task(f"reasoning-gym:{spec}", CONFIG, seed=0)


class TestReasoningGym:
    """Skipped where the optional package is not installed."""

    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")

    def test_the_same_seed_gives_the_same_questions_and_another_others(self):
        spec = "reasoning-gym:chain_sum,family_relationships:3"
        task = find_task(spec, CONFIG, seed=4)
        assert task.problems == find_task(spec, CONFIG, seed=4).problems
        assert task.problems != find_task(spec, CONFIG, seed=5).problems
        assert task.name == "reasoning-gym-chain_sum+family_relationships"
        assert len({problem.id for problem in task.problems}) == len(task.problems) == 6
        assert all(problem.question.endswith(BOXED) for problem in task.problems)

    def test_the_generators_own_scorer_grades(self):
        task = find_task("reasoning-gym:chain_sum,family_relationships:3", CONFIG, seed=4)
        for problem in task.problems:
            for answer in (
                f"{problem.reference}",
                f"**{problem.reference}**",
                rf"so it is \boxed{{\text{{{problem.reference}}}}}, I think",
            ):
                assert grade_answer(task, problem, answer) == Match(True, True, ())
            assert grade_answer(task, problem, r"\boxed{nothing}") == Match(False, False, ())
            assert grade_answer(task, problem, "") == Match(False, False, ())

    def test_a_puzzle_with_many_answers_is_scored_by_its_rules(self):
        task = find_task("reasoning-gym:countdown:1", CONFIG, seed=1)
        (problem,) = task.problems
        other = " + ".join(reversed((problem.reference or "").split(" + ")))
        assert strict(task, 0, rf"\boxed{{({problem.reference})}}")
        assert strict(task, 0, rf"\boxed{{{other}}}")

    def test_an_unknown_generator_names_those_that_are_known(self):
        with pytest.raises(ConfigError, match=r"no generator chain_some; known: .*chain_sum"):
            find_task("reasoning-gym:chain_some", CONFIG, seed=0)


def test_generators_without_the_package_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ConfigError, match=r"pip install thinktune\[tasks\]"):
        find_task("reasoning-gym:chain_sum", CONFIG, seed=0)
