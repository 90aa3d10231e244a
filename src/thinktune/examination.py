"""``thinktune evaluate`` as one value, and carried out: who is asked what, compared with whom."""

import re
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from thinktune.contenders import Contender, Stage, find_contender, titles_of
from thinktune.errors import ConfigError, RunError
from thinktune.evaluating import (
    Circumstances,
    Outcome,
    ask_all,
    conclude,
    curves_of,
    facts_of,
    make_task,
    record_results,
    require_names,
)
from thinktune.evaluation.task_sources import find_task
from thinktune.evaluation.tasks import EvaluationConfig, Task
from thinktune.evaluation.verdict import AFTER, ALONE, BEFORE
from thinktune.generation.remote import ServerConfig
from thinktune.loading import load_data
from thinktune.model.checkpoint_io import BaseDtype
from thinktune.model.lora import base_only
from thinktune.paths import user_path
from thinktune.run_folder import open_run
from thinktune.settings import parse_settings
from thinktune.tracking import Silence, Watcher

HELD_OUT = "heldout"
"""Names a run's own questions, where tasks are named."""


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
    base_dtype: str | None = None
    """How to hold the base; None as in training, or what the hardware suits."""
    output: Path | None = None
    """Where to; None for the run's folder, or evaluations/NAME."""
    servers: tuple[ServerConfig, ...] = ()
    """What answers in place of this process, for the contender compared against first."""
    command: str = "thinktune evaluate"

    @property
    def is_whole(self) -> bool:
        """Whether it asks for what a run itself does at its end, and nothing else."""
        return self == EvaluationRequest(self.target, command=self.command, output=self.output)

    @property
    def name(self) -> str:
        """A folder's name for it, so that a part never takes the place of the whole."""
        parts = [Path(self.target).name]
        if self.adapter:
            parts.append(Path(self.adapter).name)
        if self.against:
            parts += ["against", Path(self.against).name]
        parts += [Path(task).stem for task in self.tasks]
        parts += [f"{name}-{value}" for name, value in self.settings.items()]
        if self.base_dtype is not None:
            parts.append(self.base_dtype)
        if self.seed is not None:
            parts.append(f"seed-{self.seed}")
        return re.sub(r"[^A-Za-z0-9.+-]+", "-", "-".join(parts)).strip("-.")[:120]


def evaluate(request: EvaluationRequest, watcher: Watcher | None = None) -> Outcome:
    """Ask one or two models, or adapters, the same questions, and report.

    An evaluation that was interrupted goes on where it was, if the same is asked again.

    Raises:
        ThinktuneError: what cannot be found, does not go together, or has no questions.
    """
    watcher = watcher or Silence()
    contenders = _contenders(request)
    servers = request.servers
    if servers and len(servers) != len(contenders):
        raise ConfigError(
            f"{len(contenders)} models answer, so name {len(contenders)} with --server-model"
        )
    stage = Stage(contenders, watcher, weights=not servers)
    is_run = (user_path(request.target) / "run.json").is_file()
    run, config, _ = open_run(request.target) if is_run else (None, None, "")
    base = config.evaluation if config else EvaluationConfig()
    settings = parse_settings(EvaluationConfig, base.model_dump() | request.settings)
    seed = request.seed if request.seed is not None else config.seed if config else 0
    tasks = _tasks(request, settings, seed, stage, contenders[-1], watcher)
    is_whole = request.is_whole and run is not None
    above = run.evaluation if run else Path("evaluations")
    folder = request.output or (above if is_whole else above / request.name)
    keys = (ALONE,) if len(contenders) == 1 else (BEFORE, AFTER)
    sides, facts = [], {}
    for place, (key, contender) in enumerate(zip(keys, contenders, strict=True)):
        model = stage.take(contender)
        facts = facts_of(model)
        with base_only(model.decoder) if contender.adapter is None else nullcontext():
            side = ask_all(
                model, tasks, settings, seed=seed, watcher=watcher,
                who=f"Answers of {contender.name}", folder=folder, key=key,
                identity=contender.identity, server=servers[place] if servers else None,
            )  # fmt: skip
        sides.append(side)
        del model  # its memory is free for the next
    circumstances = Circumstances(
        [contender.name for contender in contenders], titles_of(contenders), request.command,
        facts, curves_of(run) if run else None,
    )  # fmt: skip
    results, answered = conclude(
        folder, tasks, sides, settings, circumstances, seed=seed, watcher=watcher
    )
    if run is not None and is_whole and request.output is None:
        record_results(run, results)
    return Outcome(run.path if run else folder, folder / "report.html", results, answered)


def _contenders(request: EvaluationRequest) -> list[Contender]:
    last = find_contender(request.target, request.adapter)
    if request.base_dtype is not None:
        last = replace(last, base_dtype=_dtype(request.base_dtype))
    base = replace(last, adapter=None)
    if request.against is not None:
        first = find_contender(request.against, base=base)
        if request.base_dtype is not None:
            first = replace(first, base_dtype=last.base_dtype)
        return [first, last]
    return [base, last] if last.adapter is not None else [last]


def _dtype(name: str) -> BaseDtype:
    try:
        return BaseDtype(name)
    except ValueError:
        raise ConfigError(f"--base-dtype: {name!r} is none of {', '.join(BaseDtype)}") from None


def _tasks(
    request: EvaluationRequest,
    settings: EvaluationConfig,
    seed: int,
    stage: Stage,
    last: Contender,
    watcher: Watcher,
) -> list[Task]:
    is_run = (user_path(request.target) / "run.json").is_file()
    specs = request.tasks or ((HELD_OUT, *settings.tasks) if is_run else ())
    if not specs:
        raise ConfigError(
            f"{request.target}: no run.json; not a run folder, so name what is asked with --task: "
            "retention, a data file, ..."
        )
    tasks = []
    for spec in specs:
        if spec != HELD_OUT:
            tasks.append(find_task(spec, settings, seed=seed))
            continue
        if not is_run:
            raise ConfigError("--task heldout goes with a run; name a data file")
        run, config, recipe_name = open_run(request.target)
        config = config.model_copy(update={"evaluation": settings})
        model = stage.take(last)
        data = load_data(config, model.template, model.context, watcher)
        if not data.heldout:
            raise RunError(f"{run.path}: the run has no held-out questions; name --task")
        tasks.append(make_task(config, data, recipe_name))
    require_names(tasks)
    return tasks
