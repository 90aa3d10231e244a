"""The folder a run leaves behind: what was asked for, with what, and what came of it."""

import itertools
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from thinktune import atomic
from thinktune.config import RunConfig, check, to_plain
from thinktune.errors import RunError

RUNS = Path("runs")
_PACKAGES = ("thinktune", "torch", "transformers", "safetensors", "huggingface_hub", "datasets")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where each part of a run is."""

    path: Path

    @property
    def record(self) -> Path:
        """Settings, versions, seed and data of the run."""
        return self.path / "run.json"

    @property
    def checkpoints(self) -> Path:
        """States to resume from."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The trained adapter, in PEFT's format."""
        return self.path / "adapter"

    @property
    def evaluation(self) -> Path:
        """Prompts, completions and the comparison."""
        return self.path / "evaluation"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def refuse_taken(output_dir: str | None) -> None:
    """Say early that a new run cannot have its folder; nothing is written.

    Raises:
        RunError: ``output_dir`` is taken.
    """
    if output_dir is None:
        return
    path = Path(output_dir).expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(
            f"output_dir: {path} exists already; go on with it by --resume, or name another"
        )


def new_run_folder(config: RunConfig, recipe_name: str) -> RunFolder:
    """Make the folder of a new run; of runs that start together, each gets its own.

    Raises:
        RunError: ``output_dir`` is taken.
    """
    refuse_taken(config.output_dir)
    if config.output_dir is not None:
        run = RunFolder(Path(config.output_dir).expanduser())
        run.path.mkdir(parents=True, exist_ok=True)
        return run
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in itertools.count(1):
        path = RUNS / f"{recipe_name}-{now}{f'-{number}' if number > 1 else ''}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return RunFolder(path)
    raise AssertionError("unreachable")


def require_same(run: RunFolder, facts: Mapping[str, Any]) -> None:
    """Refuse to go on with a run whose base weights or data are others by now.

    Raises:
        RunError: says which.
    """
    before = read_record(run)
    for name in ("base", "data"):
        old, new = before.get(name), json.loads(json.dumps(facts[name]))
        if changed := _differences(old, new) if isinstance(old, dict) else {}:
            told = "; ".join(f"{k}: {a} then, {b} now" for k, (a, b) in changed.items())
            raise RunError(f"--resume: {run.path} was started with another {name} ({told:.300})")


def write_record(
    run: RunFolder, config: RunConfig, recipe_name: str, facts: Mapping[str, Any]
) -> None:
    """Write run.json, and with it make the folder a run folder."""
    content = {
        "recipe": recipe_name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": config.seed,
        "settings": to_plain(config),
        "versions": versions(),
        "platform": platform.platform(),
        **facts,
    }
    atomic.write_text(run.record, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def update_record(run: RunFolder, facts: Mapping[str, Any]) -> None:
    """Add to run.json what is known only later."""
    content = read_record(run) | dict(facts)
    atomic.write_text(run.record, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_record(run: RunFolder) -> dict[str, Any]:
    """The content of run.json.

    Raises:
        RunError: the folder is not a run's, or run.json is damaged.
    """
    try:
        content = json.loads(run.record.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{run.path}: no run.json; not a run folder") from None
    except ValueError as error:
        raise RunError(f"{run.record}: not valid JSON ({error})") from None
    if not isinstance(content, dict) or "settings" not in content:
        raise RunError(f"{run.record}: holds no settings; not a run's record")
    return content


def open_run(path: str | Path) -> tuple[RunFolder, RunConfig, str]:
    """A run that exists: its folder, settings and recipe name."""
    run = RunFolder(Path(path).expanduser())
    content = read_record(run)
    return run, check(content["settings"], where=str(run.record)), str(content.get("recipe", ""))


def run_to_resume(config: RunConfig, recipe_name: str) -> RunFolder:
    """The run ``--resume`` means: ``output_dir``, or the newest of this recipe under runs/.

    Raises:
        RunError: there is none, or its settings are not those of the recipe.
    """
    if config.output_dir is not None:
        run = RunFolder(Path(config.output_dir).expanduser())
    else:
        pattern = re.compile(rf"{re.escape(recipe_name)}-\d{{8}}-\d{{6}}(-\d+)?")
        found = sorted(
            (p for p in RUNS.glob("*") if pattern.fullmatch(p.name) and (p / "run.json").is_file()),
            key=lambda p: (p / "run.json").stat().st_mtime,
        )
        if not found:
            raise RunError(
                f"--resume: no run of {recipe_name} under {RUNS}/; name it with output_dir=FOLDER"
            )
        run = RunFolder(found[-1])
    _, before, _ = open_run(run.path)
    changed = _differences(to_plain(before), to_plain(config))
    changed.pop("output_dir", None)
    if changed:
        told = "; ".join(f"{k}: {old} then, {new} now" for k, (old, new) in changed.items())
        raise RunError(f"--resume: {run.path} was started with other settings ({told})")
    return run


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    changed: dict[str, tuple[Any, Any]] = {}
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changed |= _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            changed[f"{prefix}{key}"] = (before, after)
    return changed
