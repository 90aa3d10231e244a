"""The folder a run leaves behind: what was asked for, with what, and what came of it."""

import errno
import itertools
import json
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from thinktune import atomic
from thinktune.config import RunConfig, check, to_plain
from thinktune.errors import RunError
from thinktune.paths import user_path
from thinktune.run_table import LOCK_FILE, RUNS

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
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
    path = user_path(output_dir)
    if path.exists() and (not path.is_dir() or any(_content(path))):
        raise RunError(
            f"output_dir: {path} exists already; go on with it by --resume auto, or name another"
        )


def _content(path: Path) -> Iterator[Path]:
    """What is more than the traces of a process that was killed before it began."""
    return (p for p in path.iterdir() if p.name != LOCK_FILE and not p.name.startswith("."))


@contextmanager
def locked(run: RunFolder) -> Iterator[None]:
    """Keep other processes from writing into a run; released however this one ends.

    Where the file system knows no locks (some network mounts), there is none.

    Raises:
        RunError: another process is at work there.
    """
    # Who looks at the lock holds it for a moment.
    lock = FileLock(run.path / LOCK_FILE, timeout=1)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(
            f"{run.path}: another process is at work in this run folder; wait for it, end it, or "
            "name another output_dir"
        ) from None
    except (RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise RunError(
                f"{run.path}: cannot be written ({error.strerror}); name another folder with "
                "output_dir="
            ) from None
    try:
        yield
    finally:
        lock.release()


def new_run_folder(config: RunConfig, recipe_name: str) -> RunFolder:
    """Make the folder of a new run; of runs that start together, each gets its own.

    Raises:
        RunError: ``output_dir`` is taken.
    """
    refuse_taken(config.output_dir)
    if config.output_dir is not None:
        run = RunFolder(user_path(config.output_dir))
        try:
            run.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"output_dir: {run.path} cannot be made ({error.strerror}); name another"
            ) from None
        return run
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in itertools.count(1):
        path = RUNS / f"{recipe_name}-{now}{f'-{number}' if number > 1 else ''}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise RunError(
                f"{path} cannot be made ({error.strerror}); name another folder with output_dir="
            ) from None
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
    except (ValueError, RecursionError) as error:
        raise RunError(f"{run.record}: not valid JSON ({error})") from None
    if not isinstance(content, dict) or "settings" not in content:
        raise RunError(f"{run.record}: holds no settings; not a run's record")
    return content


def open_run(path: str | Path) -> tuple[RunFolder, RunConfig, str]:
    """A run that exists: its folder, settings and recipe name."""
    run = RunFolder(user_path(path))
    content = read_record(run)
    return run, check(content["settings"], where=str(run.record)), str(content.get("recipe", ""))


def run_to_resume(
    config: RunConfig, recipe_name: str, resume: bool | Literal["auto"]
) -> RunFolder | None:
    """The run ``--resume`` means: ``output_dir``, or the newest of this recipe under runs/.

    Args:
        config: every setting.
        recipe_name: names runs under runs/.
        resume: "auto" is content with none, and passes over runs under runs/ that were started
            with other settings; True is not; False wants none.

    Raises:
        RunError: there is none, or its settings are not those of the recipe.
    """
    if not resume:
        return None
    if config.output_dir is not None:
        run = RunFolder(user_path(config.output_dir))
        if resume == "auto" and not run.record.exists():
            return None
    else:
        found = _runs_of(recipe_name)
        if resume == "auto":
            return next((run for run in found if not _changed(run, config)), None)
        if not found:
            raise RunError(
                f"--resume: no run of {recipe_name} under {RUNS}/; name it with output_dir=FOLDER"
            )
        run = found[0]
    if changed := _changed(run, config):
        told = "; ".join(f"{k}: {old} then, {new} now" for k, (old, new) in changed.items())
        raise RunError(f"--resume: {run.path} was started with other settings ({told})")
    return run


def _runs_of(recipe_name: str) -> list[RunFolder]:
    """Runs of a recipe under runs/, the newest first."""
    pattern = re.compile(rf"{re.escape(recipe_name)}-\d{{8}}-\d{{6}}(-\d+)?")
    runs = (RunFolder(path) for path in RUNS.glob("*") if pattern.fullmatch(path.name))
    there = [run for run in runs if run.record.is_file()]
    return sorted(there, key=lambda run: run.record.stat().st_mtime, reverse=True)


def _changed(run: RunFolder, config: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Settings that were others when the run was started, but for where it is and is sent."""
    _, before, _ = open_run(run.path)
    changed = _differences(to_plain(before), to_plain(config))
    for free in ("output_dir", "push_to_hub"):
        changed.pop(free, None)
    return changed


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
