"""The Python API: one function a stage, from a recipe to a comparison."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from thinktune.answering import answer
from thinktune.atomic import folder_aside
from thinktune.config import RunConfig
from thinktune.data.loader import segment_weights
from thinktune.errors import RunError
from thinktune.evaluation.comparison import Comparison, compare
from thinktune.evaluation.report import write_comparison
from thinktune.evaluation.samples import Graded
from thinktune.evaluation.scores import summarise, to_metrics
from thinktune.evaluation.tasks import Task, task_from_examples
from thinktune.generation.completion import GenerationConfig
from thinktune.generation.engine import generate
from thinktune.loading import Data, Model, load_config_model, load_data, load_run_model, prompt_of
from thinktune.model.adapter_io import write_adapter
from thinktune.model.lora import attach, base_only
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
from thinktune.tracking import Silence, Tracker, Watcher, keep_records, require_trackers
from thinktune.training.checkpoints import CheckpointFolder
from thinktune.training.loop import train
from thinktune.training.progress import TrainingData, TrainingSummary

SAMPLES_FILE = "samples.jsonl"
"""What the model wrote along the way, in the run folder."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the main job leaves."""

    run: RunFolder
    training: TrainingSummary
    comparison: Comparison | None
    before: list[Graded]
    after: list[Graded]


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
    going_on = run_to_resume(config, recipe_name) if resume else None
    if going_on is None:
        refuse_taken(config.output_dir)
    model = load_config_model(config, watcher)
    data = load_data(config, model.template, model.context, watcher)
    task = make_task(config, data, recipe_name) if compare_after and data.heldout else None
    run, checkpoints, steps_done = _begin(model, config, data, recipe_name, going_on)
    before: list[Graded] = []
    if task is not None:
        with base_only(model.decoder):
            before = _answer(model, task, config, watcher, "before")
    training = _train(model, config, data, run, checkpoints, steps_done, recipe_name, watcher)
    if task is None:
        return Outcome(run, training, None, [], [])
    after = _answer(model, task, config, watcher, "after")
    comparison = _compare(config, run, task, before, after)
    return Outcome(run, training, comparison, before, after)


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


def _answer(
    model: Model, task: Task, config: RunConfig, watcher: Watcher, when: str
) -> list[Graded]:
    who = "the base model" if when == "before" else "the trained adapter"
    title = f"Answers of {who}"
    return answer(model, task, config.evaluation, seed=config.seed, watcher=watcher, title=title)


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

    keep_records(run.path / SAMPLES_FILE, steps_done)

    def sample(step: int) -> None:
        _look(model, config, data, run, step)

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
            sample=sample if data.heldout else None,
        )
    finally:
        tracker.close()
    with folder_aside(run.adapter) as aside:
        write_adapter(model.decoder, aside, config.lora, model.base)
    if summary.last is not None:  # else the run was finished before, and has its record
        update_record(run, {"training": asdict(summary)})
    return summary


def _look(model: Model, config: RunConfig, data: Data, run: RunFolder, step: int) -> None:
    """Write down what the model says to the first held-out questions at this step."""
    asked = data.heldout[: config.evaluation.num_shown]
    completions = generate(
        model.decoder,
        model.tokenizer,
        [prompt_of(model.template, e) for e in asked],
        GenerationConfig(max_new_tokens=config.evaluation.max_new_tokens, temperature=0, top_p=1),
        stop_token_ids=model.template.stop_token_ids,
    )
    with (run.path / SAMPLES_FILE).open("a", encoding="utf-8") as file:
        for example, completion in zip(asked, completions, strict=True):
            record = {"step": step, "where": example.where, "question": example.question}
            record |= {"completion": completion.text, "stop": completion.stop.value}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _write_comparison(
    config: RunConfig, folder: Path, task: Task, before: list[Graded], after: list[Graded]
) -> Comparison:
    settings = config.evaluation
    decoding = {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "max_new_tokens": settings.max_new_tokens,
        "seed": config.seed,
    }
    comparison = compare(before, after, task_name=task.name, decoding=decoding, seed=config.seed)
    write_comparison(folder, before, after, comparison, num_shown=settings.num_shown)
    return comparison


def _compare(
    config: RunConfig, run: RunFolder, task: Task, before: list[Graded], after: list[Graded]
) -> Comparison:
    comparison = _write_comparison(config, run.evaluation, task, before, after)
    scores = {
        when: summarise(graded, seed=config.seed)
        for when, graded in (("before", before), ("after", after))
    }
    update_record(
        run,
        {
            "verdict": comparison.verdict,
            "scores": {when: to_metrics(of, task.name) for when, of in scores.items()},
        },
    )
    return comparison


def evaluate_run(
    path: str | Path,
    *,
    num_questions: int | None = None,
    watcher: Watcher | None = None,
) -> Outcome:
    """Ask a finished run's held-out questions again, without and with its adapter, and compare."""
    watcher = watcher or Silence()
    run, config, recipe_name = open_run(path)
    if num_questions is not None:
        settings = config.evaluation.model_copy(update={"num_questions": num_questions})
        config = config.model_copy(update={"evaluation": settings})
    model, _ = load_run_model(path, watcher)
    data = load_data(config, model.template, model.context, watcher)
    if not data.heldout:
        raise RunError(f"{run.path}: the run has no held-out questions; name data.heldout")
    task = make_task(config, data, recipe_name)
    with base_only(model.decoder):
        before = _answer(model, task, config, watcher, "before")
    after = _answer(model, task, config, watcher, "after")
    if num_questions is None:
        comparison = _compare(config, run, task, before, after)
    else:  # a part never takes the place of the whole
        folder = run.evaluation / f"first-{num_questions}"
        comparison = _write_comparison(config, folder, task, before, after)
    return Outcome(run, _no_training(), comparison, before, after)


def _no_training() -> TrainingSummary:
    return TrainingSummary(0, None, None, None, 0, 0.0)
