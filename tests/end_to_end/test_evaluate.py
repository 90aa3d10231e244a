"""`thinktune evaluate`: runs, adapters and models, several samples, interruptions, and refusals."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.small_runs import Interrupter, small_config, write_rows
from tests.tiny_models import tiny_checkpoint
from thinktune.errors import ConfigError, RunError
from thinktune.evaluation.samples import read_samples
from thinktune.examination import EvaluationRequest, evaluate
from thinktune.pipeline import run_recipe

MODEL = str(tiny_checkpoint("llama"))
QUESTIONS = [
    {"question": f"What is {n} + {n}?", "reference": str(2 * n), "id": f"sum {n}"} for n in range(5)
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("run")
    evaluation = {"max_new_tokens": 4, "tasks": []}
    return run_recipe(small_config(folder, evaluation=evaluation), "small").folder


@pytest.fixture
def sums(tmp_path: Path) -> str:
    """A file of questions."""
    return str(write_rows(tmp_path / "sums.jsonl", QUESTIONS))


def request(target: object, tmp_path: Path, *tasks: str, **changes: Any) -> EvaluationRequest:
    settings = {"max_new_tokens": 6} | changes.pop("settings", {})
    return EvaluationRequest(
        str(target), tasks=tasks, settings=settings, output=tmp_path / "out", **changes
    )


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "comparison.json").read_text(encoding="utf-8"))


def test_a_model_alone_gets_scores_and_no_verdict(tmp_path: Path, sums: str):
    outcome = evaluate(request(MODEL, tmp_path, sums))
    told = results(tmp_path / "out")
    assert told["outcome"] is None
    assert list(told["sides"]) == ["alone"]
    assert told["tasks"]["sums"]["num_graded"] == 5
    assert len(read_samples(tmp_path / "out" / "sums" / "alone.jsonl")) == 5
    assert outcome.report is not None
    assert "sums" in outcome.report.read_text(encoding="utf-8")


def test_an_adapter_is_compared_with_its_base_model_before_and_after(
    tmp_path: Path, sums: str, run: Path
):
    evaluate(request(MODEL, tmp_path / "named", sums, adapter=str(run / "adapter"), seed=3))
    evaluate(request(run, tmp_path / "run", sums))
    named, of_run = (results(tmp_path / name / "out") for name in ("named", "run"))
    assert list(named["sides"]) == ["before", "after"]
    assert named["tasks"] == of_run["tasks"]
    samples = [
        read_samples(tmp_path / "named" / "out" / "sums" / f"{side}.jsonl")
        for side in ("before", "after")
    ]
    told = [[a.graded[0].sample.completion for a in side] for side in samples]
    assert told[0] != told[1]


def test_the_base_model_of_a_comparison_says_what_it_says_alone(
    tmp_path: Path, sums: str, run: Path
):
    evaluate(request(MODEL, tmp_path / "alone", sums))
    evaluate(request(run, tmp_path / "both", sums))
    alone = read_samples(tmp_path / "alone" / "out" / "sums" / "alone.jsonl")
    before = read_samples(tmp_path / "both" / "out" / "sums" / "before.jsonl")
    assert [a.graded for a in alone] == [b.graded for b in before]


def test_an_adapter_against_itself_is_no_different(tmp_path: Path, sums: str, run: Path):
    evaluate(request(run, tmp_path, sums, against=str(run / "adapter")))
    told = results(tmp_path / "out")
    assert told["outcome"] == "cannot tell"
    for metric in told["tasks"]["sums"]["metrics"].values():
        assert metric["before"] == metric["after"]


def test_several_samples_differ_and_give_rates_between_none_and_all(tmp_path: Path, sums: str):
    settings = {"num_samples": 3, "temperature": 1.0}
    evaluate(request(MODEL, tmp_path, sums, settings=settings, seed=4))
    answered = read_samples(tmp_path / "out" / "sums" / "alone.jsonl")
    assert [len(each.graded) for each in answered] == [3] * 5
    assert any(len({g.sample.completion for g in each.graded}) > 1 for each in answered)
    assert "evaluation/sums/maj_at_3" in results(tmp_path / "out")["tasks"]["sums"]["metrics"]


def test_an_interrupted_evaluation_goes_on_and_ends_as_an_uninterrupted_one(
    tmp_path: Path, sums: str, run: Path
):
    settings = {"num_samples": 2, "temperature": 1.0, "batch_size": 3}
    whole = request(run, tmp_path / "whole", sums, settings=settings)
    parted = request(run, tmp_path / "parted", sums, settings=settings)
    evaluate(whole)
    title = f"Answers of {run / 'adapter'}"
    with pytest.raises(KeyboardInterrupt):
        evaluate(parted, Interrupter(title, 4))
    left = tmp_path / "parted" / "out" / "sums" / "after.partial.jsonl"
    assert len(left.read_text(encoding="utf-8").splitlines()) == 1 + 4
    with left.open("a", encoding="utf-8") as file:
        file.write('{"id": "torn')
    watcher = Interrupter("nothing", -1)
    evaluate(parted, watcher)
    assert "4 answers are there from an interrupted evaluation." in watcher.said
    assert "10 answers are there from an interrupted evaluation." in watcher.said
    for side in ("before", "after"):
        first, second = (
            read_samples(tmp_path / name / "out" / "sums" / f"{side}.jsonl")
            for name in ("whole", "parted")
        )
        assert first == second
    assert not list((tmp_path / "parted").rglob("*.partial.jsonl"))


def test_answers_to_other_settings_are_not_taken_over(tmp_path: Path, sums: str):
    with pytest.raises(KeyboardInterrupt):
        evaluate(request(MODEL, tmp_path, sums), Interrupter("Answers", 2))
    watcher = Interrupter("nothing", -1)
    evaluate(request(MODEL, tmp_path, sums, settings={"max_new_tokens": 5}), watcher)
    assert any("are not used again" in line for line in watcher.said)
    answered = read_samples(tmp_path / "out" / "sums" / "alone.jsonl")
    assert {each.graded[0].sample.num_tokens for each in answered} <= set(range(6))


def test_a_part_of_a_runs_questions_does_not_replace_the_whole(run: Path):
    before = (run / "evaluation" / "comparison.json").read_bytes()
    evaluate(EvaluationRequest(str(run), settings={"num_questions": 2}))
    (part,) = (path for path in (run / "evaluation").iterdir() if "num-questions-2" in path.name)
    assert results(part)["tasks"]["rows"]["num_questions"] == 2
    assert (run / "evaluation" / "comparison.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tasks": ()}, "name what is asked with --task"),
        ({"tasks": ("heldout",)}, "--task heldout goes with a run"),
        ({"tasks": ("no-such-task",)}, "no task no-such-task"),
        ({"tasks": ("retention", "retention")}, "two tasks are called retention"),
        ({"settings": {"num_samples": 2}}, "set a temperature"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_way_out(changes: dict[str, Any], told: str):
    with pytest.raises(ConfigError, match=told):
        evaluate(EvaluationRequest(MODEL, **({"tasks": ("retention",)} | changes)))


def test_an_adapter_beside_a_run_and_a_run_without_one_are_refused(tmp_path: Path, run: Path):
    with pytest.raises(ConfigError, match="a run has its own adapter"):
        evaluate(EvaluationRequest(str(run), adapter=str(run / "adapter")))
    (tmp_path / "run.json").write_bytes((run / "run.json").read_bytes())
    with pytest.raises(RunError, match="no adapter yet"):
        evaluate(EvaluationRequest(str(tmp_path)))


def test_settings_that_do_not_go_together_are_told_without_all_the_others():
    changed = EvaluationRequest(MODEL, tasks=("retention",), settings={"num_samples": 2})
    with pytest.raises(ConfigError, match=r"^num_samples=2 at temperature 0"):
        evaluate(changed)
    with pytest.raises(ConfigError, match=r"^temprature=0.6: no such setting; known: grader"):
        evaluate(EvaluationRequest(MODEL, tasks=("retention",), settings={"temprature": 0.6}))
