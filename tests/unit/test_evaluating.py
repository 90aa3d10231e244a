"""From two sides' answers to a report: judged where a judge grades, refused where rows leak."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.answered_questions import answer_all, ask
from tests.unit.teacher.scripted_server import Body, ScriptedServer, completion
from thinktune.data.example import Example
from thinktune.errors import ConfigError, DataError
from thinktune.evaluating import Circumstances, conclude, further_tasks
from thinktune.evaluation.tasks import EvaluationConfig, Grader
from thinktune.loading import refuse_leaks
from thinktune.settings import parse_settings
from thinktune.tracking import Silence

CIRCUMSTANCES = Circumstances(("base", "adapter"), ("before", "after"), "thinktune evaluate", {})


def knows_it_is_the_flu(body: Body, before: int) -> Body:
    right = "It is the flu" in body["messages"][-1]["content"]
    return completion(json.dumps({"why": "-", "right": right}))


def test_a_judge_grades_both_sides_and_is_not_told_which_is_which(tmp_path: Path) -> None:
    task = replace(ask(*["flu"] * 8), judged=True)
    sides = [
        [answer_all(task, ["It is a cold"] * 7 + [None])],
        [answer_all(task, [f"It is the flu, {n}" for n in range(7)] + [None])],
    ]
    with ScriptedServer(knows_it_is_the_flu) as server:
        config = parse_settings(
            EvaluationConfig, {"grader": "judge", "judge": {"url": server.url, "model": "j"}}
        )
        results, answered = conclude(
            tmp_path, [task], sides, config, CIRCUMSTANCES, seed=0, watcher=Silence()
        )
    told = {json.dumps(body).replace("It is a cold", "A") for body in server.bodies}
    assert len({re.sub(r"It is the flu, \d", "A", body) for body in told}) == 1
    assert len(server.bodies) == 1 + 7  # equal answers are judged once, unclosed ones never
    before, after = answered["clinic"]
    assert [a.graded[0].grade.strict for a in before] == [False] * 8
    assert [a.graded[0].grade.strict for a in after] == [True] * 7 + [False]
    assert results.outcome == "better"
    told = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert told["tasks"]["clinic"]["pairs"]["only_after"] == 7


def test_a_judge_that_is_not_named_is_missed_before_anything_is_asked() -> None:
    with pytest.raises(ConfigError, match="grader=judge and judge go together"):
        parse_settings(EvaluationConfig, {"grader": "judge"})
    config = EvaluationConfig.model_construct(grader=Grader.JUDGE, judge={"url": "http://x/v1"})
    with pytest.raises(ConfigError, match="model"):
        further_tasks(config, seed=0)


def test_a_question_of_a_further_task_among_the_training_rows_is_refused_by_its_row() -> None:
    task = ask("flu", name="exam", question="Fever for  3 days?")
    rows = [Example("Fever for 3 days?", "r", "a", where="rows.jsonl row 2")]
    with pytest.raises(DataError, match=r"exam.*rows\.jsonl row 2"):
        refuse_leaks(rows, task.problems, "task exam: ")
    refuse_leaks([replace(rows[0], question="Fever for 4 days?")], task.problems)
