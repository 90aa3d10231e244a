"""Where a run's numbers go: always metrics.jsonl, and the trackers asked for beside it."""

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
from thinktune.errors import ConfigError

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
    """Every record of a run's metrics.jsonl, oldest first; empty if there is none."""
    path = folder / METRICS_FILE
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


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
        kept = [r for r in read_metrics(folder) if r["step"] <= resume_step]
        atomic.write_text(
            folder / METRICS_FILE, "".join(json.dumps(record) + "\n" for record in kept)
        )
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


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _start_wandb(folder: Path, name: str, settings: dict[str, object]) -> Any:
    """A W&B run that goes on if the folder has one; offline without a key; never a prompt."""
    try:
        import wandb  # noqa: PLC0415 - optional, slow to import
    except ImportError:
        raise ConfigError(
            "report_to=[wandb] needs the package: pip install 'thinktune[wandb]'"
        ) from None
    remembered = folder / "wandb_run_id"
    if not remembered.is_file():
        atomic.write_text(remembered, secrets.token_hex(4))
    mode = os.environ.get("WANDB_MODE") or ("online" if _has_wandb_key() else "offline")
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
