"""Tasks put to a model, and what one or two models' answers come to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from thinktune.answering import answer
from thinktune.config import RunConfig
from thinktune.errors import ConfigError
from thinktune.evaluation.comparison import compare
from thinktune.evaluation.content import AnsweredSides, Provenance
from thinktune.evaluation.report import write_report
from thinktune.evaluation.samples import Answered, with_judgement
from thinktune.evaluation.scores import summarise, to_metrics
from thinktune.evaluation.task_sources import find_task
from thinktune.evaluation.tasks import EvaluationConfig, Grader, Task, task_from_examples
from thinktune.evaluation.verdict import AFTER, ALONE, BEFORE, Alone, Evaluation, Results
from thinktune.generation.remote import ServerConfig
from thinktune.judging import Judgeable, JudgeConfig, judge_answers
from thinktune.loading import Data, Model
from thinktune.run_folder import RunFolder, update_record, versions
from thinktune.settings import parse_settings
from thinktune.tracking import Watcher, read_metrics
from thinktune.training.summary import TrainingSummary

JUDGEMENTS = "judgements.jsonl"
"""What a judge has said, in the folder of a report."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the main job, or an evaluation, leaves."""

    folder: Path
    """The run folder, or where an evaluation of models is."""
    report: Path | None
    """The page of the evaluation."""
    results: Results | None
    """None if nothing was asked."""
    answered: dict[str, AnsweredSides] = field(default_factory=dict)
    """By task."""
    training: TrainingSummary | None = None


@dataclass(frozen=True, slots=True)
class Circumstances:
    """How answers came about, for the report."""

    models: Sequence[str]
    """Who answered on each side."""
    titles: tuple[str, str]
    """What two sides are called."""
    command: str
    """Repeats it."""
    facts: Mapping[str, str]
    curves: Mapping[str, object] | None = None
    """Of the training, if there was one."""


def make_task(config: RunConfig, data: Data, recipe_name: str) -> Task:
    """The held-out questions of a run, as a task; the labels are those of all records."""
    name = Path(config.data.heldout or config.data.train).stem or recipe_name
    known = [e.reference for e in data.train if e.reference]
    return task_from_examples(data.heldout, config.evaluation, name=name, known_references=known)


def further_tasks(config: EvaluationConfig, *, seed: int) -> list[Task]:
    """The tasks that settings name beside the held-out questions; a judge is looked at too."""
    if config.grader is Grader.JUDGE:
        judge_of(config)
    return [find_task(spec, config, seed=seed) for spec in config.tasks]


def require_names(tasks: Sequence[Task]) -> None:
    """Refuse tasks that would share a folder.

    Raises:
        ConfigError: two have one name.
    """
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two tasks are called {name}; rename one of the files")


def ask_all(
    model: Model,
    tasks: Sequence[Task],
    config: EvaluationConfig,
    *,
    seed: int,
    watcher: Watcher,
    who: str,
    folder: Path,
    key: str,
    identity: Mapping[str, object],
    server: ServerConfig | None = None,
) -> list[list[Answered]]:
    """Ask the model as it stands the questions of every task; the journals stay in the folder."""
    return [
        answer(
            model,
            task,
            config,
            seed=seed,
            watcher=watcher,
            title=f"{who}: {task.name}",
            journal=_journal(folder, task, key),
            identity=identity,
            server=server,
        )
        for task in tasks
    ]


def _journal(folder: Path, task: Task, key: str) -> Path:
    return folder / task.name / f"{key}.partial.jsonl"


def conclude(
    folder: Path,
    tasks: Sequence[Task],
    sides: Sequence[Sequence[Sequence[Answered]]],
    config: EvaluationConfig,
    circumstances: Circumstances,
    *,
    seed: int,
    watcher: Watcher,
) -> tuple[Results, dict[str, AnsweredSides]]:
    """Compare the sides, or sum one up, and write the report; then the journals go.

    Args:
        folder: where the report is written.
        tasks: what was asked.
        sides: by side and task, what was answered; one side or two.
        config: how.
        circumstances: for the report.
        seed: of draws and intervals.
        watcher: who watches.
    """
    answered: dict[str, AnsweredSides] = {
        task.name: _judged(task, [side[place] for side in sides], config, folder, watcher)
        for place, task in enumerate(tasks)
    }
    watcher.stage("Comparing the answers, writing the report")
    decoding = {
        name: getattr(config, name)
        for name in ("temperature", "top_p", "max_new_tokens", "num_samples")
    }
    results: Results
    if len(sides) == 1:
        scores = (
            summarise(answered[t.name][0], task_name=t.name, purpose=t.purpose, seed=seed)
            for t in tasks
        )
        results = Alone(tuple(scores))
    else:
        compared = (
            compare(
                *answered[t.name], task_name=t.name, purpose=t.purpose,
                decoding=decoding | {"seed": seed}, seed=seed, sides=circumstances.titles,
            )
            for t in tasks
        )  # fmt: skip
        results = Evaluation(tuple(compared))
    told = {name: str(value) for name, value in decoding.items()}
    provenance = Provenance(
        created=datetime.now(UTC),
        models=tuple(circumstances.models),
        command=circumstances.command,
        facts={"seed": str(seed), **told, **circumstances.facts, **versions()},
    )
    write_report(folder, results, answered, provenance, seed=seed, curves=circumstances.curves)
    for task in tasks:
        for key in (BEFORE, AFTER, ALONE):
            _journal(folder, task, key).unlink(missing_ok=True)
    return results, answered


def judge_of(config: EvaluationConfig) -> JudgeConfig:
    """The judge that settings name.

    Raises:
        ConfigError: they name none, or a wrong one.
    """
    if not config.judge:
        raise ConfigError(
            "grader=judge needs evaluation.judge, with the url and model of an OpenAI-compatible "
            "endpoint"
        )
    return parse_settings(JudgeConfig, config.judge)


def _judged(
    task: Task,
    sides: list[Sequence[Answered]],
    config: EvaluationConfig,
    folder: Path,
    watcher: Watcher,
) -> AnsweredSides:
    """Graded by the judge where the task asks for one, which is not told the side."""
    if not task.judged:
        return sides
    items = [
        Judgeable(
            (place, each.problem.id, graded.sample.index), each.problem.question,
            each.problem.reference or each.problem.answer or None, graded.sample.answer,
        )
        for place, side in enumerate(sides)
        for each in side
        for graded in each.graded
        if graded.sample.closed
    ]  # fmt: skip
    verdicts = judge_answers(items, judge_of(config), folder / task.name / JUDGEMENTS, watcher)
    judged = []
    for place, side in enumerate(sides):
        own = {
            (item.key[1], item.key[2]): verdicts.get(item.key)
            for item in items
            if isinstance(item.key, tuple) and item.key[0] == place
        }
        judged.append(with_judgement(side, own))
    return judged


def facts_of(model: Model) -> dict[str, str]:
    """What a reader must know of the machine and the weights to have the same numbers."""
    decoder = model.decoder
    device = torch.cuda.get_device_name(decoder.device) if decoder.device.type == "cuda" else "cpu"
    return {
        "base model": model.base.name,
        "base weights": str(model.base.fingerprint),
        "base weights held as": decoder.held_as,
        "type of products": str(decoder.dtype).removeprefix("torch."),
        "device": device,
        "template": model.template.description,
    }


def curves_of(run: RunFolder) -> dict[str, list[dict[str, Any]]]:
    """The training's numbers as the page draws them."""
    curves: dict[str, list[dict[str, Any]]] = {"train": [], "heldout": [], "probe": []}
    for record in read_metrics(run.path):
        for part, curve in curves.items():
            own = {
                name.removeprefix(f"{part}/"): value
                for name, value in record.items()
                if name.startswith(f"{part}/")
            }
            if own:
                curve.append({"step": record["step"]} | own)
    return curves


def record_results(run: RunFolder, results: Results) -> None:
    """Put the verdict and the scores into run.json."""
    scores = {
        key: {
            name: mean
            for task in results.tasks
            for name, mean in to_metrics(task.scores[key]).items()
        }
        for key in results.titles
    }
    update_record(run, {"verdict": results.verdict, "scores": scores})
