"""The Python API: one function a stage, from a recipe to a comparison."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from thinktune.atomic import folder_aside
from thinktune.config import RunConfig
from thinktune.data.loader import segment_weights
from thinktune.errors import ConfigError, RunError
from thinktune.evaluating import (
    Stage,
    ask_all,
    conclude,
    contender_of,
    evaluate_contenders,
    facts_of,
    find_contender,
    further_tasks,
    require_names,
)
from thinktune.evaluation.content import AnsweredSides
from thinktune.evaluation.samples import Answered
from thinktune.evaluation.scores import to_metrics
from thinktune.evaluation.task_sources import find_task
from thinktune.evaluation.tasks import EvaluationConfig, Task, task_from_examples
from thinktune.evaluation.verdict import AFTER, BEFORE, Results
from thinktune.generation.remote import ServerConfig
from thinktune.loading import Data, Model, load_config_model, load_data
from thinktune.model.adapter_io import write_adapter
from thinktune.model.lora import attach, base_only
from thinktune.probing import Probe
from thinktune.run_folder import (
    RunFolder,
    new_run_folder,
    open_run,
    refuse_taken,
    require_same,
    run_to_resume,
    update_record,
    write_record,
)
from thinktune.settings import parse_settings
from thinktune.tracking import (
    Silence,
    Tracker,
    Watcher,
    keep_records,
    read_metrics,
    require_trackers,
)
from thinktune.training.checkpoints import CheckpointFolder
from thinktune.training.loop import train
from thinktune.training.progress import TrainingData, TrainingSummary

HELD_OUT = "heldout"
"""Names a run's own questions, where tasks are named."""


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


def make_task(config: RunConfig, data: Data, recipe_name: str) -> Task:
    """The held-out questions of a run, as a task; the labels are those of all records."""
    name = Path(config.data.heldout or config.data.train).stem or recipe_name
    known = [e.reference for e in data.train if e.reference]
    return task_from_examples(data.heldout, config.evaluation, name=name, known_references=known)


def run_recipe(
    config: RunConfig,
    recipe_name: str,
    *,
    resume: bool = False,
    compare_after: bool = True,
    watcher: Watcher | None = None,
) -> Outcome:
    """The main job: read, answer as the base model, train, answer again, compare.

    Args:
        config: every setting.
        recipe_name: names the run.
        resume: go on with the run ``config.output_dir`` names, or the newest of this recipe.
        compare_after: ask the held-out questions before and after; needs held-out rows.
        watcher: who watches.

    Raises:
        ThinktuneError: anything the user can put right; nothing half-written is left.
    """
    watcher = watcher or Silence()
    require_trackers(config.report_to)
    further = further_tasks(config.evaluation, seed=config.seed) if compare_after else []
    going_on = run_to_resume(config, recipe_name) if resume else None
    if going_on is None:
        refuse_taken(config.output_dir)
    model = load_config_model(config, watcher)
    data = load_data(config, model.template, model.context, watcher)
    tasks = [make_task(config, data, recipe_name), *further] if data.heldout else further
    require_names(tasks)
    run, checkpoints, steps_done = _begin(model, config, data, recipe_name, going_on)
    sides = []
    if tasks:
        with base_only(model.decoder):
            sides.append(_answers(model, tasks, config, run, watcher, BEFORE))
    training = _train(model, config, data, run, checkpoints, steps_done, recipe_name, watcher)
    if not tasks:
        return Outcome(run.path, None, None, training=training)
    sides.append(_answers(model, tasks, config, run, watcher, AFTER))
    names = (config.base_model, str(run.adapter))
    results, answered = conclude(
        run.evaluation, tasks, sides, config.evaluation, seed=config.seed, models=names,
        titles=(BEFORE, AFTER), command=f"thinktune evaluate {shlex.quote(str(run.path))}",
        facts=facts_of(model), curves=_curves(run),
    )  # fmt: skip
    _record_results(run, results)
    return Outcome(run.path, run.evaluation / "report.html", results, answered, training)


def _answers(
    model: Model,
    tasks: Sequence[Task],
    config: RunConfig,
    run: RunFolder,
    watcher: Watcher,
    key: str,
) -> list[list[Answered]]:
    who = contender_of(config, None if key == BEFORE else run.adapter)
    title = "Answers of the base model" if key == BEFORE else "Answers of the trained adapter"
    return ask_all(
        model, tasks, config.evaluation, seed=config.seed, watcher=watcher, who=title,
        folder=run.evaluation, key=key, identity=who.identity,
    )  # fmt: skip


def _begin(
    model: Model, config: RunConfig, data: Data, recipe_name: str, going_on: RunFolder | None
) -> tuple[RunFolder, CheckpointFolder, int]:
    """Attach the adapter, fresh or from the newest checkpoint, and have a run folder for it."""
    keep = config.training.save_total_limit
    facts = _facts(model, data)
    if going_on is not None:
        require_same(going_on, facts)
        checkpoints = CheckpointFolder(going_on.checkpoints, config.lora, model.base, keep)
        if steps_done := checkpoints.read(model.decoder):
            return going_on, checkpoints, steps_done
    attach(model.decoder, config.lora, seed=config.seed)
    run = going_on or new_run_folder(config, recipe_name)
    if going_on is None:
        write_record(run, config, recipe_name, facts)
    return run, CheckpointFolder(run.checkpoints, config.lora, model.base, keep), 0


def _facts(model: Model, data: Data) -> dict[str, Any]:
    decoder = model.decoder
    return {
        "base": asdict(model.base),
        "dtype": str(decoder.dtype).removeprefix("torch."),
        "device": str(decoder.device),
        "num_threads": torch.get_num_threads(),
        "template": model.template.description,
        "data": {
            "num_train": len(data.train_rows.rows),
            "num_heldout": len(data.heldout),
            "train_tokens": sum(len(row.tokens) for row in data.train_rows.rows),
            "dropped": [*data.train_rows.dropped, *data.heldout_rows.dropped],
            "shortened": [*data.train_rows.shortened, *data.heldout_rows.shortened],
        },
    }


def _train(
    model: Model,
    config: RunConfig,
    data: Data,
    run: RunFolder,
    checkpoints: CheckpointFolder,
    steps_done: int,
    recipe_name: str,
    watcher: Watcher,
) -> TrainingSummary:
    tracker = Tracker(
        run.path,
        report_to=config.report_to,
        name=run.path.name,
        settings=config.model_dump(mode="json"),
        resume_step=steps_done,
    )

    probe = (
        Probe(model, make_task(config, data, recipe_name), config, run.path)
        if data.heldout
        else None
    )
    if probe is not None:
        keep_records(probe.path, steps_done)

    def sample(step: int) -> None:
        assert probe is not None
        tracker.log(step, probe.look(step))

    try:
        summary = train(
            model.decoder,
            TrainingData(
                data.train_rows.rows,
                data.heldout_rows.rows,
                segment_weights(config.reasoning, config.answer),
                config.packing,
            ),
            config.training,
            config.optimizer,
            seed=config.seed,
            checkpoints=checkpoints,
            tracker=tracker,
            watcher=watcher,
            steps_done=steps_done,
            sample=None if probe is None else sample,
        )
    finally:
        tracker.close()
    with folder_aside(run.adapter) as aside:
        write_adapter(model.decoder, aside, config.lora, model.base)
    if summary.last is not None:  # else the run was finished before, and has its record
        update_record(run, {"training": asdict(summary)})
    return summary


def _curves(run: RunFolder) -> dict[str, list[dict[str, Any]]]:
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


def _record_results(run: RunFolder, results: Results) -> None:
    scores = {
        key: {
            name: mean
            for task in results.tasks
            for name, mean in to_metrics(task.scores[key]).items()
        }
        for key in results.titles
    }
    update_record(run, {"verdict": results.verdict, "scores": scores})


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What `evaluate` is asked to do; what is left out is as the run, or the defaults, have it."""

    target: str
    """A run's folder, an adapter's, or a model."""
    adapter: str | None = None
    """An adapter's folder, for a model."""
    against: str | None = None
    """What it is compared with; None for the base model where there is an adapter."""
    tasks: tuple[str, ...] = ()
    """As ``evaluation.tasks``; ``heldout`` names a run's own questions."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of ``evaluation`` to change."""
    seed: int | None = None
    output: Path | None = None
    """Where to; None for the run's folder, or evaluations/NAME."""
    servers: tuple[ServerConfig, ...] = ()
    """What answers in place of this process, for the contender compared against first."""
    command: str = "thinktune evaluate"


def evaluate(request: EvaluationRequest, watcher: Watcher | None = None) -> Outcome:
    """Ask one or two models, or adapters, the same questions, and report.

    An evaluation that was interrupted goes on where it was, if the same is asked again.

    Raises:
        ThinktuneError: what cannot be found, does not go together, or has no questions.
    """
    watcher = watcher or Silence()
    last = find_contender(request.target, request.adapter)
    base = replace(last, adapter=None)
    if request.against is not None:
        contenders = [find_contender(request.against, base=base), last]
    else:
        contenders = [base, last] if last.adapter is not None else [last]
    if request.servers and len(request.servers) != len(contenders):
        raise ConfigError(
            f"{len(contenders)} models answer, so name {len(contenders)} with --server-model"
        )
    stage = Stage(contenders, watcher, weights=not request.servers)
    run, config, recipe_name = None, None, ""
    if (Path(request.target).expanduser() / "run.json").is_file():
        run, config, recipe_name = open_run(request.target)
    evaluation = _changed(config.evaluation if config else EvaluationConfig(), request)
    seed = request.seed if request.seed is not None else config.seed if config else 0
    tasks = []
    specs = request.tasks or ((HELD_OUT, *evaluation.tasks) if run else ())
    if not specs:
        raise ConfigError("name what is asked with --task: retention, a data file, ...")
    for spec in specs:
        if spec != HELD_OUT:
            tasks.append(find_task(spec, evaluation, seed=seed))
        elif run is None or config is None:
            raise ConfigError("--task heldout goes with a run; name a data file")
        else:
            changed = config.model_copy(update={"evaluation": evaluation})
            model = stage.take(last)
            data = load_data(changed, model.template, model.context, watcher)
            if not data.heldout:
                raise RunError(f"{run.path}: the run has no held-out questions; name --task")
            tasks.append(make_task(changed, data, recipe_name))
    whole = run is not None and request == EvaluationRequest(
        request.target, command=request.command, output=request.output
    )
    folder = request.output or (run.evaluation if run else Path("evaluations")) / (
        "" if whole else _slug(request)
    )
    results, answered = evaluate_contenders(
        stage, contenders, tasks, evaluation, seed=seed, folder=folder, command=request.command,
        watcher=watcher, servers=request.servers, curves=_curves(run) if run else None,
    )  # fmt: skip
    if run is not None and whole and request.output is None:
        _record_results(run, results)
    return Outcome(run.path if run else folder, folder / "report.html", results, answered)


def _changed(config: EvaluationConfig, request: EvaluationRequest) -> EvaluationConfig:
    return parse_settings(EvaluationConfig, config.model_dump() | request.settings)


def _slug(request: EvaluationRequest) -> str:
    """A folder's name for what was asked, so that a part never takes the place of the whole."""
    parts = [Path(request.target).name]
    if request.adapter:
        parts.append(Path(request.adapter).name)
    if request.against:
        parts += ["against", Path(request.against).name]
    parts += [Path(task).stem for task in request.tasks]
    parts += [f"{name}-{value}" for name, value in request.settings.items()]
    if request.seed is not None:
        parts.append(f"seed-{request.seed}")
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", "-".join(parts)).strip("-.")[:120]
