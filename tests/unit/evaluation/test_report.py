import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.answered_questions import Written, answer_all, ask
from thinktune.answers.grading import AnswerKind
from thinktune.errors import DataError
from thinktune.evaluation.comparison import compare
from thinktune.evaluation.content import Provenance
from thinktune.evaluation.markdown import MAX_SHOWN_CHARACTERS, to_markdown
from thinktune.evaluation.report import to_json, write_report
from thinktune.evaluation.samples import Answered, read_samples
from thinktune.evaluation.scores import summarise
from thinktune.evaluation.tasks import Purpose
from thinktune.evaluation.verdict import Alone, Evaluation

TASK = ask(*["cold", "flu"] * 4, question="# Is it\n*flu*?")
PROVENANCE = Provenance(
    datetime(2026, 11, 24, 12, tzinfo=UTC),
    ("base", "base + adapter"),
    "thinktune evaluate x",
    {"temperature": "0", "seed": "11"},
)


def answer_every(answer: Written | Sequence[Written], reasoning: str = "because") -> list[Answered]:
    return answer_all(TASK, [answer] * len(TASK.problems), reasoning=reasoning)


def compared(
    before: list[Answered], after: list[Answered], purpose: Purpose = Purpose.DOMAIN
) -> Evaluation:
    comparison = compare(
        before, after, task_name="clinic", purpose=purpose, decoding={"temperature": 0}, seed=11
    )
    return Evaluation((comparison,))


def page(before: list[Answered], after: list[Answered]) -> str:
    sides = {"clinic": [before, after]}
    return to_markdown(compared(before, after), sides, PROVENANCE, seed=11)


def test_everything_is_written_and_can_be_read_again(tmp_path: Path):
    before, after = answer_every(None), answer_every("flu")
    evaluation = compared(before, after)
    write_report(tmp_path, evaluation, {"clinic": [before, after]}, PROVENANCE, seed=11)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"clinic", "comparison.json", "report.md", "report.html"}
    assert read_samples(tmp_path / "clinic" / "before.jsonl") == before
    assert read_samples(tmp_path / "clinic" / "after.jsonl") == after
    written = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(to_json(evaluation, PROVENANCE)))
    assert evaluation.verdict.partition(": ")[2].partition(" (")[0] in (
        tmp_path / "report.html"
    ).read_text(encoding="utf-8")


def test_one_model_alone_is_written_too(tmp_path: Path):
    answered = answer_every(["flu", "cold", "flu"])
    scores = summarise(answered, task_name="clinic", purpose=Purpose.DOMAIN, seed=1)
    provenance = replace(PROVENANCE, models=("base",))
    write_report(tmp_path, Alone((scores,)), {"clinic": [answered]}, provenance, seed=1)
    assert read_samples(tmp_path / "clinic" / "alone.jsonl") == answered
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "**clinic: pass@1 0.50 on 8 questions (95% intervals: " in text
    assert "| 8 questions, 3 samples each | answers |" in text
    assert "| graded | right: the reasoning" not in text
    assert "(the first of 3 samples, " in text
    values: dict[str, Any] = json.loads((tmp_path / "comparison.json").read_text())
    assert (values["outcome"], "outcome" in values["tasks"]["clinic"]) == (None, False)
    metric = values["tasks"]["clinic"]["metrics"]["evaluation/clinic/maj_at_3"]
    assert (metric["alone"]["mean"], metric["difference"]) == (0.5, None)


def test_two_tasks_of_one_name_are_refused_before_anything_is_written(tmp_path: Path):
    before, after = answer_every("cold"), answer_every("flu")
    twice = Evaluation(compared(before, after).comparisons * 2)
    with pytest.raises(DataError, match="two tasks are called clinic; rename the file of one"):
        write_report(tmp_path, twice, {"clinic": [before, after]}, PROVENANCE, seed=1)
    assert list(tmp_path.iterdir()) == []


def test_the_json_holds_every_task_and_every_metric_by_its_key():
    values: dict[str, Any] = to_json(compared(answer_every(None), answer_every("flu")), PROVENANCE)
    task = values["tasks"]["clinic"]
    metrics = task["metrics"]
    assert all(name.startswith("evaluation/clinic/") for name in metrics)
    strict = metrics["evaluation/clinic/pass_at_1"]
    assert (strict["before"]["mean"], strict["after"]["mean"]) == (0.0, 0.5)
    assert (strict["difference"]["mean"], strict["difference"]["p"]) == (0.5, 0.125)
    assert metrics["evaluation/clinic/reasoning_words"]["before"] is None
    assert task["pairs"] == {"both": 0, "only_before": 0, "only_after": 4, "neither": 4}
    assert (task["decoding"], task["seed"]) == ({"temperature": 0}, 11)
    assert task["questions_needed"] > 8
    assert values["provenance"]["created"] == "2026-11-24T12:00:00+00:00"


def test_the_page_opens_with_the_verdict_and_ends_with_the_way_to_repeat_it():
    before, after = answer_every("cold"), answer_every("flu")
    text = page(before, after)
    assert text.split("\n\n")[1] == f"**{compared(before, after).verdict}**"
    assert "`thinktune evaluate x`" in text
    assert "| after | base + adapter |\n| temperature | 0 |\n| seed | 11 |" in text
    strict = "| strict accuracy (pass@1) | 0.50 (0.22 to 0.78) | 0.50 (0.22 to 0.78) | +0.00 ("
    assert strict in text
    assert "| flu | 4 | 0 | 4 | 0 | 4 | nothing |" in text
    assert "| cold | 4 | 4 | 0 | 4 | 0 | flu 4 |" in text


def test_a_metric_that_only_one_side_has_is_said_to_have_no_pairs():
    text = page(answer_every(None), answer_every("flu"))
    assert "| reasoning, where closed (words) | none | 1 (1 to 1) | no pairs |" in text


def test_a_change_that_many_metrics_do_not_explain_has_a_star():
    lines = page(answer_every(None), answer_every("flu")).splitlines()
    starred = [line for line in lines if line.endswith(") \\* |")]
    assert any(line.startswith("| reasoning closed | 0.00 ") for line in starred)
    assert not any(line.startswith("| lenient accuracy") for line in starred)


def test_a_question_answered_wrongly_is_shown():
    text = page(answer_every("cold"), answer_every("flu"))
    assert "| graded | right: the reasoning concludes otherwise | wrong: answered flu; the" in text


def test_unfinished_samples_are_shown_as_unfinished_not_as_wrong_answers():
    text = page(answer_every(None, reasoning="flu"), answer_every("flu", reasoning="flu"))
    assert "wrong: never closed its reasoning; right if lenient" in text


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
    text = page(answer_every("flu"), answer_every("flu", reasoning=written))
    assert f"| reasoning | because | {shown} |" in text


def test_a_question_stays_a_quotation():
    assert "\n> \\# Is it  \n> \\*flu\\*?\n" in page(answer_every("flu"), answer_every("flu"))


def test_long_reasoning_is_cut_on_the_page_and_says_how_much_is_left():
    long = answer_every("flu", reasoning="x" * (MAX_SHOWN_CHARACTERS + 1234))
    text = page(long, answer_every("flu"))
    assert "*(1,234 more characters)*" in text
    assert "x" * (MAX_SHOWN_CHARACTERS + 1) not in text


def test_questions_without_references_make_a_page_too():
    answered = answer_all(ask(*[None] * 8, kind=AnswerKind.TEXT), ["flu"] * 8)
    text = page(answered, answered)
    assert "| graded | not graded | not graded |" in text
    assert "strict accuracy" not in text.partition("## To repeat")[0]
    assert "strictly right" not in text


def test_warnings_stand_once_at_the_top():
    text = page(answer_every(None), answer_every("flu"))
    assert text.count("No reasoning was closed on 8 questions") == 1
    assert text.index("> **Note:** No reasoning was closed") < text.index("## clinic")


def test_a_right_text_answer_counts_as_its_reference():
    task = ask(*["Rest well"] * 8, kind=AnswerKind.TEXT)
    right, wrong = answer_all(task, ["rest well!"] * 8), answer_all(task, ["run"] * 8)
    assert "| Rest well | 8 | 0 | 8 | 0 | 8 | nothing |" in page(wrong, right)
    assert "| Rest well | 8 | 8 | 0 | 8 | 0 | (other) 8 |" in page(right, wrong)
