"""Where a run's numbers go: always metrics.jsonl, and the trackers asked for beside it."""

import importlib.util
import json
import math
import netrc
import os
import secrets
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from thinktune import atomic
from thinktune.errors import ConfigError, RunError

METRICS_FILE = "metrics.jsonl"
Metrics = Mapping[str, float | int | str | None]


class Report(StrEnum):
    """A tracker that can stand beside metrics.jsonl."""

    WANDB = "wandb"


@runtime_checkable
class Watcher(Protocol):
    """Whoever watches a run: a live view in the terminal, plain lines, or nobody."""

    def stage(self, title: str, total: int | None = None) -> None:
        """A new thing is being done, in ``total`` parts if that is known."""
        ...

    def advance(self, done: int, numbers: Metrics | None = None) -> None:
        """``done`` parts are finished; ``numbers`` are worth showing."""
        ...

    def say(self, text: str) -> None:
        """Something to know that stays on the screen."""
        ...


class Silence:
    """A watcher that shows nothing."""

    def stage(self, title: str, total: int | None = None) -> None:
        """Ignore it."""

    def advance(self, done: int, numbers: Metrics | None = None) -> None:
        """Ignore it."""

    def say(self, text: str) -> None:
        """Ignore it."""


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Every record of a run's metrics.jsonl, oldest first; empty if there is none.

    Raises:
        RunError: a line is damaged.
    """
    return read_records(folder / METRICS_FILE)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Every record of a file with one for each line; empty if there is none.

    A last line that was cut off, as by a power failure, is left out.

    Raises:
        RunError: another line is damaged.
    """
    if not path.is_file():
        return []
    records = []
    *whole, rest = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(whole, start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise RunError(f"{path} line {number}: damaged ({error}); remove that line") from None
        records.append(record)
    try:
        return [*records, json.loads(rest)]
    except ValueError:
        return records


def keep_records(path: Path, last_step: int) -> None:
    """Drop the records of later steps from a file, which a resumed run will make again."""
    if not path.is_file():
        return
    kept = [record for record in read_records(path) if record["step"] <= last_step]
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in kept]
    atomic.write_text(path, "".join(lines))


def _plain(value: float | int | str | None) -> float | int | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Tracker:
    """Takes a run's numbers; owns metrics.jsonl and the trackers beside it.

    A resumed run keeps the records up to the step it resumes from and drops the rest, which
    will be made again.
    """

    def __init__(
        self,
        folder: Path,
        *,
        report_to: Sequence[Report] = (),
        name: str = "",
        settings: Mapping[str, object] | None = None,
        resume_step: int = 0,
    ) -> None:
        """Open ``folder/metrics.jsonl`` for appending, and every tracker in ``report_to``."""
        folder.mkdir(parents=True, exist_ok=True)
        keep_records(folder / METRICS_FILE, resume_step)
        self._file = (folder / METRICS_FILE).open("a", encoding="utf-8", buffering=1)
        self._wandb = (
            _start_wandb(folder, name, dict(settings or {})) if Report.WANDB in report_to else None
        )

    def log(self, step: int, metrics: Metrics) -> None:
        """Record the numbers of one step."""
        record = {"step": step} | {key: _plain(value) for key, value in metrics.items()}
        self._file.write(json.dumps(record) + "\n")
        if self._wandb is not None:
            self._wandb.log(dict(metrics), step=step)

    def close(self) -> None:
        """Flush and close everything."""
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish()


def require_trackers(report_to: Sequence[Report]) -> None:
    """Refuse a tracker whose package is missing, before a run begins.

    Raises:
        ConfigError: what to install.
    """
    for report in report_to:
        if importlib.util.find_spec(report.value) is None:
            raise ConfigError(
                f"report_to=[{report}] needs the package: pip install 'thinktune[{report}]'"
            )


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _start_wandb(folder: Path, name: str, settings: dict[str, object]) -> Any:
    """A W&B run that goes on if the folder has one; offline without a key; never a prompt."""
    import wandb  # noqa: PLC0415 - optional, slow to import

    remembered = folder / "wandb_run_id"
    if not remembered.is_file():
        atomic.write_text(remembered, secrets.token_hex(4))
    mode = os.environ.get("WANDB_MODE") or ("online" if _has_wandb_key() else "offline")
    try:
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", "thinktune"),
            name=name,
            id=remembered.read_text(encoding="utf-8").strip(),
            resume="allow",
            dir=str(folder),
            mode=mode,  # pyright: ignore[reportArgumentType] - W&B checks the word itself
            config=settings,
            settings=wandb.Settings(silent=True, console="off"),
        )
    except (wandb.Error, ValueError) as error:
        raise ConfigError(
            f"report_to=[wandb]: {error}; WANDB_MODE=offline goes without the server"
        ) from None
