"""The Python API: one function a stage, from a recipe to a comparison."""

import shlex
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any, Literal

import torch

from thinktune.atomic import folder_aside
from thinktune.config import RunConfig
from thinktune.contenders import contender_of
from thinktune.data.loader import segment_weights
from thinktune.determinism import deterministic, guarantee
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
from thinktune.interruption import interruptible
from thinktune.loading import Data, Model, load_config_model, load_data, refuse_leaks
from thinktune.model.adapter_io import write_adapter
from thinktune.model.lora import attach, base_only, match_targets
from thinktune.probing import Probe
from thinktune.reporting import mirrored, run_to_go_on_with, track_outcome, tracked
from thinktune.run_folder import (
    RunFolder,
    locked,
    new_run_folder,
    read_record,
    refuse_taken,
    require_same,
    update_record,
    write_record,
)
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
from thinktune.training.progress import TrainingData
from thinktune.training.summary import summary_of


def run_recipe(
    config: RunConfig,
    recipe_name: str,
    *,
    resume: bool | Literal["auto"] = False,
    compare_after: bool = True,
    watcher: Watcher | None = None,
) -> Outcome:
    """The main job: read, answer as the base model, train, answer again, compare.

    Args:
        config: every setting.
        recipe_name: names the run.
        resume: go on with the run ``config.output_dir`` names, or the newest of this recipe;
            "auto" begins one where there is none.
        compare_after: ask the held-out questions before and after; needs held-out rows.
        watcher: who watches.

    Raises:
        ThinktuneError: anything the user can put right; nothing half-written is left.
    """
    watcher = watcher or Silence()
    require_trackers(config.report_to)
    further = further_tasks(config.evaluation, seed=config.seed) if compare_after else []
    with interruptible(), deterministic(config.deterministic), ExitStack() as until_the_end:
        going_on = run_to_go_on_with(config, recipe_name, resume, watcher)
        if going_on is None:
            refuse_taken(config.output_dir)
        else:
            until_the_end.enter_context(locked(going_on))
        model = load_config_model(config, watcher)
        data = load_data(config, model.template, model.context, watcher)
        is_asked = data.heldout and (compare_after or config.training.sample_steps)
        own = make_task(config, data, recipe_name) if is_asked else None
        tasks = [own, *further] if own and compare_after else []
        require_names(tasks)
        for task in tasks[1:]:
            refuse_leaks(data.train, task.problems, f"task {task.name}: ")
        match_targets(model.decoder, config.lora.target_modules)
        run = going_on or new_run_folder(config, recipe_name)
        if going_on is None:
            until_the_end.enter_context(locked(run))
        checkpoints, steps_done = _begin(model, config, data, recipe_name, run, watcher)
        push = until_the_end.enter_context(mirrored(run, config, watcher))
        tracker = until_the_end.enter_context(tracked(run, config, steps_done, watcher))
        sides = []
        if tasks:
            with base_only(model.decoder):
                sides.append(_answers(model, tasks, config, run, watcher, BEFORE))
        _train(model, config, data, own, run, checkpoints, steps_done, (tracker, push), watcher)
        training = summary_of(read_metrics(run.path))
        update_record(run, {"training": asdict(training)})
        push()
        if not tasks:
            return Outcome(run.path, None, None, training=training)
        sides.append(_answers(model, tasks, config, run, watcher, AFTER))
        outcome = _conclude(model, config, run, tasks, sides, watcher)
        track_outcome(tracker, outcome)
        push()
        return replace(outcome, training=training)


def _conclude(
    model: Model,
    config: RunConfig,
    run: RunFolder,
    tasks: Sequence[Task],
    sides: Sequence[list[list[Answered]]],
    watcher: Watcher,
) -> Outcome:
    """Compare, and write what came of it."""
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
    return Outcome(run.path, run.evaluation / "report.html", results, answered)


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
    try:
        return ask_all(
            model, tasks, config.evaluation, seed=config.seed, watcher=watcher, who=title,
            folder=run.evaluation, key=key, identity=who.identity,
        )  # fmt: skip
    except KeyboardInterrupt:
        watcher.say(
            "Interrupted; every answer is kept: the same command with --resume auto goes on."
        )
        raise


def _begin(
    model: Model,
    config: RunConfig,
    data: Data,
    recipe_name: str,
    run: RunFolder,
    watcher: Watcher,
) -> tuple[CheckpointFolder, int]:
    """Attach the adapter, fresh or from the newest whole checkpoint; steps that are done."""
    keep = config.training.save_total_limit
    checkpoints = CheckpointFolder(run.checkpoints, config.lora, model.base, keep)
    facts, steps_done = _facts(model, data), 0
    if run.record.exists():
        require_same(run, facts)
        if read_record(run).get("failure"):
            update_record(run, {"failure": None})
        steps_done = checkpoints.read(model.decoder, watcher)
        after = (
            f"goes on after step {steps_done}" if steps_done else "begins again: nothing was saved"
        )
        watcher.say(f"{run.path} {after}.")
    if not steps_done:
        attach(model.decoder, config.lora, seed=config.seed)
    checkpoints.require_room(model.decoder)
    if not run.record.exists():
        write_record(run, config, recipe_name, facts)
    return checkpoints, steps_done


def _facts(model: Model, data: Data) -> dict[str, Any]:
    decoder = model.decoder
    return {
        "base": asdict(model.base),
        "base_dtype": decoder.held_as,
        "dtype": str(decoder.dtype).removeprefix("torch."),
        "device": str(decoder.device),
        "num_threads": torch.get_num_threads(),
        "determinism": asdict(guarantee(decoder.device)),
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
    told: tuple[Tracker, Callable[[], None]],
    watcher: Watcher,
) -> None:
    """Take the steps that are left, and write the adapter."""
    tracker, push = told
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

    train(
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
        on_saved=push,
    )
    with folder_aside(run.adapter) as aside:
        write_adapter(model.decoder, aside, config.lora, model.base)
    tracker.artifact(run.adapter)
    best = checkpoints.best()
    if best is not None and best[0] != checkpoints.all()[-1][0]:
        watcher.say(
            f"The held-out loss was lowest after step {best[0]} ({best[1]:.3f}), which is in "
            f"checkpoints/step-{best[0]:06d}; the adapter is the last step's."
        )
