import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.answered_questions import Written, answer_all, ask, write
from thinktune.data.example import Role, Turn
from thinktune.evaluation.comparison import compare
from thinktune.evaluation.content import Provenance, notes_of, page_content
from thinktune.evaluation.metrics import METRICS
from thinktune.evaluation.page import to_page
from thinktune.evaluation.samples import Answered
from thinktune.evaluation.scores import grade_samples, summarise
from thinktune.evaluation.tasks import Purpose
from thinktune.evaluation.verdict import Alone, Evaluation

CREATED = datetime(2026, 11, 24, 12, tzinfo=UTC)
TWO = Provenance(CREATED, ("base", "base + adapter"), "thinktune evaluate x", {"seed": "0"})
ONE = replace(TWO, models=("base",))
REFERENCES = ("flu", "flu", "cold", "cold", None)
Given = Sequence[Written | Sequence[Written]]


def compared(
    before: Given, after: Given, purpose: Purpose = Purpose.DOMAIN, reasoning: str = "the flu"
) -> dict[str, Any]:
    sides = [answer_all(ask(*REFERENCES), of, reasoning=reasoning) for of in (before, after)]
    comparison = compare(*sides, task_name="clinic", purpose=purpose, decoding={}, seed=1)
    return page_content(Evaluation((comparison,)), {"clinic": sides}, TWO)


ANSWERS = ["cold", "flu", None, "cold", "flu"], ["flu", "cold", "flu", "cold", "flu"]


def test_the_content_can_be_written_as_json_and_shown_as_a_page():
    content = compared(*ANSWERS)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert "<h1" in to_page(content)


def test_each_question_says_what_became_of_it():
    questions = compared(*ANSWERS)["questions"]
    outcomes = [question["outcome"] for question in questions]
    assert outcomes == ["fixed", "broken", "wrong", "right", "ungraded"]
    assert [question["unfinished"] for question in questions][1:3] == [[], ["before"]]
    assert {question["task"] for question in questions} == {"clinic"}
    assert questions[0]["sides"]["after"] == [
        {
            "reasoning": "the flu",
            "answer": "flu",
            "closed": True,
            "truncated": False,
            "right": True,
            "found": ["flu"],
            "num_tokens": 9,
            "notes": [],
        }
    ]


def test_a_task_tells_its_pairs_lengths_and_references():
    (task,) = compared(*ANSWERS)["tasks"]
    assert task["pairs"] == {"both": 1, "only_before": 1, "only_after": 1, "neither": 1}
    assert task["lengths"]["answer"] == {"before": [1] * 4, "after": [1] * 5}
    flu = {"reference": "flu", "num": 2, "before": 1, "after": 1, "instead": "cold 1"}
    assert flu in task["by_reference"]
    assert (task["num_questions"], task["num_samples"], task["reliability"]) == (5, 1, None)


def test_metrics_have_both_sides_and_the_difference_with_p():
    (task,) = compared(*ANSWERS)["tasks"]
    metrics = {metric["name"]: metric for metric in task["metrics"]}
    assert next(iter(metrics)) == "pass_at_1"
    assert set(metrics) < set(METRICS)
    closure = metrics["closure_rate"]
    assert (closure["before"]["mean"], closure["after"]["mean"]) == (0.8, 1.0)
    assert closure["difference"]["mean"] == pytest.approx(0.2)
    assert closure["difference"]["p_adjusted"] == 1.0
    assert metrics["pass_at_1"]["difference"]["p_adjusted"] is None
    assert metrics["answer_words"]["better"] is None


def test_a_metric_that_one_side_lacks_has_no_difference():
    (task,) = compared([None] * 5, ["flu"] * 5)["tasks"]
    words = next(metric for metric in task["metrics"] if metric["name"] == "answer_words")
    assert (words["before"], words["difference"]) == (None, None)
    assert words["after"]["num"] == 5


def test_outside_the_domain_leniently_right_is_right():
    content = compared([None] * 5, ["flu"] * 5, Purpose.RETENTION)
    assert content["tasks"][0]["metrics"][0]["name"] == "lenient_accuracy"
    assert content["questions"][0]["outcome"] == "right"
    assert content["questions"][0]["sides"]["before"][0]["right"] is True


def test_several_samples_stand_beside_each_other():
    content = compared([["flu", "cold", None]] * 5, [["flu", "flu", "cold"]] * 5)
    first = content["questions"][0]
    assert [sample["right"] for sample in first["sides"]["after"]] == [True, True, False]
    assert (first["outcome"], first["unfinished"]) == ("fixed", ["before"])
    reliability = content["tasks"][0]["reliability"]
    assert reliability["after"]["bins"][0]["confidence"] == pytest.approx(2 / 3)
    assert "<h1" in to_page(content)


def test_one_model_alone_makes_a_page_without_outcome():
    answered = answer_all(ask(*REFERENCES), ANSWERS[0])
    scores = summarise(answered, task_name="clinic", purpose=Purpose.DOMAIN, seed=1)
    content: dict[str, Any] = page_content(Alone((scores,)), {"clinic": [answered]}, ONE)
    assert content["outcome"] is None
    assert content["sides"] == [{"key": "alone", "title": "answers", "about": "base"}]
    (task,) = content["tasks"]
    assert task["pairs"] is None
    assert all(m["difference"] is None and m["alone"] for m in task["metrics"])
    outcomes = [question["outcome"] for question in content["questions"]]
    assert outcomes == ["wrong", "right", "wrong", "right", "ungraded"]
    assert "<h1" in to_page(content)


def test_earlier_turns_and_the_way_to_repeat_it_are_told():
    task = ask("flu")
    history = (Turn(Role.USER, "hi"), Turn(Role.ASSISTANT, "hello", reasoning="greet"))
    problem = replace(task.problems[0], system="be brief", history=history)
    answered = answer_all(replace(task, problems=(problem,)), ["flu"])
    scores = summarise(answered, task_name="clinic", purpose=Purpose.DOMAIN, seed=1)
    curves = {"train": [{"step": 1, "loss": 2.0}], "heldout": [], "probe": []}
    content: dict[str, Any] = page_content(
        Alone((scores,)), {"clinic": [answered]}, ONE, curves=curves
    )
    (question,) = content["questions"]
    assert question["earlier"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
    ]
    assert content["repeat"] == {"command": "thinktune evaluate x", "facts": [["seed", "0"]]}
    assert content["curves"] is curves
    assert content["created"] == "2026-11-24T12:00:00+00:00"


@pytest.mark.parametrize(
    ("reasoning", "answer", "notes"),
    [
        ("the flu", "flu; rest", []),
        ("the flu", "flu", ["lacks rest"]),
        ("a cold", "cold: rest", ["answered cold"]),
        ("the flu", "flu or cold: rest", ["names flu and cold", "right if lenient"]),
        ("the flu", "rest", ["does not give what is asked"]),
        ("a cold", "flu: rest", ["the reasoning concludes otherwise"]),
        ("the flu", None, ["never closed its reasoning", "right if lenient"]),
    ],
)
def test_notes_say_what_is_wrong_with_a_sample(reasoning, answer, notes):
    task = ask("flu")
    problem = replace(task.problems[0], required=("rest",))
    (answered,) = grade_samples(replace(task, problems=(problem,)), [[write(0, reasoning, answer)]])
    assert isinstance(answered, Answered)
    assert notes_of(problem, answered.graded[0]) == notes
