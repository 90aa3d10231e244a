import json
from pathlib import Path

import pytest

from thinktune.answers import AnswerKind
from thinktune.evaluation.comparison import Comparison, compare
from thinktune.evaluation.report import (
    MAX_SHOWN_CHARACTERS,
    to_json,
    to_markdown,
    write_comparison,
)
from thinktune.evaluation.samples import Graded, Sample, read_samples
from thinktune.evaluation.scores import METRICS, grade_samples
from thinktune.evaluation.tasks import Problem, Task

PROBLEMS = tuple(
    Problem(f"row {n}", "# Is it\n*flu*?", "flu" if n % 2 else "cold") for n in range(8)
)
TASK = Task("clinic", PROBLEMS, AnswerKind.LABEL, {"flu": [], "cold": []})


def answer_all(answer: str | None, reasoning: str = "because") -> list[Graded]:
    samples = [
        Sample(
            problem.id,
            "<prompt>",
            reasoning,
            reasoning,
            answer or "",
            closed=answer is not None,
            truncated=answer is None,
            num_tokens=5,
        )
        for problem in PROBLEMS
    ]
    return grade_samples(TASK, samples)


def compared(before: list[Graded], after: list[Graded]) -> Comparison:
    decoding = {"temperature": 0, "max_new_tokens": 64}
    return compare(before, after, task_name="clinic", decoding=decoding, seed=11)


def page(before: list[Graded], after: list[Graded]) -> str:
    return to_markdown(compared(before, after), before, after)


def test_everything_is_written_and_can_be_read_again(tmp_path: Path):
    before, after = answer_all(None), answer_all("flu")
    comparison = compared(before, after)
    write_comparison(tmp_path, before, after, comparison)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"before.jsonl", "after.jsonl", "comparison.json", "comparison.md"}
    assert read_samples(tmp_path / "before.jsonl") == before
    assert read_samples(tmp_path / "after.jsonl") == after
    assert json.loads((tmp_path / "comparison.json").read_text()) == to_json(comparison)


def test_the_json_holds_every_metric_by_its_key():
    values = to_json(compared(answer_all(None), answer_all("flu")))
    metrics = values["metrics"]
    assert isinstance(metrics, dict)
    assert set(metrics) == {f"evaluation/clinic/{name}" for name in METRICS}
    strict = metrics["evaluation/clinic/strict_accuracy"]
    assert (strict["before"]["mean"], strict["after"]["mean"]) == (0.0, 0.5)
    assert (strict["difference"]["mean"], strict["difference"]["num"]) == (0.5, 8)
    assert metrics["evaluation/clinic/reasoning_words"]["before"] is None
    assert values["strict_pairs"] == {"both": 0, "only_before": 0, "only_after": 4, "neither": 4}
    assert (values["mcnemar_p"], values["decoding"]) == (
        0.125,
        {"temperature": 0, "max_new_tokens": 64},
    )


def test_the_page_opens_with_the_verdict_and_says_how_both_were_decoded():
    before, after = answer_all("cold"), answer_all("flu")
    text = page(before, after)
    assert text.split("\n\n")[1] == f"**{compared(before, after).verdict}**"
    assert "`temperature 0`, `max_new_tokens 64`" in text
    assert "| strict accuracy | 0.50 (0.22 to 0.78) | 0.50 (0.22 to 0.78) | +0.00 (" in text
    assert "| flu | 4 | 0 | 4 | 0 | 4 | nothing |" in text
    assert "| cold | 4 | 4 | 0 | 4 | 0 | flu 4 |" in text


def test_a_metric_that_only_one_side_has_is_said_to_have_no_pairs():
    row = next(
        line
        for line in page(answer_all(None), answer_all("flu")).splitlines()
        if line.startswith("| reasoning, where closed")
    )
    assert row == "| reasoning, where closed (words) | none | 1 (1 to 1) | no pairs |"


def test_a_question_answered_wrongly_after_training_is_shown():
    text = page(answer_all("cold"), answer_all("flu"))
    assert "at least one of them wrong after training" in text
    assert "| graded | right | wrong: answered flu |" in text


def test_the_page_says_when_nothing_was_wrong():
    right = [answer_all(p.reference)[n] for n, p in enumerate(PROBLEMS)]
    assert "none was wrong after training" in page(right, right)


def test_unfinished_samples_are_shown_as_unfinished_not_as_wrong_answers():
    text = page(answer_all(None, reasoning="flu"), answer_all("flu"))
    assert "wrong: never closed its reasoning, right if lenient" in text


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("<think>|x|", r"&lt;think&gt;\|x\|"),
        ("**bold** _it_ snake_case", r"\*\*bold\*\* \_it\_ snake_case"),
        ("![a](http://x)", r"!\[a\](http://x)"),
        ("costs $5", r"costs \$5"),
        ("a\nb", "a<br>b"),
    ],
)
def test_what_a_model_wrote_is_shown_literally_and_stays_in_its_cell(written, shown):
    text = page(answer_all("flu"), answer_all("flu", reasoning=written))
    assert f"| reasoning | because | {shown} |" in text


def test_a_question_stays_a_quotation():
    assert "\n> \\# Is it  \n> \\*flu\\*?\n" in page(answer_all("flu"), answer_all("flu"))


def test_long_reasoning_is_cut_on_the_page_and_says_where_the_rest_is():
    text = page(answer_all("flu", reasoning="x" * (MAX_SHOWN_CHARACTERS + 1234)), answer_all("flu"))
    assert "*(1,234 more characters in before.jsonl)*" in text
    assert "x" * (MAX_SHOWN_CHARACTERS + 1) not in text


def test_questions_without_references_make_a_page_too():
    problems = tuple(Problem(p.id, p.question) for p in PROBLEMS)
    task = Task("clinic", problems, AnswerKind.TEXT, {})
    graded = grade_samples(task, [g.sample for g in answer_all("flu")])
    text = page(graded, graded)
    assert "not graded: no reference" in text
    assert "| strict accuracy | none | none | no pairs |" in text
    assert "Question by question" not in text


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("Flu or cold.", "wrong: names flu and cold, right if lenient"),
        ("Rest.", "wrong: does not give the reference"),
    ],
)
def test_a_wrong_answer_says_in_what_way(answer, shown):
    assert f"| {shown} |" in page(answer_all("flu"), answer_all(answer))


def test_a_right_text_answer_counts_as_its_reference():
    problems = tuple(Problem(p.id, p.question, "Rest well") for p in PROBLEMS)
    task = Task("advice", problems, AnswerKind.TEXT, {})
    right = grade_samples(task, [g.sample for g in answer_all("rest well!")])
    wrong = grade_samples(task, [g.sample for g in answer_all("run")])
    assert "| Rest well | 8 | 0 | 8 | 0 | 8 | nothing |" in page(wrong, right)
    assert "| Rest well | 8 | 8 | 0 | 8 | 0 | (other) 8 |" in page(right, wrong)
