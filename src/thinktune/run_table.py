"""Runs as a table has them: found in folders, each summed up without reading all it wrote."""

import fcntl
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from thinktune.errors import RunError
from thinktune.metric_curves import (
    HELDOUT_LOSS,
    TRAIN_LOSS,
    find_last,
    number_in,
    read_end,
    sample_losses,
)
from thinktune.tracking import METRICS_FILE
from thinktune.training.schedule import TrainingConfig, plan_steps

RUNS = Path("runs")
"""Where runs are unless told otherwise."""
RECORD_FILE, LOCK_FILE = "run.json", "run.lock"
_MARKS = (RECORD_FILE, METRICS_FILE, LOCK_FILE)
"""A folder with one of them is a run's."""
SIDES = ("before", "after", "alone")
"""Of an evaluation, as comparison.json has them."""


class RunState(StrEnum):
    """How far a run has come, and whether it goes on."""

    RUNNING = "running"
    """A process holds its lock."""
    INTERRUPTED = "interrupted"
    """None does, and there is more to do: ``--resume`` goes on."""
    FINISHED = "finished"
    FAILED = "failed"
    """It ended with an error, which run.json has."""
    DAMAGED = "damaged"
    """run.json cannot be read, so little is known."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run summed up; None and "" stand for what is not known, or not yet."""

    path: Path
    state: RunState
    started: datetime
    """When its record was made; without one, when its folder changed last."""
    problems: tuple[str, ...] = ()
    """What is wrong with its files, or what it failed with."""
    recipe: str = ""
    base_model: str = ""
    steps_done: int = 0
    num_steps: int | None = None
    """Planned."""
    loss: float | None = None
    heldout_loss: float | None = None
    tokens_per_second: float | None = None
    """Of all steps if they are done, else of recent ones."""
    outcome: str = ""
    """better, worse or cannot tell, if it was evaluated."""
    verdict: str = ""
    pass_at_1: Mapping[str, float] = field(default_factory=dict)
    """On the first task, by side: before and after."""
    losses: tuple[float, ...] = ()
    """Training losses along the run, or means of some."""

    @property
    def name(self) -> str:
        """Its folder's name."""
        return self.path.name if self.path.name not in ("", "..") else self.path.resolve().name

    def to_plain(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        return plain | {"path": str(self.path), "started": self.started.isoformat()}


def is_held(folder: Path) -> bool:
    """Whether a process works on this run now; nothing is waited for, and nothing written."""
    try:
        with (folder / LOCK_FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock, or a file system without them
        return False
    return False


def is_run(folder: Path) -> bool:
    """Whether a folder is, or was to be, a run's."""
    return any((folder / mark).is_file() for mark in _MARKS)


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The run folders among ``folders`` and directly in them, each once.

    Raises:
        RunError: a folder is none, or has no run.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise RunError(
                f"{folder}: no such folder; `thinktune train RECIPE` puts a run into runs/"
            )
        inner = (path for path in folder.iterdir() if path.is_dir())
        runs = [folder] if is_run(folder) else [path for path in inner if is_run(path)]
        if not runs:
            raise RunError(f"{folder}: neither a run nor a folder with runs")
        for path in runs:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Every run that ``find_runs`` finds, newest first.

    Raises:
        RunError: as ``find_runs``; damaged runs are among the result, with what is wrong.
    """
    runs = [read_run(path) for path in find_runs(folders)]
    return sorted(runs, key=lambda run: (run.started, run.name), reverse=True)


def read_run(folder: Path) -> Run:
    """Sum up one run: its record, its evaluation, the end of its metrics and some of the rest."""
    held = is_held(folder)
    try:
        record = read_record(folder)
    except RunError as error:
        is_new = held and not (folder / RECORD_FILE).exists()
        state = RunState.RUNNING if is_new else RunState.DAMAGED
        record, problems = {}, () if is_new else (str(error),)
    else:
        state, problems = _state(folder, record, held)
    training = _inside(record, "training")
    facts: dict[str, Any] = {
        "recipe": _text(record.get("recipe")),
        "base_model": _text(_inside(record, "settings").get("base_model")),
        "steps_done": int(number_in(training.get("num_steps")) or 0),
        "num_steps": _num_steps(record),
        "loss": number_in(_inside(training, "last").get("loss")),
        "heldout_loss": number_in(_inside(training, "heldout").get("loss")),
        "tokens_per_second": _overall_speed(training),
    }
    try:
        facts |= _metrics(folder / METRICS_FILE, facts)
    except OSError as error:
        problems += (f"{METRICS_FILE}: {error.strerror}",)
    except RunError as error:
        problems += (str(error),)
    try:
        facts |= _evaluation(folder)
    except RunError as error:
        problems += (str(error),)
    return Run(folder, state, _started(folder, record), problems, **facts)


def _state(folder: Path, record: Mapping[str, Any], held: bool) -> tuple[RunState, tuple[str, ...]]:
    if held:
        return RunState.RUNNING, ()
    if failure := _text(record.get("failure")):
        return RunState.FAILED, (failure,)
    is_answering = "verdict" not in record and any(folder.glob("evaluation/*/*.partial.jsonl"))
    if "training" in record and not is_answering:
        return RunState.FINISHED, ()
    return RunState.INTERRUPTED, ()


def _started(folder: Path, record: Mapping[str, Any]) -> datetime:
    try:
        started = datetime.fromisoformat(_text(record.get("created")))
    except ValueError:
        return datetime.fromtimestamp(folder.stat().st_mtime, UTC)
    return started if started.tzinfo else started.replace(tzinfo=UTC)


def _num_steps(record: Mapping[str, Any]) -> int | None:
    given = _inside(_inside(record, "settings"), "training")
    names = ("max_steps", "num_train_epochs", "batch_size")
    num_train = number_in(_inside(record, "data").get("num_train"))
    try:
        config = TrainingConfig(**{name: given[name] for name in names if name in given})
    except ValueError:
        return None
    if num_train is None and config.max_steps is None:
        return None
    return plan_steps(config, int(num_train or 0))


def _overall_speed(training: Mapping[str, Any]) -> float | None:
    tokens = number_in(training.get("num_tokens"))
    seconds = number_in(training.get("train_seconds"))
    return tokens / seconds if tokens and seconds else None


def _metrics(path: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    if not path.exists():
        if known["steps_done"]:
            raise RunError(f"no {METRICS_FILE}")
        return {}
    end = read_end(path)
    if end.num_damaged:
        raise RunError(f"{METRICS_FILE}: a line near its end is damaged")
    heldout = known["heldout_loss"] or number_in(end.newest.get(HELDOUT_LOSS))
    told: dict[str, Any] = {
        "losses": tuple(sample_losses(path)),
        "heldout_loss": heldout or find_last(path, HELDOUT_LOSS),
        "tokens_per_second": known["tokens_per_second"] or end.tokens_per_second,
    }
    if end.train:
        told |= {"steps_done": max(end.train), "loss": number_in(end.newest[TRAIN_LOSS])}
    return told


def _evaluation(folder: Path) -> dict[str, Any]:
    results = read_comparison(folder)
    told: dict[str, Any] = {name: _text(results.get(name)) for name in ("outcome", "verdict")}
    for name, task in _inside(results, "tasks").items():
        metric = _inside(_inside(task, "metrics"), f"evaluation/{name}/pass_at_1")
        means = {side: number_in(_inside(metric, side).get("mean")) for side in SIDES}
        told["pass_at_1"] = {side: mean for side, mean in means.items() if mean is not None}
        break  # the run's own questions come first
    return told


def read_record(folder: Path) -> dict[str, Any]:
    """What a run's run.json holds, without checking its settings.

    Raises:
        RunError: it is missing or damaged.
    """
    record = _read_json(folder / RECORD_FILE)
    if not isinstance(record.get("settings"), dict):
        raise RunError(f"{RECORD_FILE} holds no settings")
    return record


def read_comparison(folder: Path) -> dict[str, Any]:
    """What a run's evaluation/comparison.json holds; empty before it was evaluated.

    Raises:
        RunError: it is damaged.
    """
    path = folder / "evaluation" / "comparison.json"
    return _read_json(path) if path.exists() else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"no {path.name}") from None
    except OSError as error:
        raise RunError(f"{path.name}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path.name}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise RunError(f"{path.name}: not a JSON object")
    return content


def _inside(value: object, key: str) -> Mapping[str, Any]:
    """The group called ``key``; empty if there is none, whatever stands in its place."""
    inner = value.get(key) if isinstance(value, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
