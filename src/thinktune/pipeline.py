"""The Python API: one function a stage, from a recipe to a comparison."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from thinktune.atomic import folder_aside
from thinktune.config import RunConfig
from thinktune.contenders import contender_of
from thinktune.data.loader import segment_weights
from thinktune.evaluating import (
    Circumstances,
    Outcome,
    ask_all,
    conclude,
    curves_of,
    facts_of,
    further_tasks,
    make_task,
    record_results,
    require_names,
)
from thinktune.evaluation.samples import Answered
from thinktune.evaluation.tasks import Task
from thinktune.evaluation.verdict import AFTER, BEFORE
from thinktune.loading import Data, Model, load_config_model, load_data, refuse_leaks
from thinktune.model.adapter_io import write_adapter
from thinktune.model.lora import attach, base_only
from thinktune.probing import Probe
from thinktune.run_folder import (
    RunFolder,
    new_run_folder,
    refuse_taken,
    require_same,
    run_to_resume,
    update_record,
    write_record,
)
from thinktune.tracking import (
    Silence,
    Tracker,
    Watcher,
    keep_records,
    require_trackers,
)
from thinktune.training.checkpoints import CheckpointFolder
from thinktune.training.loop import train
from thinktune.training.progress import TrainingData, TrainingSummary


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
    is_asked = data.heldout and (compare_after or config.training.sample_steps)
    own = make_task(config, data, recipe_name) if is_asked else None
    tasks = [own, *further] if own and compare_after else []
    require_names(tasks)
    for task in tasks[1:]:
        refuse_leaks(data.train, task.problems, f"task {task.name}: ")
    run, checkpoints, steps_done = _begin(model, config, data, recipe_name, going_on)
    sides = []
    if tasks:
        with base_only(model.decoder):
            sides.append(_answers(model, tasks, config, run, watcher, BEFORE))
    training = _train(model, config, data, own, run, checkpoints, steps_done, watcher)
    if not tasks:
        return Outcome(run.path, None, None, training=training)
    sides.append(_answers(model, tasks, config, run, watcher, AFTER))
    circumstances = Circumstances(
        models=(config.base_model, str(run.adapter)),
        titles=(BEFORE, AFTER),
        command=f"thinktune evaluate {shlex.quote(str(run.path))}",
        facts=facts_of(model),
        curves=curves_of(run),
    )
    results, answered = conclude(
        run.evaluation, tasks, sides, config.evaluation, circumstances,
        seed=config.seed, watcher=watcher,
    )  # fmt: skip
    record_results(run, results)
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
        "base_dtype": decoder.held_as,
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
    own: Task | None,
    run: RunFolder,
    checkpoints: CheckpointFolder,
    steps_done: int,
    watcher: Watcher,
) -> TrainingSummary:
    tracker = Tracker(
        run.path,
        report_to=config.report_to,
        name=run.path.name,
        settings=config.model_dump(mode="json"),
        resume_step=steps_done,
    )

    probe = None if own is None else Probe(model, own, config, run.path)
    if probe is not None:
        keep_records(probe.path, steps_done)

    def sample(step: int) -> None:
        assert probe is not None
        tracker.log(step, probe.look(step))

    every = config.training.sample_steps
    due = every and steps_done and steps_done % every == 0  # when the run was interrupted
    if probe is not None and due and not probe.has_looked(steps_done):
        sample(steps_done)

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
