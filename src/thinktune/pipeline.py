"""The Python API: one function a stage, from a recipe to a comparison."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from thinktune.atomic import folder_aside
from thinktune.config import RunConfig
from thinktune.data.contract import require_contract
from thinktune.data.example import Example
from thinktune.data.loader import segment_weights
from thinktune.data.segments import RenderedSet
from thinktune.data.sources import read_heldout, read_train
from thinktune.data.template import Template, TemplateConfig, render_all
from thinktune.errors import RunError
from thinktune.evaluation.comparison import Comparison, compare
from thinktune.evaluation.report import write_comparison
from thinktune.evaluation.samples import Graded, Sample
from thinktune.evaluation.scores import grade_samples, summarise, to_metrics
from thinktune.evaluation.tasks import EvaluationConfig, Task, task_from_examples
from thinktune.generation import Completion, GenerationConfig, Stop, generate
from thinktune.memory_allocator import keep_freed_memory
from thinktune.model.adapter_io import BaseIdentity, read_adapter, write_adapter
from thinktune.model.checkpoint_io import (
    BaseDtype,
    find_checkpoint,
    fingerprint,
    load_decoder,
    load_tokenizer,
    resolve_dtype,
)
from thinktune.model.decoder import Decoder
from thinktune.model.lora import attach, base_only
from thinktune.run_folder import (
    RunFolder,
    new_run_folder,
    open_run,
    run_to_resume,
    update_record,
    write_record,
)
from thinktune.tracking import Silence, Tracker, Watcher
from thinktune.training.checkpoints import CheckpointFolder
from thinktune.training.loop import TrainingData, TrainingSummary, train


@dataclass(frozen=True, slots=True)
class Model:
    """A base model, ready to be asked or trained."""

    decoder: Decoder
    tokenizer: PreTrainedTokenizerBase
    template: Template
    base: BaseIdentity


@dataclass(frozen=True, slots=True)
class Data:
    """A run's records, read and rendered."""

    train: list[Example]
    heldout: list[Example]
    train_rows: RenderedSet
    heldout_rows: RenderedSet


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the main job leaves."""

    run: RunFolder
    training: TrainingSummary
    comparison: Comparison | None
    before: list[Graded]
    after: list[Graded]


def pick_device() -> torch.device:
    """The first CUDA device, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(
    base_model: str,
    *,
    revision: str | None = None,
    base_dtype: BaseDtype = BaseDtype.AUTO,
    template: TemplateConfig | None = None,
    watcher: Watcher | None = None,
) -> Model:
    """Find, check and load a base model.

    Raises:
        CheckpointError: it is not there, damaged or unsupported.
        TemplateError: its tokenizer breaks the template contract.
        ConfigError: this build cannot run the asked type.
    """
    watcher = watcher or Silence()
    device = pick_device()
    dtype = resolve_dtype(base_dtype, device)
    watcher.stage(f"Loading {base_model}")
    folder = find_checkpoint(base_model, revision)
    tokenizer = load_tokenizer(folder)
    template = template or TemplateConfig()
    require_contract(tokenizer, template)
    if device.type == "cpu":
        keep_freed_memory()
    decoder = load_decoder(folder, dtype=dtype, device=device)
    base = BaseIdentity(base_model, revision, fingerprint(decoder))
    return Model(decoder, tokenizer, Template.from_tokenizer(tokenizer, template), base)


def load_run_model(path: str | Path, watcher: Watcher | None = None) -> tuple[Model, RunConfig]:
    """The base model of a finished run with the run's adapter attached."""
    run, config, _ = open_run(path)
    if not run.adapter.is_dir():
        raise RunError(f"{run.path}: no adapter yet; finish it with `thinktune train --resume`")
    model = load_config_model(config, watcher)
    read_adapter(model.decoder, run.adapter)
    return model, config


def load_config_model(config: RunConfig, watcher: Watcher | None = None) -> Model:
    """The base model a run's settings name."""
    return load_model(
        config.base_model,
        revision=config.revision,
        base_dtype=config.base_dtype,
        template=config.template,
        watcher=watcher,
    )


def load_data(config: RunConfig, template: Template, watcher: Watcher) -> Data:
    """Read and render a run's records; every row the length limit touched is named."""
    watcher.stage(f"Reading {config.data.train}")
    train_examples = read_train(config.data)
    heldout = read_heldout(config.data)
    limit = config.packing.max_tokens
    train_rows = render_all(template, train_examples, limit)
    # Held-out questions may come without reasoning or answer: asked, but no loss to measure.
    whole = [e for e in heldout if e.reasoning.strip() and e.answer.strip()]
    heldout_rows = render_all(template, whole, limit)
    for name, rows in (("training", train_rows), ("held-out", heldout_rows)):
        _tell_limits(rows, name, limit, watcher)
    if not heldout:
        watcher.say("No held-out questions (data.heldout_split is null): nothing is compared.")
    return Data(train_examples, heldout, train_rows, heldout_rows)


def _tell_limits(rows: RenderedSet, name: str, limit: int, watcher: Watcher) -> None:
    for what, touched in (("dropped", rows.dropped), ("shortened", rows.shortened)):
        if touched:
            told = "; ".join(f"{where} ({detail})" for where, detail in touched)
            watcher.say(f"{len(touched)} {name} rows {what} (limit {limit} tokens): {told}")


def answer(
    model: Model,
    task: Task,
    config: EvaluationConfig,
    *,
    seed: int,
    watcher: Watcher,
    title: str,
) -> list[Graded]:
    """Ask the model every question of a task, as it stands, and grade what it writes."""
    prompts = [
        model.template.render_prompt(p.question, system=p.system, history=p.history)
        for p in task.problems
    ]
    watcher.stage(title, len(prompts))
    started = time.perf_counter()
    num_done = num_tokens = num_closed = 0

    def on_done(index: int, completion: Completion) -> None:
        nonlocal num_done, num_tokens, num_closed
        num_done, num_tokens = num_done + 1, num_tokens + len(completion.tokens)
        num_closed += model.template.parse(completion.text).closed
        watcher.advance(
            num_done,
            {
                "closed": num_closed,
                "tokens_per_second": num_tokens / (time.perf_counter() - started),
            },
        )

    completions = generate(
        model.decoder,
        model.tokenizer,
        prompts,
        GenerationConfig(
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
        ),
        stop_token_ids=model.template.stop_token_ids,
        seed=seed,
        batch_size=config.batch_size,
        on_done=on_done,
    )
    samples = [
        _sample(model, problem.id, prompt, completion)
        for problem, prompt, completion in zip(task.problems, prompts, completions, strict=True)
    ]
    return grade_samples(task, samples)


def _sample(model: Model, problem_id: str, prompt: Sequence[int], completion: Completion) -> Sample:
    parsed = model.template.parse(completion.text)
    return Sample(
        problem_id=problem_id,
        prompt=str(model.tokenizer.decode(list(prompt), skip_special_tokens=False)),
        completion=completion.text,
        reasoning=parsed.reasoning,
        answer=parsed.answer,
        closed=parsed.closed,
        truncated=completion.stop is Stop.TOKEN_LIMIT,
        num_tokens=len(completion.tokens),
    )


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
    run = run_to_resume(config, recipe_name) if resume else new_run_folder(config, recipe_name)
    model = load_config_model(config, watcher)
    data = load_data(config, model.template, watcher)
    task = make_task(config, data, recipe_name) if compare_after and data.heldout else None
    checkpoints = CheckpointFolder(
        run.checkpoints, config.lora, model.base, config.training.save_total_limit
    )
    steps_done = checkpoints.read(model.decoder) if resume else 0
    if not steps_done:
        attach(model.decoder, config.lora, seed=config.seed)
    if not resume:
        write_record(run, config, recipe_name, _facts(model, data))
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


def _answer(
    model: Model, task: Task, config: RunConfig, watcher: Watcher, when: str
) -> list[Graded]:
    who = "the base model" if when == "before" else "the trained adapter"
    title = f"Answering {len(task.problems)} held-out questions with {who}"
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
    update_record(run, {"training": asdict(summary)})
    return summary


def _look(model: Model, config: RunConfig, data: Data, run: RunFolder, step: int) -> None:
    """Write down what the model says to the first held-out questions at this step."""
    asked = data.heldout[: config.evaluation.num_shown]
    completions = generate(
        model.decoder,
        model.tokenizer,
        [
            model.template.render_prompt(e.question, system=e.system, history=e.history)
            for e in asked
        ],
        GenerationConfig(max_new_tokens=config.evaluation.max_new_tokens, temperature=0, top_p=1),
        stop_token_ids=model.template.stop_token_ids,
    )
    with (run.path / "samples.jsonl").open("a", encoding="utf-8") as file:
        for example, completion in zip(asked, completions, strict=True):
            record = {"step": step, "where": example.where, "question": example.question}
            record |= {"completion": completion.text, "stop": completion.stop.value}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _compare(
    config: RunConfig, run: RunFolder, task: Task, before: list[Graded], after: list[Graded]
) -> Comparison:
    settings = config.evaluation
    decoding = {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "max_new_tokens": settings.max_new_tokens,
        "seed": config.seed,
    }
    comparison = compare(before, after, task_name=task.name, decoding=decoding, seed=config.seed)
    write_comparison(run.evaluation, before, after, comparison, num_shown=settings.num_shown)
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
    data = load_data(config, model.template, watcher)
    if not data.heldout:
        raise RunError(f"{run.path}: the run has no held-out questions; name data.heldout")
    task = make_task(config, data, recipe_name)
    with base_only(model.decoder):
        before = _answer(model, task, config, watcher, "before")
    after = _answer(model, task, config, watcher, "after")
    comparison = _compare(config, run, task, before, after)
    return Outcome(run, _no_training(), comparison, before, after)


def _no_training() -> TrainingSummary:
    return TrainingSummary(0, None, None, None, 0, 0.0)
