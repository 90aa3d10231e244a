"""One or two models asked the same questions, one after the other, and what came of it."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from thinktune.answering import answer
from thinktune.config import RunConfig
from thinktune.data.template import TemplateConfig
from thinktune.errors import ConfigError, RunError
from thinktune.evaluation.comparison import compare
from thinktune.evaluation.content import AnsweredSides, Provenance
from thinktune.evaluation.report import write_report
from thinktune.evaluation.samples import Answered
from thinktune.evaluation.scores import summarise
from thinktune.evaluation.task_sources import find_task
from thinktune.evaluation.tasks import EvaluationConfig, Task
from thinktune.evaluation.verdict import AFTER, ALONE, BEFORE, Alone, Evaluation, Results
from thinktune.generation.remote import ServerConfig
from thinktune.loading import Model, load_model
from thinktune.model.adapter_io import CONFIG as ADAPTER_CONFIG
from thinktune.model.adapter_io import WEIGHTS as ADAPTER_WEIGHTS
from thinktune.model.adapter_io import read_adapter, read_adapter_config
from thinktune.model.checkpoint_io import BaseDtype
from thinktune.model.lora import base_only, detach
from thinktune.run_folder import open_run, versions
from thinktune.tracking import Watcher


@dataclass(frozen=True, slots=True)
class Contender:
    """Who answers: a base model, alone or with an adapter."""

    base_model: str
    revision: str | None = None
    base_dtype: BaseDtype = BaseDtype.AUTO
    template: TemplateConfig = field(default_factory=TemplateConfig)
    adapter: Path | None = None

    @property
    def name(self) -> str:
        """The adapter's folder, else the model's name."""
        return self.base_model if self.adapter is None else str(self.adapter)

    @property
    def identity(self) -> dict[str, object]:
        """What tells its adapter from others."""
        if self.adapter is None:
            return {"adapter": None}
        content = (self.adapter / ADAPTER_WEIGHTS).read_bytes()
        return {"adapter": hashlib.sha256(content).hexdigest()[:16]}


def contender_of(config: RunConfig, adapter: Path | None) -> Contender:
    """The base model of a run, with or without an adapter."""
    return Contender(
        config.base_model, config.revision, config.base_dtype, config.template, adapter
    )


def find_contender(
    target: str, adapter: str | None = None, *, base: Contender | None = None
) -> Contender:
    """Who a name on the command line means: a run, an adapter's folder, or a model.

    Args:
        target: what was named.
        adapter: an adapter's folder, for a model.
        base: whose base model an adapter's folder goes with; None for what the adapter names.

    Raises:
        ThinktuneError: an adapter for a run, which has its own; an unfinished run; no adapter.
    """
    path = Path(target).expanduser()
    if (path / "run.json").is_file():
        if adapter is not None:
            raise ConfigError("--adapter goes with a model; a run has its own adapter")
        run, config, _ = open_run(path)
        if not run.adapter.is_dir():
            raise RunError(f"{run.path}: no adapter yet; finish it with `thinktune train --resume`")
        return contender_of(config, run.adapter)
    if (path / ADAPTER_CONFIG).is_file():
        _, identity = read_adapter_config(path)
        made = base or Contender(identity.name, identity.revision)
        return replace(made, adapter=path)
    if adapter is None:
        return Contender(target)
    folder = Path(adapter).expanduser()
    if (folder / "run.json").is_file():
        folder /= "adapter"
    read_adapter_config(folder)
    return Contender(target, adapter=folder)


def further_tasks(config: EvaluationConfig, *, seed: int) -> list[Task]:
    """The tasks that settings name beside the held-out questions."""
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


class Stage:
    """Holds the one model that is loaded, and puts on it what each contender is."""

    def __init__(self, contenders: Sequence[Contender], watcher: Watcher, *, weights: bool) -> None:
        """Load nothing yet.

        Args:
            contenders: all who will answer.
            watcher: who watches.
            weights: False where servers answer, and only templates are needed here.
        """
        self._contenders, self._watcher, self._weights = contenders, watcher, weights
        self._model: Model | None = None
        self._carried: Contender | None = None

    def take(self, contender: Contender) -> Model:
        """The model of a contender; contenders with the same base share its weights.

        A base model alone carries the other's adapter, to be asked with `base_only`, so that
        both answer through the same arithmetic.
        """
        base = replace(contender, adapter=None)
        adapters = [c.adapter for c in self._contenders if replace(c, adapter=None) == base]
        wanted = contender.adapter or next((a for a in reversed(adapters) if a), None)
        carried = self._carried
        if self._model is None or carried is None or replace(carried, adapter=None) != base:
            self._model = None  # frees the memory before the next takes it
            self._model = load_model(
                contender.base_model,
                revision=contender.revision,
                base_dtype=contender.base_dtype,
                template=contender.template,
                watcher=self._watcher,
                weights=self._weights,
            )
            carried = base
        if self._weights and wanted is not None and wanted != carried.adapter:
            detach(self._model.decoder)
            read_adapter(self._model.decoder, wanted)
        self._carried = replace(base, adapter=wanted or carried.adapter)
        return self._model


def conclude(
    folder: Path,
    tasks: Sequence[Task],
    sides: Sequence[Sequence[Sequence[Answered]]],
    config: EvaluationConfig,
    *,
    seed: int,
    models: Sequence[str],
    titles: tuple[str, str],
    command: str,
    facts: Mapping[str, str],
    curves: Mapping[str, object] | None = None,
) -> tuple[Results, dict[str, AnsweredSides]]:
    """Compare the sides, or sum one up, and write the report; then the journals go.

    Args:
        folder: where the report is written.
        tasks: what was asked.
        sides: by side and task, what was answered; one side or two.
        config: how.
        seed: of draws and intervals.
        models: who answered on each side.
        titles: what two sides are called.
        command: repeats it.
        facts: further circumstances.
        curves: of the training, if there was one.
    """
    decoding = {
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_new_tokens": config.max_new_tokens,
        "num_samples": config.num_samples,
    }
    answered: dict[str, AnsweredSides] = {
        task.name: [side[place] for side in sides] for place, task in enumerate(tasks)
    }
    results: Results
    if len(sides) == 1:
        results = Alone(
            tuple(
                summarise(answered[t.name][0], task_name=t.name, purpose=t.purpose, seed=seed)
                for t in tasks
            )
        )
    else:
        results = Evaluation(
            tuple(
                compare(
                    *answered[t.name],
                    task_name=t.name,
                    purpose=t.purpose,
                    decoding=decoding | {"seed": seed},
                    seed=seed,
                    sides=titles,
                )
                for t in tasks
            )
        )
    told = {name: str(value) for name, value in decoding.items()}
    provenance = Provenance(
        created=datetime.now(UTC),
        models=tuple(models),
        command=command,
        facts={"seed": str(seed), **told, **facts, **versions()},
    )
    write_report(
        folder, results, answered, provenance, seed=seed, curves=curves, num_shown=config.num_shown
    )
    for task in tasks:
        for key in (BEFORE, AFTER, ALONE):
            _journal(folder, task, key).unlink(missing_ok=True)
    return results, answered


def facts_of(model: Model) -> dict[str, str]:
    """What a reader must know of the machine and the weights to have the same numbers."""
    decoder = model.decoder
    device = torch.cuda.get_device_name(decoder.device) if decoder.device.type == "cuda" else "cpu"
    return {
        "base model": model.base.name,
        "base weights": str(model.base.fingerprint),
        "type of the weights": str(decoder.dtype).removeprefix("torch."),
        "device": device,
        "template": model.template.description,
    }


def evaluate_contenders(
    stage: Stage,
    contenders: Sequence[Contender],
    tasks: Sequence[Task],
    config: EvaluationConfig,
    *,
    seed: int,
    folder: Path,
    command: str,
    watcher: Watcher,
    servers: Sequence[ServerConfig] = (),
    curves: Mapping[str, object] | None = None,
) -> tuple[Results, dict[str, AnsweredSides]]:
    """Ask one or two contenders, and report.

    Args:
        stage: where they are loaded.
        contenders: the one that is compared against first.
        tasks: what both are asked.
        config: how.
        seed: of draws and intervals.
        folder: where the report and the journals of an interrupted evaluation are.
        command: what repeats it.
        watcher: who watches.
        servers: what answers in place of this process, one for each contender; or none.
        curves: of the training, if there was one.
    """
    require_names(tasks)
    keys = (ALONE,) if len(contenders) == 1 else (BEFORE, AFTER)
    sides, facts = [], {}
    for place, (key, contender) in enumerate(zip(keys, contenders, strict=True)):
        model = stage.take(contender)
        facts = facts_of(model)
        alone = contender.adapter is None
        with base_only(model.decoder) if alone else nullcontext():
            side = ask_all(
                model, tasks, config, seed=seed, watcher=watcher,
                who=f"Answers of {contender.name}", folder=folder, key=key,
                identity=contender.identity, server=servers[place] if servers else None,
            )  # fmt: skip
        sides.append(side)
        del model
    return conclude(
        folder, tasks, sides, config, seed=seed, models=[c.name for c in contenders],
        titles=_titles(contenders), command=command, facts=facts, curves=curves,
    )  # fmt: skip


def _titles(contenders: Sequence[Contender]) -> tuple[str, str]:
    first, last = contenders[0], contenders[-1]
    if replace(first, adapter=None) == replace(last, adapter=None) and first.adapter is None:
        return "before", "after"
    names = [Path(c.name).name for c in (first, last)]
    if names[0] == names[1]:
        names = [Path(c.name).parent.name or c.name for c in (first, last)]
    if names[0] == names[1]:
        names = [c.name for c in (first, last)]
    return names[0], names[1]
